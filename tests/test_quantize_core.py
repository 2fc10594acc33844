"""Fake quantization of 1 to 16 bits in every layout against its NumPy twin (references), and what is stored for it."""

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

from recjax.quantize import (
    absmax_scale,
    dequantize,
    fake_quant,
    fake_quant_with,
    power_of_two,
    quantize,
    quantize_with,
    stochastic_round,
    unpack,
)

OPTIMIZED = True

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
BITS = [1, 2, 3, 4, 8]
LAYOUTS = [
    {"axis": None},
    {"axis": 0},
    {"axis": 1},
    {"axis": (0, 1), "group_size": 3},
    {"axis": 0, "group_size": 4},
    {"axis": None, "group_size": 2},
    {"axis": 0, "group_size": 20},
]
FAKE = jax.jit(fake_quant, static_argnames=("axis", "group_size"))
WITH = jax.jit(fake_quant_with, static_argnames="group_size")
SCALE = jax.jit(absmax_scale, static_argnames=("axis", "group_size"))


@partial(jax.jit, static_argnames=("bits", "group_size"))
def through_with(x, scale, key=None, **knobs):
    return dequantize(quantize_with(x, scale, key=key, **knobs))


@partial(jax.jit, static_argnames=("bits", "axis", "group_size"))
def through(x, full_range, key=None, **knobs):
    return dequantize(quantize(x, full_range=full_range, key=key, **knobs))


def close_scales(ours, twin, bits):
    """The scale of 1 bit is a mean, whose last bit in float32 can decide between two neighbors in float16."""
    np.testing.assert_allclose(ours, twin, rtol=2.0**-10 if bits == 1 else 0, atol=2.0**-24 if bits == 1 else 0)


