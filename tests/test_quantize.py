"""The quantizer against a NumPy twin with float16 scales and bit-by-bit packing (references), compared exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantize_cases import gaussian, same_bits

from recjax.quantize import dequantize, fake_quant, pack_bits, quantize, straight_through, unpack, unpack_bits

OPTIMIZED = True

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
BITS = [2, 3, 4, 8]
AXES = [None, 0, (-1, 0)]  # -1, (0, 1): test_the_record
FAKE = jax.jit(fake_quant, static_argnames="axis")  # bits are traced: one compile for each shape


QUANTIZE = jax.jit(quantize, static_argnames=("bits", "axis"))


@partial(jax.jit, static_argnums=(1, 2))
def through(x, bits, axis):
    return dequantize(quantize(x, bits=bits, axis=axis))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axis", AXES)
def test_fake_quant_is_exactly_what_is_stored(bits, axis):
    x = gaussian(5, 7, 3) * np.float32(10.0) ** np.arange(-3, 2, dtype=np.float32)[:, None, None]
    stored = through(x, bits, axis)
    same_bits(FAKE(x, bits=bits, axis=axis), stored)
    np.testing.assert_array_equal(stored, references.fake_quant(x, bits=bits, axis=axis))
    if axis == 0 and bits in (3, 8):  # compiled with bits known, and not compiled at all
        same_bits(jax.jit(fake_quant, static_argnames=("bits", "axis"))(x, bits=bits, axis=axis), stored)
        same_bits(fake_quant(jnp.asarray(x), bits=bits, axis=axis), stored)
        same_bits(dequantize(quantize(jnp.asarray(x), bits=bits, axis=axis)), stored)


@pytest.mark.parametrize(
    ("bits", "shape", "axis"),
    [*((bits, (4, 5), 0) for bits in BITS), (3, (6,), None), (8, (6,), 0), (4, (4, 5), -1), (2, (2, 3, 5), (0, 1))],
)
def test_the_record(bits, shape, axis):
    x = gaussian(*shape, seed=bits)
    stored = QUANTIZE(x, bits=bits, axis=axis)
    q, scale = references.quantize(x, bits=bits, axis=axis)
    integers = jax.jit(unpack)(stored)
    assert (integers.dtype, integers.shape) == (jnp.int8, shape)
    np.testing.assert_array_equal(integers, q)
    assert (stored.scale.dtype, stored.scale.shape) == (jnp.float16, scale.shape)
    np.testing.assert_array_equal(stored.scale, scale)
    words = -(-shape[-1] * bits // 8)
    assert (stored.words.dtype, stored.words.shape) == (jnp.uint8, (*shape[:-1], words))
    assert stored.nbytes == int(np.prod(shape[:-1])) * words + 2 * scale.size
    assert (stored.bits, tuple(stored.shape)) == (bits, shape)
    flat = q.reshape(-1, shape[-1])
    codes = {"two's complement": flat % 2**bits, "offset": flat + 2 ** (bits - 1), "levels": flat + 2 ** (bits - 1) - 1}
    packed = {name: [references.pack_bits(row, bits) for row in rows] for name, rows in codes.items()}
    ours = np.asarray(stored.words).reshape(-1, words)
    assert any(np.array_equal(ours, rows) for rows in packed.values())
    leaves, treedef = jax.tree.flatten(stored)
    assert {np.dtype(leaf.dtype).name for leaf in leaves} == {"uint8", "float16"}  # bits and shape are static
    twin = (q * scale.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(dequantize)(jax.tree.unflatten(treedef, leaves)), twin)


@pytest.mark.parametrize("bits", BITS)
def test_a_scale_halfway_between_two_float16_rounds_to_even(bits):
    # absmax / levels is exactly a midpoint, and exact in float32; multiplying by 1 / levels instead would miss it
    levels = 2 ** (bits - 1) - 1
    middle = (np.arange(1024, 2048, dtype=np.float32) + np.float32(0.5)) * np.float32(2.0**-15)
    x = np.stack([middle * levels, middle * np.float32(0.3), -middle * levels / 2], axis=1)
    _, scale = references.quantize(x, bits=bits, axis=0)
    np.testing.assert_array_equal(QUANTIZE(x, bits=bits, axis=0).scale, scale)
    twin = references.fake_quant(x, bits=bits, axis=0)
    np.testing.assert_array_equal(fake_quant(jnp.asarray(x), bits=bits, axis=0), twin)
    static = jax.jit(fake_quant, static_argnames=("bits", "axis"))
    np.testing.assert_array_equal(static(x, bits=bits, axis=0), twin)
    np.testing.assert_array_equal(FAKE(x, bits=bits, axis=0), twin)


@pytest.mark.parametrize("bits", BITS)
def test_a_value_halfway_between_two_levels_rounds_to_even(bits):
    # exact in float32 for every scale of eleven bits; multiplying by 1 / scale instead would miss some
    levels = 2 ** (bits - 1) - 1
    scale = np.arange(1025, 2048, 2, dtype=np.float32)[:, None] * np.float32(2.0**-15)
    x = np.append(np.arange(-levels, levels) + 0.5, levels).astype(np.float32) * scale
    q, stored = references.quantize(x, bits=bits, axis=0)
    np.testing.assert_array_equal(stored, scale)
    twin = (q * stored.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(through(x, bits, 0), twin)
    np.testing.assert_array_equal(FAKE(x, bits=bits, axis=0), twin)
    np.testing.assert_array_equal(jax.jit(lambda x: fake_quant(x, bits=bits, axis=0))(x), twin)


@QUICK
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_array(x):
    for bits in (2, 4, 8):
        stored = through(x, bits, 0)
        same_bits(FAKE(x, bits=bits, axis=0), stored)
        np.testing.assert_array_equal(stored, references.fake_quant(x, bits=bits, axis=0))


@pytest.mark.parametrize("bits", BITS)
def test_extreme_magnitudes(bits):
    magnitudes = [0.0, 1e-45, 1e-30, 1e-8, 1e-7, 3e-7, 1e-6, 4e-6, 1e-4, 6e4, 5e5, 8e6, 9e6, 1e30, 3.4e38]
    x = np.array([[1, -0.6, 0.2, 0.04]], np.float32) * np.array(magnitudes, np.float32)[:, None]
    stored = through(x, bits, 0)
    assert np.isfinite(stored).all()
    assert (stored[:3] == 0).all()  # their scales are below the least float16
    same_bits(FAKE(x, bits=bits, axis=0), stored)
    np.testing.assert_array_equal(stored, references.fake_quant(x, bits=bits, axis=0))


@pytest.mark.parametrize("bits", [*BITS, 12, 16])
def test_zeros_stay_zero(bits):
    x = gaussian(4, 6)
    x[:, ::2] = 0
    x[2] = 0
    ours = np.asarray(FAKE(x, bits=bits, axis=0))
    assert (ours[x == 0] == 0).all()
    if bits in BITS:
        assert (np.asarray(through(x, bits, 0))[x == 0] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(bad):
    x = gaussian(3, 4)
    x[1, 2] = bad
    for bits in BITS:
        ours, stored = FAKE(x, bits=bits, axis=0), through(x, bits, 0)
        np.testing.assert_array_equal(ours, stored)  # equal also in where they are nan
        if np.isnan(bad):
            assert np.isnan(ours[1, 2])
        np.testing.assert_array_equal(ours[::2], references.fake_quant(x[::2], bits=bits, axis=0))  # other rows
    np.testing.assert_array_equal(FAKE(x, bits=16, axis=0), x)


def test_nan_is_found_in_a_large_array():
    x = gaussian(2, 100_000)
    x[0, 77_777] = np.nan  # a maximum that is split into vectors and threads may lose it
    ours = np.asarray(FAKE(x, bits=8, axis=0))
    assert np.isnan(ours[0]).all()
    assert np.isfinite(ours[1]).all()


def test_traced_bits_under_vmap_compile_once():
    x = gaussian(6, 10)
    traces = 0

    def counted(x, bits):
        nonlocal traces
        traces += 1
        return fake_quant(x, bits=bits, axis=0)

    grid = jax.jit(jax.vmap(counted, in_axes=(None, 0)))
    for members in (np.arange(2, 17, dtype=np.int32), np.arange(2, 17, dtype=np.int32)[::-1].copy()):
        loop = [references.fake_quant(x, bits=int(bits), axis=0) for bits in members]
        np.testing.assert_array_equal(grid(x, members), loop)
    assert traces == 1
    floats = jax.vmap(lambda bits: fake_quant(x, bits=bits, axis=0))(jnp.arange(2.0, 17.0))
    np.testing.assert_array_equal(floats, loop[::-1])


def test_sixteen_bits_or_more_is_the_identity():
    x = gaussian(4, 5) * np.float32(1e30)
    for bits in (16, 24, 32, jnp.int32(16), jnp.float32(32)):
        same_bits(fake_quant(jnp.asarray(x), bits=bits, axis=0), x)


@pytest.mark.parametrize("axis", [None, 0])
def test_gradient_is_exactly_one(axis):
    x = gaussian(5, 6)
    x[0], x[1], x[2], x[3] = 0, 1e-30, 1e30, 1.0
    weights = gaussian(5, 6, seed=1)
    gradient = jax.grad(lambda x, bits: jnp.sum(weights * fake_quant(x, bits=bits, axis=axis)))
    np.testing.assert_array_equal(gradient(x, 4), weights)
    traced = jax.jit(jax.vmap(gradient, (None, 0)))(x, jnp.array([2, 4, 8, 16]))
    np.testing.assert_array_equal(traced, np.broadcast_to(weights, (4, 5, 6)))


def test_straight_through():
    x = np.array([1e8, -3.0, 1e-30, 0.0, 1e30], np.float32)
    value = np.array([0.1, 0.2, -0.3, 1e30, 7e-12], np.float32)
    for call in (straight_through, jax.jit(straight_through)):
        same_bits(call(x, value), value)
    to_x, to_value = jax.grad(lambda x, v: jnp.sum(straight_through(x, v) ** 2), (0, 1))(x, value)
    np.testing.assert_array_equal(to_x, 2 * value)
    np.testing.assert_array_equal(to_value, np.zeros(5))
    _, tangent = jax.jvp(lambda x: straight_through(x, value), (x,), (x,))
    np.testing.assert_array_equal(tangent, x)


@pytest.mark.parametrize("bits", range(2, 13))
def test_error_is_at_most_half_a_step(bits):
    x = gaussian(50, 16)
    levels = 2 ** (bits - 1) - 1
    error = np.abs(np.asarray(FAKE(x, bits=bits, axis=0), np.float64) - x)
    scale = (np.abs(x).max(1, keepdims=True) / np.float32(levels)).astype(np.float16).astype(np.float64)
    inside = np.abs(x) <= levels * scale
    eps = np.abs(x) * 2.0**-22  # float32's own: the quotient and the product each round once
    assert (error <= scale / 2 + eps)[inside].all()
    assert inside.mean() > 0.9


@pytest.mark.parametrize(
    ("dim", "bits", "expected"),
    # measured once for each-row scales of Gaussian rows, absmax / (2^(bits-1) - 1), in float32
    [
        (10, 8, 0.0042), (10, 4, 0.0765), (10, 2, 0.531), (16, 8, 0.0047), (16, 4, 0.0853), (16, 2, 0.584),
        (64, 4, 0.107), (64, 2, 0.718),
    ],
)  # fmt: skip
def test_error_of_gaussian_rows(dim, bits, expected):
    x = gaussian(20_000, dim)
    error = np.linalg.norm(FAKE(x, bits=bits, axis=0) - x) / np.linalg.norm(x)
    assert error == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("bits", BITS)
def test_invariants(bits):
    x = gaussian(6, 9)
    once = FAKE(x, bits=bits, axis=0)
    same_bits(FAKE(once, bits=bits, axis=0), once)  # idempotent
    same_bits(FAKE(4 * x, bits=bits, axis=0), 4 * once)  # powers of two are exact
    np.testing.assert_array_equal(FAKE(-x, bits=bits, axis=0), -once)  # symmetric
    same_bits(jnp.stack([FAKE(row, bits=bits) for row in x]), once)  # rows are independent
    same_bits(FAKE(x.T, bits=bits, axis=-1).T, once)
    same_bits(FAKE(x.T, bits=bits, axis=1).T, once)


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_is_bit_by_bit(bits):
    rng = np.random.default_rng(bits)
    for count in (1, 3, 5, 7, 8):  # every odd remainder of a byte; 11 below
        values = rng.integers(0, 2**bits, count).astype(np.uint8)

        @jax.jit
        def both(values, count=count):
            words = pack_bits(values, bits=bits)
            return words, unpack_bits(words, bits=bits, count=count)

        words, back = both(values)
        assert (words.dtype, words.shape) == (jnp.uint8, (-(-count * bits // 8),))
        assert back.dtype == jnp.uint8
        np.testing.assert_array_equal(words, references.pack_bits(values, bits))
        np.testing.assert_array_equal(back, values)
        np.testing.assert_array_equal(back, references.unpack_bits(np.asarray(words), bits, count))
    rows = rng.integers(0, 2**bits, (2, 3, 11)).astype(np.uint8)
    words = jax.jit(partial(pack_bits, bits=bits))(rows)
    np.testing.assert_array_equal(words[1, 2], references.pack_bits(rows[1, 2], bits))
    np.testing.assert_array_equal(jax.jit(partial(unpack_bits, bits=bits, count=11))(words), rows)


@pytest.mark.parametrize(
    "call",
    [
        *(lambda bits=bits: quantize(jnp.ones((2, 3)), bits=bits) for bits in (0, 5, 6, 7, 16)),
        lambda: quantize(jnp.float32(1), bits=8),
        lambda: quantize(jnp.ones((2, 3)), bits=8, axis=2),
        lambda: quantize(jnp.ones((2, 3)), bits=8, axis=(0, -3)),
        lambda: fake_quant(jnp.ones((2, 3)), bits=8, axis=2),
    ],
)
def test_what_does_not_work_raises(call):
    with pytest.raises(ValueError):
        call()


def test_strict_dtypes_and_low_precision():
    x = gaussian(3, 4)
    with jax.numpy_dtype_promotion("strict"):
        for bits in (4, jnp.int32(4), jnp.float32(4)):
            FAKE(x, bits=bits, axis=0)
        through(x, 4, 0)
        for dtype in (jnp.bfloat16, jnp.float16):
            low = jnp.asarray(x, dtype)
            ours = FAKE(low, bits=4, axis=0)
            assert (ours.dtype, ours.shape) == (dtype, x.shape)
            stored = through(low, 4, 0)
            assert stored.dtype == jnp.float32
            np.testing.assert_array_equal(ours, stored.astype(dtype))
