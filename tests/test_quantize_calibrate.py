"""Calibrators against brute force in NumPy (references), their optimality, and torch's search of ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Programs

import recjax

quantize = Programs(recjax.quantize, static=("narrowest",))

FACTORS = np.arange(16, 0, -1, dtype=np.float32) / 16
SEARCH = jax.jit(functools.partial(quantize.squared_error_scale, factors=FACTORS), static_argnames="axis")
ENTROPY = jax.jit(functools.partial(quantize.entropy_scale, bins=64, cuts=16))
ENDS = jax.jit(functools.partial(quantize.greedy_clip_range, bins=40, narrowest=0.5))


def heavy_tailed(*shape, seed=0):
    return np.random.default_rng(seed).standard_t(3, size=shape).astype(np.float32)


@jax.jit
def squared_error(x, scale, bits):
    return jnp.sum((x - quantize.fake_quant_with(x, scale, bits=bits)) ** 2, axis=1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_squared_error_scale_is_the_best_of_all(bits):
    x = heavy_tailed(5, 30)
    ours = SEARCH(x, bits=float(bits), axis=0)
    for row, scale in zip(x, np.asarray(ours), strict=True):
        best, errors = references.squared_error_scale(row, bits=bits, factors=FACTORS)
        np.testing.assert_allclose(scale, best, rtol=1e-6)
        snr = np.log(1 + np.sum(row.astype(np.float64) ** 2) / errors)
        value = quantize.fake_quant_with(row, scale, bits=bits)
        np.testing.assert_allclose(quantize.signal_to_noise(row, value), snr.max(keepdims=True), rtol=1e-4)
    np.testing.assert_array_equal(ours, np.asarray(ours, np.float16))
    whole = SEARCH(x, bits=float(bits), axis=None)
    np.testing.assert_allclose(
        whole.item(), references.squared_error_scale(x, bits=bits, factors=FACTORS)[0], rtol=1e-6
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(-8, 8))
def test_squared_error_scale_never_loses_to_the_maximum_and_scales_along(seed, bits, power):
    x = heavy_tailed(5, 30, seed=seed)
    absmax = quantize.absmax_scale(x, bits=float(bits), axis=0)
    found = SEARCH(x, bits=float(bits), axis=0)
    assert (squared_error(x, found, float(bits)) <= squared_error(x, absmax, float(bits))).all()
    factor = np.float32(2.0) ** power
    # a scale that float16 holds in full; below 2^-14 it has fewer digits
    if np.min(found) * factor >= 2.0**-14:
        np.testing.assert_array_equal(SEARCH(factor * x, bits=float(bits), axis=0), factor * found)


def test_degenerate_rows():
    x = np.zeros((5, 30), np.float32)
    x[1], x[2, 3], x[3] = 7.0, np.nan, 1e-30
    found = np.asarray(SEARCH(x, bits=4.0, axis=0))[:, 0]
    np.testing.assert_array_equal(found, [0, 1, np.nan, 0, 0])
    np.testing.assert_array_equal(quantize.percentile_scale(x, bits=4, share=1.0, axis=0)[:, 0], [0, 1, np.nan, 0, 0])
    low, high = ENDS(x, bits=4.0)
    np.testing.assert_array_equal(np.asarray(low)[:, 0], [0, 7, np.nan, np.float32(1e-30), 0])
    assert np.isnan(high[2])
    assert np.isnan(ENTROPY(x, bits=4.0))
    assert ENTROPY(np.zeros((5, 30), np.float32), bits=4.0) == 0
    np.testing.assert_array_equal(quantize.signal_to_noise(jnp.zeros(3), jnp.zeros(3)), [0])
    assert np.isinf(quantize.signal_to_noise(jnp.ones(3), jnp.ones(3)))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_percentile_scale(share):
    x = heavy_tailed(5, 30)
    call = jax.jit(quantize.percentile_scale, static_argnames="axis")
    for axis in (None, 0):
        for bits, full in ((1, False), (3, False), (4, True)):
            ours = call(x, bits=float(bits), share=share, axis=axis, full_range=full)
            bound = max(2 ** (bits - 1) - 1 + 0.5 * full, 1)
            shared = (0, 1) if axis is None else 1
            twin = np.quantile(np.abs(x).astype(np.float64), share, axis=shared, keepdims=True) / bound
            np.testing.assert_allclose(ours, twin.astype(np.float16), rtol=2.0**-10)
    if share == 1:
        np.testing.assert_array_equal(call(x, bits=3, share=1.0), quantize.absmax_scale(x, bits=3))


@pytest.mark.parametrize(("bits", "zeros"), [(2, False), (4, False), (6, False), (4, True)])
def test_entropy_scale_is_the_least_divergence(bits, zeros):
    x = heavy_tailed(400, seed=bits)
    x = np.append(x, np.zeros(4000, np.float32)) if zeros else x
    cuts = [4 * (i + 1) for i in range(16)]
    divergences = references.histogram_divergences(x, bits=bits, bins=64, cuts=cuts)
    ours = ENTROPY(x, bits=float(bits)).item()
    scales = np.array(cuts) / 64 * np.abs(x).max() / (2 ** (bits - 1) - 1)
    chosen = int(np.argmin(np.abs(scales - ours)))
    np.testing.assert_allclose(ours, scales[chosen], rtol=2.0**-10)
    assert divergences[chosen] == pytest.approx(divergences.min(), rel=1e-3)
    assert np.sum(divergences < divergences.min() * 1.001) == 1  # there is one best
    assert chosen < 15  # and it clips


def test_entropy_scale_of_activations_after_a_relu():
    x = np.maximum(np.random.default_rng(0).normal(size=100_000) - 1.28, 0).astype(np.float32)  # 9 of 10 are 0
    clip = 127 * quantize.entropy_scale(x, bits=8).item()
    assert 2.3 < clip < 0.95 * x.max()
    assert (x > clip).mean() < 2e-4


def test_entropy_scale_with_fewer_bins_than_levels_or_nothing_below_the_clip():
    x = np.array([1.0, 1.0, 1.0], np.float32)  # only the last bin is filled: every other clip leaves nothing
    assert ENTROPY(x, bits=4.0).item() == pytest.approx(1 / 7, rel=2.0**-10)
    x = heavy_tailed(400, seed=3)
    divergences = references.histogram_divergences(x, bits=8, bins=64, cuts=[4 * (i + 1) for i in range(16)])
    assert divergences.argmin() == 15  # with a level for each bin, clipping is the only loss
    np.testing.assert_array_equal(ENTROPY(x, bits=8.0)[0], quantize.absmax_scale(x, bits=8)[0])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_search_of_ends(bits):
    x = heavy_tailed(6, 12, seed=bits)
    low, high = (np.asarray(end) for end in ENDS(x, bits=float(bits)))
    rounded = np.asarray(quantize.fake_quant_rows(x, bits=bits, low=low, high=high), np.float64)
    plain = np.asarray(quantize.fake_quant_rows(x, bits=bits), np.float64)
    for i in range(len(x)):
        twin = references.greedy_clip_range(x[i], bits=bits, bins=40, narrowest=0.5)
        assert np.sum((x[i] - rounded[i]) ** 2) == pytest.approx(twin[2], rel=1e-4)
        np.testing.assert_allclose((low[i, 0], high[i, 0]), twin[:2], rtol=1e-5, atol=1e-6)
        assert twin[2] <= np.sum((x[i] - plain[i]) ** 2)
        assert high[i] - low[i] >= 0.499 * (x[i].max() - x[i].min())
    assert np.mean((x - rounded) ** 2) < 0.9 * np.mean((x - plain) ** 2)


def test_torch_finds_the_same_ends():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
    ends = jax.jit(functools.partial(quantize.greedy_clip_range, bins=200, narrowest=0.84))
    low, high = (np.asarray(end) for end in ends(x, bits=4))
    ours = np.sum((x - np.asarray(quantize.fake_quant_rows(x, bits=4, low=low, high=high))) ** 2, axis=1)
    theirs = []
    for row in x:
        top, bottom = (end.numpy() for end in torch.choose_qparams_optimized(torch.tensor(row), row.size, 200, 0.16, 4))
        theirs.append(np.sum((row - np.asarray(quantize.fake_quant_rows(row, bits=4, low=bottom, high=top))) ** 2))
    assert np.sum(ours) == pytest.approx(np.sum(theirs), rel=0.02)  # theirs searches with scales in float32


def test_running_mean():
    batches = [heavy_tailed(4, 3, seed=seed) for seed in range(5)]
    state = None
    for batch in batches:
        state = quantize.running_mean(state, quantize.minmax(batch, axis=1))
    low, high = state.mean
    np.testing.assert_allclose(low, np.mean([b.min(0, keepdims=True) for b in batches], 0), rtol=1e-6)
    np.testing.assert_allclose(high, np.mean([b.max(0, keepdims=True) for b in batches], 0), rtol=1e-6)
    first = quantize.running_mean(None, quantize.absmax_scale(jnp.asarray(batches[0]), bits=4))

    def more(state, batch):
        return quantize.running_mean(state, quantize.absmax_scale(batch, bits=4)), None

    scanned, _ = jax.lax.scan(more, first, np.stack(batches[1:]))
    assert scanned.count == 5
    scales = [float(quantize.absmax_scale(b, bits=4).item()) for b in batches]
    assert scanned.mean.item() == pytest.approx(np.mean(scales), rel=1e-6)


def test_a_grid_of_bits_is_one_trace_and_equals_the_loop():
    x, traces = heavy_tailed(5, 30), 0

    def member(bits):
        nonlocal traces
        traces += 1
        searched = quantize.squared_error_scale(x, bits=bits, axis=0, factors=FACTORS)
        entropy = quantize.entropy_scale(x, bits=bits, bins=64, cuts=16)
        return searched, entropy, *quantize.greedy_clip_range(x, bits=bits, bins=40)

    grid = jax.jit(jax.vmap(member))
    for widths in ([2.0, 4.0], [3.0, 8.0]):
        found = grid(np.array(widths, np.float32))
        for i, bits in enumerate(widths):
            loop = SEARCH(x, bits=bits, axis=0), ENTROPY(x, bits=bits), *ENDS(x, bits=bits)
            for ours, twin in zip(found, loop, strict=True):
                np.testing.assert_allclose(ours[i], twin, rtol=1e-6)
    assert traces == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: quantize.squared_error_scale(jnp.arange(3), bits=2), TypeError),
        (lambda: quantize.squared_error_scale(jnp.ones(3), bits=2, axis=1), ValueError),
        (lambda: quantize.percentile_scale(jnp.arange(3), bits=2), TypeError),
        (lambda: quantize.percentile_scale(jnp.ones(3), bits=2, axis=(0, 0)), ValueError),
        (lambda: quantize.entropy_scale(jnp.ones(3), bits=2, bins=8, cuts=9), ValueError),
        (lambda: quantize.entropy_scale(jnp.arange(3), bits=2), TypeError),
        (lambda: quantize.greedy_clip_range(jnp.array(1.0), bits=2), ValueError),
        (lambda: quantize.greedy_clip_range(jnp.arange(3), bits=2), TypeError),
        (lambda: quantize.signal_to_noise(jnp.ones(3), jnp.ones(2)), ValueError),
    ],
)
def test_bad_inputs(call, error):
    with pytest.raises(error):
        call()