def spread(*shape):
    x = gaussian(*shape)
    return x * np.float32(10.0) ** np.linspace(-3, 2, shape[0], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_width_and_layout_is_what_is_stored(layout):
    x = spread(4, 3, 10)
    x[1, 2] = 0
    x[2, 0, :4] = -0.0
    for bits in BITS:
        for full_range in (False, True) if bits in (2, 8) else (False,):
            ours = FAKE(x, bits=bits, full_range=full_range, **layout)
            same_bits(ours, through(x, full_range, bits=bits, **layout))
            np.testing.assert_array_equal(
                ours, references.fake_quant_grouped(x, bits=bits, full_range=full_range, **layout)
            )


@pytest.mark.parametrize("bits", [1, 3])
def test_the_same_without_compiling(bits):
    x, layout = jnp.asarray(spread(3, 10)), {"axis": 0, "group_size": 4}
    stored = quantize(x, bits=bits, **layout)
    same_bits(fake_quant(x, bits=bits, **layout), FAKE(x, bits=bits, **layout))
    same_bits(dequantize(stored), FAKE(x, bits=bits, **layout))
    scales = references.entry_scales(x, bits=bits, **layout)
    np.testing.assert_array_equal(stored.scale, scales[:, ::4])
    np.testing.assert_array_equal(unpack(stored), references.whole_numbers(x, scales, bits=bits))
    codes = references.whole_numbers(x, scales, bits=bits) % 2**bits if bits > 1 else np.asarray(x) < 0
    for row, words in zip(codes.astype(np.uint8), stored.words, strict=True):
        np.testing.assert_array_equal(words, references.pack_bits(row, bits))
    assert stored.nbytes == 3 * -(-10 * bits // 8) + 2 * 3 * 3
    assert (stored.shape, stored.group_size) == ((3, 10), 4)


def test_one_bit_has_a_sign_and_no_zero():
    x = jnp.array([[0.0, -0.0, 1.0, -3.0], [0.0, 0.0, 0.0, -0.0], [1e-9, -1e-9, 0.0, 0.0]])
    ours = FAKE(x, bits=1, axis=0)
    same_bits(ours, np.float32([[1, 1, 1, -1], [0, 0, 0, 0], [0, 0, 0, 0]]))
    same_bits(ours, through(x, False, bits=1, axis=0))


def test_the_mean_is_the_same_in_every_program():
    x = jnp.asarray(gaussian(3, 117) ** 3)
    once = np.asarray(SCALE(x, bits=1, axis=0))
    same_bits(absmax_scale(x, bits=1, axis=0), once)
    same_bits(jnp.stack([absmax_scale(row, bits=1) for row in x]), once)
    same_bits(jax.jit(jax.vmap(partial(absmax_scale, bits=1)))(x), once)
    same_bits(SCALE(x.T, bits=1, axis=1).T, once)
    exact = np.abs(np.asarray(x, np.float64)).mean(1, keepdims=True)
    np.testing.assert_allclose(once, exact, rtol=2.0**-11)


def test_a_grid_of_bits_granularity_and_bounds_compiles_once():
    x, traces = spread(4, 10), 0

    def counted(x, bits, granularity, full_range):
        nonlocal traces
        traces += 1
        return fake_quant(x, bits=bits, axis=0, group_size=4, granularity=granularity, full_range=full_range)

    bits, granularity, full = (
        a.ravel() for a in np.meshgrid(np.arange(1, 17), np.arange(3), [False, True], indexing="ij")
    )
    grid, one = jax.jit(jax.vmap(counted, (None, 0, 0, 0))), jax.jit(counted)
    members = grid(x, bits, granularity, full)
    np.testing.assert_array_equal(grid(x, bits[::-1], granularity[::-1], full[::-1])[::-1], members)
    assert traces == 1
    for ours, b, g, f in zip(members, bits.tolist(), granularity.tolist(), full.tolist(), strict=True):
        same_bits(one(x, b, g, f), ours)
        twin = references.fake_quant_grouped(x, bits=b, axis=0, group_size=4, granularity=g, full_range=f)
        np.testing.assert_array_equal(ours, twin)
    assert traces == 2


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_pooled_scales_are_those_of_the_coarser_layout(bits):
    x = spread(5, 16)
    pool = partial(FAKE, x, bits=bits, axis=0, group_size=4)
    same_bits(pool(granularity=0), pool())
    same_bits(pool(granularity=1), FAKE(x, bits=bits, axis=0))
    same_bits(pool(granularity=2), FAKE(x, bits=bits))
    assert SCALE(x, bits=bits, axis=0, group_size=4, granularity=2).shape == (5, 4)


def test_a_width_a_row():
    x, bits = spread(5, 6), np.array([1, 2, 4, 15, 16])
    ours = FAKE(x, bits=bits[:, None], axis=0)
    for row, b, found in zip(x, bits.tolist(), ours, strict=True):
        np.testing.assert_array_equal(found, references.fake_quant_grouped(row[None], bits=b)[0] if b < 16 else row)


@QUICK
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_array_in_groups(x):
    for bits in (1, 2, 8):
        layout = {"axis": 0, "group_size": 2}
        ours = FAKE(x, bits=bits, **layout)
        same_bits(ours, through(x, False, bits=bits, **layout))
        close_scales(ours, references.fake_quant_grouped(x, bits=bits, **layout), bits)
        assert np.isfinite(ours).all()


@pytest.mark.parametrize("layout", LAYOUTS[2:5], ids=str)
def test_nan_takes_what_shares_its_scale(layout):
    x = spread(4, 3, 10)
    x[1, 1, 4] = np.nan
    lost = next(group for group in references.sharing(x.shape, **layout) if (1, 1, 4) in group)
    expected = np.zeros(x.shape, bool)
    expected[tuple(np.array(lost).T)] = True
    for bits in (1, 4):
        np.testing.assert_array_equal(np.isnan(FAKE(x, bits=bits, full_range=False, **layout)), expected)
        np.testing.assert_array_equal(np.isnan(through(x, False, bits=bits, **layout)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("full_range", [False, True])
def test_gradient_with_a_given_scale_is_that_of_the_clip(bits, full_range):
    scale = np.float32([[0.5], [0.25], [0.0]])
    x = np.stack([np.linspace(-5, 5, 41, dtype=np.float32)] * 3)
    high = 2 ** (bits - 1) - 1 if bits > 1 else 1
    low = -high - (full_range and bits > 1)
    inside = (x >= low * scale) & (x <= high * scale)
    weights = gaussian(*x.shape)
    loss = lambda x, s, b: jnp.sum(weights * fake_quant_with(x, s, bits=b, full_range=full_range))  # noqa: E731
    to_x, to_scale = jax.jit(jax.grad(loss, (0, 1)))(x, scale, bits)
    np.testing.assert_array_equal(to_x, np.where(inside, weights, 0))
    np.testing.assert_array_equal(to_scale, np.zeros((3, 1)))
    ours = WITH(x, scale, bits=bits, full_range=full_range)
    np.testing.assert_array_equal(ours, references.fake_quant_with(x, scale, bits=bits, full_range=full_range))
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x, scale, 16), weights)
    same_bits(WITH(x, scale, bits=16), x)


@pytest.mark.parametrize("bits", BITS)
def test_a_given_scale_is_stored_as_trained(bits):
    x = spread(3, 10)
    scale = np.abs(gaussian(3, 3, seed=1)) * np.float32([[1e-6], [0.01], [1e6]])  # not float16, and beyond it
    ours = WITH(x, scale, bits=bits, group_size=4)
    same_bits(ours, through_with(x, scale, bits=bits, group_size=4))
    wide = np.repeat(scale, 4, axis=1)[:, :10]
    np.testing.assert_array_equal(ours, references.fake_quant_with(x, wide, bits=bits))
    for given_scale, group_size in ((jnp.float32(0.1), None), (scale[:, :1], 4)):
        knobs = {"bits": bits, "group_size": group_size}
        same_bits(through_with(x, given_scale, **knobs), WITH(x, given_scale, **knobs))
    own = FAKE(x, bits=bits, axis=0)
    same_bits(WITH(x, SCALE(x, bits=bits, axis=0), bits=bits), own)


def test_nan_with_a_given_scale():
    x = spread(3, 10)
    x[1, 4] = np.nan
    ours = WITH(x, np.full((3, 1), 0.5, np.float32), bits=4)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(x))
    stored = np.isnan(through_with(x, np.full((3, 3), 0.5, np.float32), bits=4, group_size=4))
    assert stored[1, 4:8].all()
    assert stored.sum() == 4
    assert np.isnan(WITH(x, np.full((3, 1), np.nan, np.float32), bits=4)).all()
    assert np.isnan(WITH(x, np.full((3, 1), 0.5, np.float32), bits=16)[1, 4])


def test_stochastic_rounding_is_unbiased_between_the_neighbors():
    x = jnp.array([-2.0, -1.75, -0.3, 0.0, 0.25, 0.999, 3.0, 2.0**20 + 0.5, 2.0**23 + 1, jnp.nan, jnp.inf])
    keys = jax.random.split(jax.random.key(3), 4000)
    draws = np.asarray(jax.jit(jax.vmap(partial(stochastic_round, x)))(keys), np.float64)
    finite = np.asarray(x, np.float64)[:-2]
    assert np.isnan(draws[:, -2]).all()
    assert np.isinf(draws[:, -1]).all()
    draws = draws[:, :-2]
    assert ((draws == np.floor(finite)) | (draws == np.ceil(finite))).all()
    fraction = finite - np.floor(finite)
    assert (np.abs(draws.mean(0) - finite) <= 4 * np.sqrt(fraction * (1 - fraction) / len(draws))).all()
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: stochastic_round(x, keys[0]).sum()))(x), np.ones(11))
    half = jax.jit(stochastic_round)(jnp.full(2000, 0.3, jnp.bfloat16), keys[0])
    assert half.dtype == jnp.bfloat16
    assert abs(float(half.astype(jnp.float32).mean()) - 0.3) < 0.04


