"""PARQ's map, schedule and levels against twins (references); low-precision training without a float copy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from programs import Programs

import recjax

quantize = Programs(recjax.quantize)

MAP = jax.jit(jax.vmap(quantize.proximal_map, (None, None, 0)))


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_proximal_map_and_levels(bits):
    x = gaussian(40)
    levels = np.asarray(quantize.least_squares_levels(x, bits=bits))
    np.testing.assert_allclose(levels, references.least_squares_levels(x, bits=bits), rtol=1e-5, atol=1e-6)
    rhos = np.array([1.0, 0.5, 0.1, 0.0], np.float32)
    found = MAP(x, levels, rhos)
    for ours, rho in zip(found, rhos, strict=True):
        twin = references.proximal_map(x.astype(np.float64), levels.astype(np.float64), float(rho))
        np.testing.assert_allclose(ours, twin, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], np.clip(x, levels[0], levels[-1]), rtol=1e-5, atol=1e-6)
    assert set(np.asarray(found[3])) <= set(levels)
    nearest = np.abs(x[:, None] - levels[None]).min(1)
    np.testing.assert_allclose(np.abs(x - found[3]), nearest, rtol=1e-5, atol=1e-6)


def test_proximal_map_at_the_edges():
    x = np.array([np.nan, np.inf, -np.inf, 0.5, 0.0, 1.0], np.float32)
    levels = np.array([-1.0, 0.0, 1.0], np.float32)
    for ours in MAP(x, levels, np.array([1.0, 0.25, 0.0], np.float32)):
        np.testing.assert_array_equal(np.delete(ours, 3), [np.nan, 1, -1, 0, 1])
    assert MAP(x, levels, np.array([0.0], np.float32))[0, 3] == 0  # the lower of two
    with pytest.raises(ValueError, match="levels"):
        quantize.proximal_map(jnp.ones(3), jnp.ones(1), 1.0)
    with pytest.raises(ValueError, match="bits"):
        quantize.least_squares_levels(jnp.ones(3), bits=0)


def test_proximal_sharpness():
    call = jax.jit(jax.vmap(lambda t, s: quantize.proximal_sharpness(t, begin=10, end=30, steepness=s)))
    steps, steepness = np.repeat([0, 10, 11, 17, 20, 29, 30, 99], 2), np.array([10.0, 3.0] * 8, np.float32)
    twin = [
        references.proximal_sharpness(t, begin=10, end=30, steepness=float(s))
        for t, s in zip(steps, steepness, strict=True)
    ]
    np.testing.assert_allclose(call(steps, steepness), twin, rtol=1e-4, atol=1e-6)
    assert call(steps, steepness)[-1] == 0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_low_precision_rounds_without_bias_and_packs_to_the_same(bits):
    values, step = gaussian(3, 5), np.array([[0.5], [-0.25], [0.1]], np.float32)
    usable = np.array([[0.5], [0.25], [np.float32(np.float16(0.1))]], np.float32)
    low, high = references.step_bounds(bits)

    @jax.jit
    def many(keys):
        return jax.vmap(lambda key: quantize.low_precision_round(values, step, bits=bits, key=key))(keys)

    tables = many(jax.random.split(jax.random.key(1), 2000))
    codes = np.asarray(tables.codes, np.int64)
    assert tables.codes.dtype == jnp.int8
    quotient = np.clip(values / usable, low, high)
    assert ((codes >= np.floor(quotient)[None]) & (codes <= np.ceil(quotient)[None])).all()
    np.testing.assert_allclose(codes.mean(0), quotient, atol=4.5 * 0.5 / np.sqrt(2000))
    table = quantize.LowPrecision(tables.codes[0], tables.step[0])
    read = quantize.low_precision_values(table)
    np.testing.assert_array_equal(read, codes[0] * usable)
    packed = quantize.quantize_with(read, quantize.usable_step(table.step), bits=bits, full_range=True)
    np.testing.assert_array_equal(quantize.dequantize(packed), read)
    again = quantize.low_precision_round(read, table.step, bits=bits, key=jax.random.key(2))
    np.testing.assert_array_equal(again.codes, table.codes)  # what is on the grid stays


def test_low_precision_training_reaches_a_target_that_single_updates_are_too_small_for():
    target, bits = gaussian(4, 6), 4
    start = quantize.low_precision_round(jnp.zeros((4, 6)), jnp.full((4, 1), 0.5), bits=bits, key=jax.random.key(0))

    @jax.jit
    def train(table, keys):
        def one(table, key):
            values = quantize.low_precision_values(table)
            values = values - 0.05 * (values - target)  # A: a twentieth of the way, far below half a step
            loss = lambda step: jnp.sum((quantize.learned_step(values, step, bits=bits) - target) ** 2)  # noqa: E731
            step = table.step - 0.002 * jax.grad(loss)(table.step)  # B
            return quantize.low_precision_round(values, step, bits=bits, key=key), None  # C

        return jax.lax.scan(one, table, keys)[0]

    trained = train(start, jax.random.split(jax.random.key(1), 500))
    error = np.mean((quantize.low_precision_values(trained) - target) ** 2)
    assert error < 0.25 * np.mean(target**2)
    assert (trained.step < start.step).any()
