"""The matrix product in whole numbers against exact integers in NumPy, and the product of fake-quantized floats."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from quantize_cases import gaussian, same_bits

from recjax.quantize import QTensor, dequantize, fake_quant, fake_quant_with, int_matmul, quantize, unpack

BITS = [1, 2, 3, 4, 8]
MATMUL = jax.jit(int_matmul)
QUANTIZE = jax.jit(quantize, static_argnames=("bits", "axis", "group_size"))
UNPACK, DEQUANTIZE = jax.jit(unpack), jax.jit(dequantize)
FAKE = jax.jit(partial(fake_quant, axis=0))
WITH = jax.jit(fake_quant_with)


def exact(steps, weights, scale, weight_scale):
    """The product in Python's own integers, scaled in float64."""
    return (steps.astype(np.int64) @ np.asarray(weights, np.int64)) * scale.astype(np.float64) * weight_scale


def bound(x, w):
    """(inputs + 4) 2^-24 times the product of absolute values: a rounding for each product, sum and scale."""
    return (x.shape[-1] + 4) * 2.0**-24 * (np.abs(x, dtype=np.float64) @ np.abs(w, dtype=np.float64))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("layout", [{"axis": 1}, {"axis": None}, {"group_size": 4}], ids=str)
def test_it_is_the_product_of_the_fake_quantized(bits, layout):
    x = gaussian(5, 37) * np.float32([[1e-3], [1], [50], [0], [1]])
    w = gaussian(37, 10, seed=1)
    q = QUANTIZE(w, bits=bits, **layout)
    ours = MATMUL(x, q)
    assert (ours.dtype, ours.shape) == (jnp.float32, (5, 10))
    scale = references.entry_scales(x, bits=8, axis=0)
    steps = references.whole_numbers(x, scale, bits=8)
    weight_scale = references.entry_scales(w, bits=bits, **layout)[:1].astype(np.float64)
    twin = exact(steps, UNPACK(q), scale[:, :1], weight_scale)
    np.testing.assert_allclose(ours, twin, rtol=3 * 2.0**-24)
    fake, stored = np.asarray(FAKE(x, bits=8)), np.asarray(DEQUANTIZE(q))
    assert (np.abs(np.asarray(fake @ stored, np.float64) - ours) <= bound(fake, stored)).all()
    assert (ours[3] == 0).all()


def test_a_batch_of_one_and_leading_axes():
    x, q = gaussian(6, 12), QUANTIZE(gaussian(12, 4, seed=1), bits=4, axis=1)
    whole = MATMUL(x, q)
    same_bits(MATMUL(x[:1], q), whole[:1])
    same_bits(MATMUL(x[0], q), whole[0])
    same_bits(MATMUL(x.reshape(2, 3, 12), q), whole.reshape(2, 3, 4))
    same_bits(int_matmul(jnp.asarray(x), q), whole)
    same_bits(jax.vmap(int_matmul, (0, None))(x, q), whole)
    low = jnp.asarray(x, jnp.bfloat16)
    same_bits(int_matmul(low, q), int_matmul(low.astype(jnp.float32), q))


def test_bits_of_activations_are_traced():
    x, q = gaussian(6, 12), QUANTIZE(gaussian(12, 4, seed=1), bits=8, axis=1)
    grid = jax.jit(jax.vmap(lambda bits: int_matmul(x, q, bits=bits)))
    for bits, ours in zip(range(1, 9), grid(jnp.arange(1, 9)), strict=True):
        fake, stored = np.asarray(FAKE(x, bits=bits)), np.asarray(DEQUANTIZE(q))
        assert (np.abs(np.asarray(fake @ stored, np.float64) - ours) <= bound(fake, stored)).all()


@pytest.mark.parametrize("shape", [(), (1, 1), (6, 1)])
def test_a_static_scale(shape):
    x, q = gaussian(6, 12), QUANTIZE(gaussian(12, 4, seed=1), bits=8, axis=1)
    scale = np.abs(gaussian(6, seed=2))[: max(1, int(np.prod(shape)))].reshape(shape) / 60 + np.float32(0.005)
    fake, stored = np.asarray(WITH(x, scale, bits=8)), np.asarray(DEQUANTIZE(q))
    ours = MATMUL(x, q, scale=scale)
    assert (np.abs(np.asarray(fake @ stored, np.float64) - ours) <= bound(fake, stored)).all()
    assert np.abs(fake - x).max() > 0.1  # some are clipped


@pytest.mark.parametrize("scale", [None, np.float32(0.02)])
def test_nan_and_infinity(scale):
    x, q = gaussian(3, 12), QUANTIZE(gaussian(12, 4, seed=1), bits=8, axis=1)
    clean = MATMUL(x, q, scale=scale)
    x[0, 3], x[1, 4] = np.nan, np.inf
    ours = MATMUL(x, q, scale=scale)
    assert np.isnan(ours[0]).all()
    assert np.isfinite(ours[1]).all()
    same_bits(ours[2], clean[2])


def test_the_largest_sum_fits():
    count = 132_104
    least = QTensor(np.full((count, 1), 0x80, np.uint8), np.ones((1, 1), np.float16), 8, (count, 1))
    ours = MATMUL(np.full((1, count), 127, np.float32), least, scale=np.float32(1))
    np.testing.assert_array_equal(ours, np.float32([[-127 * 128 * count]]))
    one_more = dataclasses.replace(least, shape=(count + 1, 1))
    with pytest.raises(ValueError, match="132104"):
        int_matmul(np.ones((1, count + 1), np.float32), one_more)


def test_the_product_is_of_int8_in_int32():
    q = jax.eval_shape(partial(quantize, bits=4, axis=1), jnp.ones((12, 4)))
    jaxpr = jax.make_jaxpr(int_matmul)(jnp.ones((3, 12)), q)
    (product,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general")
    assert [a.aval.dtype for a in product.invars] == [jnp.int8, jnp.int8]
    assert product.outvars[0].aval.dtype == jnp.int32


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x, w: int_matmul(x, quantize(w, bits=8, axis=0)), ValueError),
        (lambda x, w: int_matmul(x, quantize(w.T, bits=8)), ValueError),
        (lambda x, w: int_matmul(x, quantize(w[0], bits=8)), ValueError),
        (lambda x, w: int_matmul(x[0, 0], quantize(w, bits=8)), ValueError),
        (lambda x, w: int_matmul(x, quantize(w, bits=8), scale=jnp.ones((1, 12))), ValueError),
        (lambda x, w: int_matmul(x.astype(int), quantize(w, bits=8)), TypeError),
    ],
)
def test_what_does_not_fit_raises(call, error):
    with pytest.raises(error, match="expected"):
        jax.eval_shape(call, jnp.ones((3, 12)), jnp.ones((12, 4)))
