"""Every table under ids of every integer type, padding, and shapes of one row, one column and no rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embed_cases import AT_REST, DIM, INIT, PACKED, ROWS, TRAINED, table_of
from programs import Programs
from references import tables as twins

import recjax
from recjax import embed
from recjax.embed import lookup

quantize = Programs(recjax.quantize)

X = jnp.asarray(TRAINED)
SHARED = {  # one row of steps or thresholds for all rows
    "learned step, shared": lambda: embed.LearnedStep(X, jnp.full((1, 1), 0.25), jnp.float32(3)),
    "learned threshold, shared": lambda: embed.LearnedThreshold(X, jnp.zeros((1, 1))),
    "learned threshold a dimension": lambda: embed.LearnedThreshold(X, jnp.zeros((1, DIM))),
}
TRAINS = ["masked", "fake quantized", "learned step", "learned threshold", "scored", *SHARED, *INIT]
KINDS = [kind for kind in (*INIT, *PACKED, *AT_REST) if not kind.startswith("bitmap")]


def table(kind):
    return SHARED[kind]() if kind in SHARED else table_of(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_every_integer_type_read_the_same_rows(kind):
    held = np.array([7, 0, ROWS - 1, ROWS], np.int32)
    rows = lookup(table(kind), held)
    assert np.isnan(rows[3]).all()
    assert np.isfinite(rows[:3]).all()
    for dtype in (np.int8, np.uint8, np.uint32, np.int64, np.uint64):
        ids = held.astype(dtype)
        ids[3] = min(np.iinfo(dtype).max, 2**32)  # which must not wrap to row 0
        np.testing.assert_array_equal(lookup(table(kind), ids), rows, err_msg=str(dtype))
        found = embed.touched(table(kind), ids)
        jax.tree.map(np.testing.assert_array_equal, found, embed.touched(table(kind), held))
    with pytest.raises(TypeError, match="ids: expected int, got float32"):
        lookup(table(kind), held.astype(np.float32))


def squares(table, ids):
    held = (ids >= 0) & (ids < ROWS)
    return jnp.sum(jnp.where(held[..., None], jnp.square(lookup(table, ids)), 0))


GRADIENT = jax.jit(jax.grad(squares, allow_int=True))


@pytest.mark.parametrize("kind", TRAINS)
def test_padding_that_is_masked_later_leaves_gradients_alone(kind):
    padded, alone = np.array([3, -1, 21, ROWS, 2**31 - 1, 3], np.int32), np.array([3, 21, 3, 3, 3, 3], np.int32)
    found = GRADIENT(table(kind), padded)
    once, thrice = GRADIENT(table(kind), alone), GRADIENT(table(kind), np.full(6, 3, np.int32))

    def same(found, once, thrice):  # 3, 21 and 3 of four times 3 and 21: two thirds of a six-fold 3 too many
        if found.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(found, once - thrice / 2, rtol=1e-4, atol=1e-5)

    if "shared" in kind or "a dimension" in kind or kind == "learned step":  # a step's gradient depends on the batch
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found) if leaf.dtype != jax.dtypes.float0)
    else:
        jax.tree.map(same, found, once, thrice)


def test_padding_leaves_thresholds_and_books_alone():
    padded, alone = np.array([3, -1, 21, ROWS], np.int32), np.array([3, 21], np.int32)
    logits = [jax.grad(squares)(table("learned threshold, shared"), ids).logits for ids in (padded, alone)]
    np.testing.assert_allclose(*logits, rtol=1e-6)
    assert logits[1] != 0
    of_padded, of_alone = (
        jax.grad(lambda t, ids=ids: jnp.nansum(t.commitment(ids)))(table("learned product")).books
        for ids in (padded, alone)
    )
    np.testing.assert_allclose(of_padded, of_alone, rtol=1e-6)


@jax.jit
def small(x):
    """Records of a few rows or columns, of the arrays of which nothing else is known."""
    rows, dim = x.shape
    fitted = (
        {}
        if rows == 0
        else {
            "hashed": embed.fit_hashed(x, buckets=1),
            "quotient sum": embed.fit_quotient_sum(x, buckets=1),
            "quotient product": embed.fit_quotient_product(x, buckets=1),
            "quotient concat": embed.fit_quotient_concat(x, buckets=1, width=0),
            "mem com": embed.fit_mem_com(x, buckets=1),
            "learned product": embed.fit_learned_product(jax.random.key(0), x, parts=1, codes=1),
        }
    )
    return fitted | {
        "array": x,
        "masked": embed.Masked(x, x != 99),
        "fake quantized": embed.FakeQuantized(x, jnp.float32(2)),
        "4 bits": embed.quantized(x, bits=4),
        "with a bias": quantize.quantize_rows(x, bits=4),
        "learned step": embed.LearnedStep(x, jnp.full((1, 1), 0.25), jnp.float32(2)),
        "learned threshold": embed.LearnedThreshold(x, jnp.full((rows, 1), -2.0)),
        "scored": embed.Scored(x, jnp.zeros_like(x), x != 99),
        "low rank": embed.fit_low_rank(x, rank=1),
        "tensor train": embed.fit_tensor_train(x, rows=(max(rows, 1), 1, 1), dims=(1, 1, dim), ranks=(1, 1)),
        "robe": embed.fit_robe(x, size=2, block=1),
        "mixed dims": embed.fit_mixed_dims(x, (rows,), widths=(1,)),
    }


FEW = np.array([0, -1, 5], np.int32)


@jax.jit
def read(tables):
    """Of every table the whole, some rows, and those of the view."""

    def one(table):
        few = embed.view(table, embed.touched(table, FEW))
        return lookup(table), lookup(table, FEW), lookup(few, FEW), lookup(table, FEW[:0])

    return {kind: one(table) for kind, table in tables.items()}


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (0, 3)])
def test_tables_of_one_row_one_column_no_rows_and_zeros(shape):
    held = np.isin(FEW, np.arange(shape[0]))
    for value in (0.0, 1.5):
        x = jnp.full(shape, value)
        assert (lookup(embed.quantized(x, bits=1)) == value).all()
        for kind, (whole, rows, viewed, nothing) in read(small(x)).items():
            assert whole.shape == shape, kind
            assert nothing.shape == (0, shape[1]), kind
            assert np.isfinite(whole).all(), kind
            assert np.isnan(rows[~held]).all(), kind
            np.testing.assert_allclose(rows[held], np.asarray(whole)[FEW[held]], rtol=1e-6, err_msg=kind)
            np.testing.assert_allclose(viewed, rows, rtol=1e-6, err_msg=kind)
            assert value > 0 or (np.asarray(whole) == 0).all(), kind


def test_nearest_codes_are_found_far_from_zero():
    rng = np.random.default_rng(0)
    rows, books = (np.float32(10 + 0.01 * rng.normal(size=shape)) for shape in ((200, 8), (2, 16, 4)))
    read = lookup(embed.LearnedProduct(jnp.asarray(rows), jnp.asarray(books)))
    np.testing.assert_array_equal(read, np.float32(twins.product_quantized(rows, books)))
