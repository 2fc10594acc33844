"""Bitmap and values against what they were made from, byte for byte."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import toy

from recjax import prune, quantize

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


def test_the_smaller_form():
    x = table(8, 16, zeros=0.9)
    assert isinstance(prune.smallest(jnp.asarray(x)), prune.SparseTensor)
    full = jnp.ones((8, 16))
    assert prune.smallest(full) is full
    # 16 bytes of bitmap and half a byte an entry against 64 bytes: at 96 entries (and 95, in whole bytes) a tie
    for kept, sparse in ((94, True), (95, False), (96, False)):
        x = (np.arange(128) < kept).astype(np.float32).reshape(8, 16)
        assert isinstance(prune.smallest(quantize.quantize(x, bits=4)), prune.SparseTensor) is sparse
    # no zero on the grid: a mask needs its bitmap, however few it drops
    assert isinstance(prune.smallest(quantize.quantize(x, bits=1), x != 0), prune.SparseTensor)
    assert isinstance(prune.smallest(quantize.quantize(x, bits=1)), quantize.QTensor)


def test_bad_inputs():
    with pytest.raises(TypeError, match="float array or a packed record, got int32"):
        prune.sparsify(jnp.ones((2, 2), jnp.int32))
    with pytest.raises(TypeError, match="keep: expected bool, got float32"):
        prune.sparsify(jnp.ones((2, 2)), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"keep: expected the shape of the table, \(2, 2\), got \(4,\)"):
        prune.sparsify(jnp.ones((2, 2)), jnp.ones(4, bool))
    sparse = prune.sparsify(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="values: expected 4, got shape"):
        prune.densify(prune.SparseTensor(sparse.bitmap, sparse.values[:3], None, None, 4, None, (2, 2)))