@pytest.mark.parametrize("bits", [2, 8])
def test_a_key_rounds_at_random_and_packs_the_same(bits):
    x, key = spread(3, 10), jax.random.key(bits)
    layout = {"axis": 0, "group_size": 4}
    ours = FAKE(x, bits=bits, key=key, **layout)
    same_bits(ours, through(x, False, bits=bits, key=key, **layout))
    scale = references.entry_scales(x, bits=bits, **layout).astype(np.float64)
    assert (np.abs(ours - x) < scale * (1 + 1e-6)).all()
    keys = jax.random.split(key, 3000)
    mean = np.mean(jax.jit(jax.vmap(lambda key: fake_quant(x, bits=bits, key=key, **layout)))(keys), axis=0)
    inside = np.abs(x) <= scale * (2 ** (bits - 1) - 1)
    assert (np.abs(mean - x) <= 4.5 * scale / 2 / np.sqrt(3000))[inside].all()
    given_scale = SCALE(x, bits=bits, **layout)
    same_bits(WITH(x, given_scale, bits=bits, group_size=4, key=key), ours)
    same_bits(through_with(x, given_scale, bits=bits, group_size=4, key=key), ours)


@QUICK
@given(st.floats(2.0**-120, 2.0**127, width=32))
def test_power_of_two(scale):
    ours = float(power_of_two(jnp.float32(scale)))
    assert np.frexp(ours)[0] == 0.5
    assert ours >= scale > ours / 2 or (ours == 2.0**15 and scale > ours)


