"""Bitmap, counts and values against what they were made from, byte for byte."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import toy
from programs import Programs

import recjax
from recjax import embed, prune

quantize = Programs(recjax.quantize)

DENSE = jax.jit(prune.densify)


def table(rows=5, dim=7, zeros=0.6, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, dim)) < zeros, 0, rng.normal(size=(rows, dim))).astype(np.float32)


def packed(x, form, bits):
    if form == "rows":
        return quantize.quantize_rows(x, bits=bits)
    return quantize.quantize(x, bits=bits, axis=0, group_size=3 if form == "groups" else None)


PACKED = jax.jit(packed, static_argnums=(1, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floats_come_back_to_the_bit(dtype):
    x = table().astype(dtype)
    x[0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    sparse = prune.sparsify(x)
    kept = np.count_nonzero(x)
    assert sparse.kept == kept
    assert sparse.nbytes == references.sparse_bytes(x.shape, kept, 8 * x.itemsize)
    np.testing.assert_array_equal(sparse.bitmap, np.packbits(x.ravel() != 0, bitorder="little"))
    np.testing.assert_array_equal(sparse.values, x[x != 0])
    assert sparse.values.dtype == dtype
    toy.same_bits(DENSE(sparse), np.where(x == 0, dtype(0), x))  # -0 is no entry and comes back as 0


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("form", ["plain", "groups", "rows"])
def test_packed_entries_survive_and_the_others_are_zero(form, bits):
    x = table()
    keep = x != 0
    dense = PACKED(x, form, bits)
    sparse = prune.sparsify(dense, keep)
    expected = np.where(keep, quantize.dequantize(dense), np.float32(0))
    toy.same_bits(DENSE(sparse), expected)
    halves = dense.scale.size + (dense.bias.size if form == "rows" else 0)
    assert sparse.nbytes == references.sparse_bytes(x.shape, keep.sum(), bits) + 2 * halves
    patterns = np.asarray(quantize.unpack_bits(dense.words, bits, 7))[keep]
    np.testing.assert_array_equal(sparse.values, references.pack_bits(patterns, bits))


@pytest.mark.parametrize("bits", [1, 3])
def test_a_learned_step_behind_a_mask_is_stored_as_it_was_trained(bits):
    x, step = table(), quantize.usable_step(jnp.full((5, 1), 0.3))
    keep = x > 0
    trained = quantize.learned_step(x, step, bits=bits, where=jnp.asarray(keep))
    packed = quantize.quantize_with(x, step, bits=bits, full_range=True, where=jnp.asarray(keep))
    toy.same_bits(DENSE(prune.sparsify(packed, keep)), trained)
    assert (np.asarray(trained)[~keep] == 0).all()
    if bits > 1:
        toy.same_bits(quantize.dequantize(packed), trained)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_was_pruned_stays_zero_on_a_grid_with_a_zero(bits):
    x = table()
    sparse = prune.sparsify(quantize.quantize(x, bits=bits, axis=0))  # no mask: the zeros say it themselves
    assert sparse.kept <= np.count_nonzero(x)
    toy.same_bits(DENSE(sparse), references.fake_quant(x, bits=bits, axis=0))


@pytest.mark.parametrize(("shape", "zeros"), [((1, 9), 0.5), ((4, 4), 1.0), ((4, 4), 0.0), ((1, 1), 0.0)])
def test_one_row_no_zero_and_nothing_else(shape, zeros):
    x = table(*shape, zeros=zeros)
    for dense in (jnp.asarray(x), quantize.quantize(x, bits=4)):
        sparse = prune.sparsify(dense)
        found = dense if isinstance(dense, jax.Array) else quantize.dequantize(dense)
        toy.same_bits(DENSE(sparse), found)


LOOKUP = jax.jit(embed.lookup)


@pytest.mark.parametrize("form", ["floats", "plain", "groups", "rows"])
def test_a_row_decodes_alone(form):
    """Against the whole, at ids of every kind; against bits read one by one; and with all else of the file changed."""
    rows, dim = 60, 37  # three counts, and rows that begin at any bit of a byte
    x = table(rows, dim)
    x[[0, 30, 59]] = 0
    dense = jnp.asarray(x) if form == "floats" else PACKED(x, form, 3)
    sparse = prune.sparsify(dense, jnp.asarray(x != 0))
    whole = np.asarray(DENSE(sparse))
    ids = np.array([[0, 1, 27, 28], [30, 59, 27, 55]])
    for dtype in (np.int32, np.uint8, np.int64, np.uint64):
        toy.same_bits(LOOKUP(sparse, ids.astype(dtype)), whole[ids])
    np.testing.assert_array_equal(
        LOOKUP(sparse, np.array([-1, 59, 60, 2**31 - 1, -(2**31)]))[np.array([0, 2, 3, 4])], np.nan
    )
    assert LOOKUP(sparse, np.zeros((2, 0), np.int32)).shape == (2, 0, dim)
    rng = np.random.default_rng(1)
    for row in (0, 1, 27, 55, 59):
        patterns, bits, ranks = references.sparse_row(jax.tree.map(np.asarray, sparse), row)
        if form == "floats":
            np.testing.assert_array_equal(patterns, x[row])
        else:
            found = quantize.unpack_bits(dense.words[row], 3, dim)
            assert patterns == [int(p) if kept else None for p, kept in zip(found, x[row] != 0, strict=True)]

        def noise(part, first, last):  # all but the entries from first to last
            part = np.asarray(part)
            inside = (np.arange(len(part)) >= first) & (np.arange(len(part)) < last)
            return jnp.asarray(np.where(inside, part, rng.permutation(part) + 1).astype(part.dtype))

        width = 1 if form == "floats" else 3 / 8
        other = dataclasses.replace(
            sparse,
            bitmap=noise(sparse.bitmap, bits.start // 8, -(-bits.stop // 8)),
            before=noise(sparse.before, bits.start // 1024, bits.start // 1024 + 1),
            values=noise(sparse.values, int(ranks.start * width), int(np.ceil(ranks.stop * width))),
        )
        toy.same_bits(LOOKUP(other, np.array(row)), whole[row])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (1, 9), (4, 1), (3, 2, 5)])
def test_rows_of_tables_of_every_shape(shape):
    x = table(1, int(np.prod(shape)), zeros=0.5).reshape(shape)
    ids = np.array([0, 3, 1])
    expected = np.stack([x[i] if i < shape[0] else np.full(shape[1:], np.nan, np.float32) for i in ids])
    toy.same_bits(embed.lookup(prune.sparsify(x), ids), expected)
    toy.same_bits(
        embed.lookup(prune.sparsify(np.zeros_like(x)), ids),
        np.where(np.isnan(expected), np.float32(np.nan), np.float32(0)),
    )


def test_the_smaller_form():
    x = table(8, 16, zeros=0.9)
    assert isinstance(prune.sparsify_if_smaller(jnp.asarray(x)), prune.SparseTensor)
    full = jnp.ones((8, 16))
    assert prune.sparsify_if_smaller(full) is full
    # 16 bytes of bitmap, 4 of counts and half a byte an entry against 64 bytes: at 87 entries, in whole bytes, a tie
    for kept, sparse in ((86, True), (87, False), (88, False)):
        x = (np.arange(128) < kept).astype(np.float32).reshape(8, 16)
        assert isinstance(prune.sparsify_if_smaller(quantize.quantize(x, bits=4)), prune.SparseTensor) is sparse
    # no zero on the grid: a mask needs its bitmap, however few it drops
    assert isinstance(prune.sparsify_if_smaller(quantize.quantize(x, bits=1), x != 0), prune.SparseTensor)
    assert isinstance(prune.sparsify_if_smaller(quantize.quantize(x, bits=1)), quantize.QTensor)


def test_bad_inputs():
    with pytest.raises(TypeError, match="float array or a packed record, got int32"):
        prune.sparsify(jnp.ones((2, 2), jnp.int32))
    with pytest.raises(TypeError, match="keep: expected bool, got float32"):
        prune.sparsify(jnp.ones((2, 2)), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"keep: expected shape \(2, 2\) of table, got \(4,\)"):
        prune.sparsify(jnp.ones((2, 2)), jnp.ones(4, bool))
    sparse = prune.sparsify(jnp.ones((2, 2)))
    for name, spoilt, shape in (
        ("values", sparse.values[:3], 4),
        ("bitmap", sparse.bitmap[:0], 1),
        ("before", None, 1),
    ):
        part = jnp.zeros(2, jnp.int32) if spoilt is None else spoilt
        for read in (prune.densify, lambda table: embed.lookup(table, jnp.array(0))):
            with pytest.raises(ValueError, match=rf"{name}: expected shape \({shape},\), got"):
                read(dataclasses.replace(sparse, **{name: part}))
    with pytest.raises(ValueError, match=r"expected at least two axes, got shape \(4,\)"):
        embed.lookup(prune.sparsify(jnp.ones(4)), jnp.array(0))
