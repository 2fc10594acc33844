"""Compressed tables, all by one battery: twins, ids of every kind, views, gradients, bytes, files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embed_cases import DIM, INIT, KEEP, PACKED, ROWS, TRAINED, TWINS, table_of
from references import tables as twins

from recjax import artifact, embed
from recjax.embed import lookup

BYTES = {  # the formulas of the docstrings
    "hashed": 4 * 5 * 8,
    "quotient sum": 4 * (5 + 5) * 8,
    "quotient product": 4 * (5 + 5) * 8,
    "quotient concat": 4 * (5 * 5 + 5 * 3),
    "mem com": 4 * (5 * 8 + 22),
    "low rank": 4 * 3 * (22 + 8),
    "tensor train": 4 * (3 * 2 * 3 + 4 * 3 * 2 * 2 + 2 * 2 * 2),
    "learned product": 4 * (22 + 5) * 8,
    "deep hash": 4 * (5 * 6 + 7 * 5 + 6 * 8),
    "robe": 4 * 13,
    "pruned rows": 4 * int(KEEP.sum()) * 8 + 8,
    "mixed dims": 4 * (8 * (4 + 8) + 2 * (18 + 8)),
    "pruned to indexed rows": 22 * (2 + 4 * 3),  # three positions of 3 bits
    "pruned to indexed rows, quantized": 22 * (2 + 2 + 2),
    "product quantized": 22 * 1 + 4 * 5 * 8,  # two codes of 3 bits
    "low rank of quantized": 22 * (2 + 2) + 4 * 3 * 8,
    "rows with scale and bias": 22 * (4 + 4),
    "masked": 4 * 22 * 8 + 22,
    "fake quantized": 4 * 22 * 8 + 4,
    "fake quantized, packed": 22 * (3 + 2),
    "learned step": 4 * 22 * 8 + 4 * 22 + 4,
    "learned threshold": 4 * 22 * 8 + 4 * 22,
    "scored": 2 * 4 * 22 * 8 + 22,
    "learned step, packed": 22 * 3 + 2 * 22,
    "bitmap": 22 + 4 + 4 * 40,
    "bitmap of packed": 22 + 4 + 15 + 2 * 22,  # 40 kept of 3 bits
}
IN_TRAINING = ("masked", "fake quantized", "learned step", "learned threshold", "scored")
IDS = np.array([[7, 2, 7, ROWS], [0, 21, 13, -1]], np.int32)  # one twice, two that are nowhere
EVERY = np.array([*range(-3, ROWS + 3), 2**31 - 1, -(2**31)], np.int32)
HELD = (IDS >= 0) & (IDS < ROWS)
LOOKUP = jax.jit(lookup)
WEIGHTS = np.random.default_rng(1).normal(size=(*IDS.shape, DIM)).astype(np.float32)


@functools.cache
def whole(kind):
    return np.asarray(LOOKUP(table_of(kind)))


def by_id(kind, ids):
    held = (ids >= 0) & (ids < ROWS)
    return np.where(held[..., None], whole(kind)[np.where(held, ids, 0)], np.nan)


@pytest.mark.parametrize("kind", list(INIT))
def test_every_row_is_the_twins(kind):
    twin = TWINS[kind](jax.tree.map(np.asarray, table_of(kind)))
    np.testing.assert_allclose(whole(kind), twin, atol=2e-6, rtol=2e-5)


def test_the_rows_that_are_left_are_those_that_were_to_be_kept():
    np.testing.assert_array_equal(whole("pruned rows"), twins.pruned_rows(TRAINED, KEEP))


@pytest.mark.parametrize("kind", list(INIT | PACKED))
def test_rows_by_id_are_rows_of_the_whole_and_nan_outside(kind):
    table = table_of(kind)
    assert whole(kind).shape == table.shape == (ROWS, DIM)

    np.testing.assert_allclose(LOOKUP(table, EVERY), by_id(kind, EVERY), atol=1e-6)
    assert jax.eval_shape(lookup, table, jnp.zeros((0,), jnp.int32)).shape == (0, DIM)


@jax.jit
def viewed(table):
    """What the view of what a batch touches reads as."""
    return lookup(embed.view(table, embed.touched(table, IDS)), IDS)


@jax.jit
def differentiated(table):
    """What a batch touches, what the view of that reads as, and the gradients with respect to table and view."""
    places = embed.touched(table, IDS)
    view = embed.view(table, places)
    pull = jax.grad(lambda t: jnp.nansum(lookup(t, IDS) * WEIGHTS), allow_int=True)
    return places, lookup(view, IDS), pull(table), pull(view)


@pytest.mark.parametrize("kind", list(PACKED))
def test_a_view_of_what_a_batch_touches_reads_as_the_whole(kind):
    np.testing.assert_allclose(viewed(table_of(kind)), by_id(kind, IDS), atol=1e-6)


def is_float(leaf):
    return leaf.dtype == np.float32


@pytest.mark.parametrize("kind", list(INIT))
def test_a_view_reads_as_the_whole_and_its_gradient_is_the_tables_and_that_of_finite_differences(kind):
    table = table_of(kind)
    places, read, dense, few = differentiated(table)
    np.testing.assert_allclose(read, by_id(kind, IDS), atol=1e-6)

    def same(ids, whole, part):
        if whole.dtype == jax.dtypes.float0:
            return
        assert np.isfinite(whole).all()  # also where an id is nowhere
        if ids is None:
            np.testing.assert_allclose(part, whole, atol=1e-5)
            return
        held = np.asarray(ids) < whole.shape[0]
        np.testing.assert_allclose(part.values[held], whole[ids[held]], atol=1e-5)
        rest = np.setdiff1d(np.arange(whole.shape[0]), ids)
        np.testing.assert_array_equal(whole[rest], 0)  # no row is moved that wasn't said to be touched

    jax.tree.map(same, places, dense, few, is_leaf=lambda x: x is None)
    if kind == "learned product":
        return  # straight through, which no difference shows
    rng = np.random.default_rng(5)
    ways = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) if is_float(leaf) else np.zeros(leaf.shape), table)

    def weighted(step):
        moved = jax.tree.map(lambda leaf, way: np.asarray(leaf, np.float64) + step * way, table, ways)
        return (TWINS[kind](moved)[np.where(HELD, IDS, 0)] * WEIGHTS)[HELD].sum()

    slope = (weighted(1e-5) - weighted(-1e-5)) / 2e-5
    terms = jax.tree.map(lambda g, way: np.vdot(g, way) if is_float(g) else 0.0, dense, ways)
    np.testing.assert_allclose(sum(jax.tree.leaves(terms)), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(BYTES))
def test_bytes_are_those_of_the_formula(kind):
    assert table_of(kind).nbytes == BYTES[kind]


@pytest.mark.parametrize("kind", [*INIT, *PACKED, *IN_TRAINING])
def test_the_file_takes_those_bytes_and_reads_back_the_same(kind, tmp_path):
    table = table_of(kind)
    path = tmp_path / "weights.safetensors"
    size = artifact.save_params(path, {"tables": {"item": table}})
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0
    assert path.stat().st_size == size == header + table.nbytes
    loaded = artifact.load_params(path)["tables"]["item"]
    assert jax.tree.structure(loaded) == jax.tree.structure(table)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(table), strict=True):
        assert one.dtype == other.dtype
    np.testing.assert_array_equal(LOOKUP(loaded), whole(kind))
    np.testing.assert_array_equal(LOOKUP(loaded, EVERY), LOOKUP(table, EVERY))