def test_power_of_two_is_a_scale_like_any_other():
    assert power_of_two(jnp.array([0.0, 1.0, 0.5000001, 65504.0])).tolist() == [0.0, 1.0, 1.0, 32768.0]
    assert np.isnan(power_of_two(jnp.array(jnp.nan)))
    x = spread(3, 10)
    scale = power_of_two(SCALE(x, bits=4, axis=0))
    assert (np.frexp(scale)[0] == 0.5).all()
    same_bits(WITH(x, scale, bits=4), through_with(x, scale, bits=4))
    same_bits(jax.jit(power_of_two)(scale), scale)


@pytest.mark.parametrize(
    ("dim", "bits", "expected"),
    # measured once for each-row scales of Gaussian rows, absmax / (2^(bits-1) - 1/2), in float32
    [(10, 8, 0.0048), (10, 4, 0.0825), (10, 2, 0.410), (16, 4, 0.0872), (64, 4, 0.103), (64, 2, 0.511)],
)
def test_error_of_gaussian_rows_with_the_full_range(dim, bits, expected):
    x = gaussian(20_000, dim)
    error = np.linalg.norm(FAKE(x, bits=bits, axis=0, full_range=True) - x) / np.linalg.norm(x)
    assert error == pytest.approx(expected, rel=0.03)


def test_error_of_gaussian_signs():
    x = gaussian(2000, 64)  # in squares, what the best scale E|x| leaves of a Gaussian is 1 - 2/pi
    error = np.linalg.norm(FAKE(x, bits=1) - x) / np.linalg.norm(x)
    assert error == pytest.approx(np.sqrt(1 - 2 / np.pi), rel=0.01)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: fake_quant(x, bits=4, group_size=0), ValueError),
        (lambda x: fake_quant(x, bits=4, axis=1, group_size=2), ValueError),
        (lambda x: fake_quant(jnp.float32(1), bits=4, group_size=2), ValueError),
        (lambda x: fake_quant_with(x, jnp.ones(3), bits=4), ValueError),
        (lambda x: fake_quant_with(x, jnp.ones((3, 2)), bits=4), ValueError),
        (lambda x: fake_quant_with(x, jnp.ones((2, 3)), bits=4, group_size=2), ValueError),
        (lambda x: fake_quant_with(x, jnp.float32(1), bits=4, group_size=2), ValueError),
        (lambda x: fake_quant_with(x, jnp.ones((2, 1), int), bits=4), TypeError),
        (lambda x: fake_quant_with(x.astype(int), jnp.float32(1), bits=4), TypeError),
        (lambda x: quantize_with(x, jnp.float32(1), bits=5), ValueError),
        (lambda x: quantize(x.astype(int), bits=4), TypeError),
        (lambda x: stochastic_round(x.astype(int), jax.random.key(0)), TypeError),
        (lambda x: power_of_two(jnp.array(1)), TypeError),
    ],
)
def test_what_does_not_fit_raises(call, error):
    with pytest.raises(error, match="expected"):
        jax.eval_shape(call, jnp.ones((2, 3)))
