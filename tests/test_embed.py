"""The one door to tables, against NumPy indexing and the quantizer's twin (references)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from programs import Programs

import recjax
from recjax.embed import FakeQuantized, Masked, lookup

quantize = Programs(recjax.quantize)

ROWS, DIM = 5, 6
TABLE = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
KEEP = np.random.default_rng(1).random((ROWS, DIM)) < 0.6
KEEP[2] = False  # a row with nothing left
KEEP[3, np.abs(TABLE[3]).argmax()] = False  # a row whose largest entry goes, so that the scale shows what came first

LOOKUP = jax.jit(lookup)
QUANTIZE = jax.jit(lambda table: quantize.quantize(table, bits=4, axis=0))


def record(kind):
    """A table of each make, and what it stands for in NumPy."""
    table, keep, bits = jnp.asarray(TABLE), jnp.asarray(KEEP), jnp.float32(3)
    masked, rounded = np.where(KEEP, TABLE, 0), references.fake_quant(TABLE, bits=3, axis=0)
    packed = QUANTIZE(table)
    stored = references.fake_quant(TABLE, bits=4, axis=0)
    return {
        "array": (table, TABLE),
        "masked": (Masked(table, keep), masked),
        "quantized": (FakeQuantized(table, bits), rounded),
        "pruned then quantized": (
            FakeQuantized(Masked(table, keep), bits),
            references.fake_quant(masked, bits=3, axis=0),
        ),
        "quantized then pruned": (Masked(FakeQuantized(table, bits), keep), np.where(KEEP, rounded, 0)),
        "packed": (packed, stored),
        "packed then pruned": (Masked(packed, keep), np.where(KEEP, stored, 0)),
    }[kind]


KINDS = [
    "array",
    "masked",
    "quantized",
    "pruned then quantized",
    "quantized then pruned",
    "packed",
    "packed then pruned",
]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_table_it_stands_for(kind):
    table, dense = record(kind)
    ids = np.array([[4, 0, 3], [2, 2, 1]], np.int32)
    found = LOOKUP(table, ids)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, dense[ids])
    np.testing.assert_array_equal(LOOKUP(table, np.int32(3)), dense[3])
    every = LOOKUP(table)
    np.testing.assert_array_equal(every, dense)
    np.testing.assert_array_equal(every, LOOKUP(table, np.arange(ROWS, dtype=np.int32)))
    if kind == "array":  # NumPy's own serves too, as from a file
        np.testing.assert_array_equal(lookup(TABLE, ids), dense[ids])
    else:
        assert not np.array_equal(dense, TABLE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_that_is_not_there_gives_nan_and_nothing_else_does(kind):
    table, dense = record(kind)
    ids = np.array([-1, 0, ROWS, 2**31 - 1, -ROWS, -(2**31), ROWS - 1, 2], np.int32)
    found = np.asarray(LOOKUP(table, ids))
    outside = (ids < 0) | (ids >= ROWS)
    assert np.isnan(found[outside]).all()
    np.testing.assert_array_equal(found[~outside], dense[ids[~outside]])


def test_order_of_pruning_and_quantizing_shows():
    one, other = record("pruned then quantized")[1], record("quantized then pruned")[1]
    assert not np.array_equal(one[3], other[3])


@pytest.mark.parametrize("kind", ["array", "masked", "quantized", "pruned then quantized", "quantized then pruned"])
def test_gradient_passes_straight_to_every_entry_of_the_rows_that_were_read(kind):
    table, _ = record(kind)
    ids = np.array([3, 1, 3, ROWS, -1], np.int32)  # one twice, two that are nowhere
    weights = np.random.default_rng(2).normal(size=(len(ids), DIM)).astype(np.float32)

    def read(table):
        found = lookup(table, ids)
        return jnp.sum(jnp.where(jnp.isnan(found), 0, found) * weights)

    grads = jax.tree.leaves(jax.jit(jax.grad(read, allow_int=True))(table))
    dense = next(g for g in grads if g.shape == (ROWS, DIM) and g.dtype == jnp.float32)
    expected = np.zeros((ROWS, DIM), np.float32)
    np.add.at(expected, ids[:3], weights[:3])
    np.testing.assert_array_equal(dense, expected)
    whole = jax.tree.leaves(jax.jit(jax.grad(lambda table: lookup(table).sum(), allow_int=True))(table))
    np.testing.assert_array_equal(whole[0], np.ones((ROWS, DIM)))  # exactly 1, masked entries too
    if kind not in ("array", "masked"):
        bits = [g for g in grads if g.shape == ()]
        assert [float(g) for g in bits] == [0.0]


def test_a_broken_weight_is_seen_through_a_mask():
    broken = jnp.asarray(TABLE).at[1, 2].set(jnp.nan)
    found = np.asarray(LOOKUP(Masked(broken, jnp.zeros_like(broken, bool)), np.array([1, 0], np.int32)))
    assert np.isnan(found[0, 2])
    assert np.isnan(found).sum() == 1


def test_members_by_vmap_equal_members_alone():
    rng = np.random.default_rng(3)
    tables = rng.normal(size=(3, ROWS, DIM)).astype(np.float32)
    keeps, bits = rng.random((3, ROWS, DIM)) < 0.5, np.array([2, 5, 16], np.float32)
    ids = np.array([4, 1, 9], np.int32)
    members = jax.jit(jax.vmap(lookup, in_axes=(0, None)))
    together = members(FakeQuantized(Masked(tables, keeps), bits), ids)
    for table, keep, width, found in zip(tables, keeps, bits, np.asarray(together), strict=True):
        dense = references.fake_quant(np.where(keep, table, 0), bits=int(width), axis=0)
        np.testing.assert_array_equal(found[:2], dense[ids[:2]])
        assert np.isnan(found[2]).all()
    packed = jax.jit(jax.vmap(lambda table: quantize.quantize(table, bits=3, axis=0)))(tables)
    for table, found in zip(tables, members(packed, ids), strict=True):
        np.testing.assert_array_equal(found[:2], references.fake_quant(table, bits=3, axis=0)[ids[:2]])
