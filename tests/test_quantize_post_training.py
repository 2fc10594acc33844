"""GPTQ, AWQ and SmoothQuant against elimination and brute force in NumPy (references), qwix, and what they promise."""

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

quantize = Programs(recjax.quantize)

GPTQ = jax.jit(quantize.gptq)
AWQ = jax.jit(quantize.activation_aware_scales)
NEAREST = jax.jit(quantize.fake_quant_with)
MANY = (
    jax.jit(jax.vmap(lambda w, x, scale, bits: quantize.gptq(w, x, scale, bits=bits), (0, 0, 0, None))),
    jax.jit(jax.vmap(lambda w, scale, bits: quantize.fake_quant_with(w, scale, bits=bits), (0, 0, None))),
)


def layer(seed=0, n=40, width=12, outputs=5):
    """Correlated inputs, some much larger than others, and a kernel."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.exp(rng.normal(size=width))
    return rng.normal(size=(width, outputs)).astype(np.float32), inputs.astype(np.float32)


def output_error(kernel, rounded, inputs):
    return np.sum((inputs.astype(np.float64) @ (kernel - np.asarray(rounded, np.float64))) ** 2)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_gptq_is_elimination(bits, damping):
    kernel, inputs = layer(bits)
    inputs[:, 3] = 0
    levels = 2 ** (bits - 1) - 1
    scale = np.asarray(quantize.absmax_scale(kernel, bits=bits, axis=1))
    ours = np.asarray(GPTQ(kernel, inputs, scale, bits=float(bits), damping=damping))
    twin = references.gptq(kernel, inputs, scale, low=-levels, high=levels, damping=damping)
    np.testing.assert_allclose(ours, twin, rtol=1e-6, atol=1e-6)
    assert (ours[3] == 0).all()
    packed = quantize.quantize_with(ours, scale, bits=bits)
    np.testing.assert_array_equal(quantize.dequantize(packed), ours)


@pytest.mark.parametrize("bits", [2.0, 3.0, 4.0])
def test_gptq_is_better_than_the_nearest(bits):
    kernels, inputs = (np.stack(parts) for parts in zip(*(layer(seed) for seed in range(50)), strict=True))
    scales = jax.vmap(lambda kernel: quantize.absmax_scale(kernel, bits=bits, axis=1))(kernels)
    found = MANY[0](kernels, inputs, scales, bits), MANY[1](kernels, scales, bits)
    ours, nearest = ([output_error(*each) for each in zip(kernels, f, inputs, strict=True)] for f in found)
    assert np.mean(np.less(ours, nearest)) >= 0.9  # greedy: not a promise for each
    assert np.median(np.divide(ours, nearest)) < 0.75


@pytest.mark.parametrize("width", [1, 6, 64])
def test_gptq_of_inputs_of_rank_one(width):
    rng = np.random.default_rng(width)
    inputs = (rng.normal(size=(50, 1)) @ rng.normal(size=(1, width))).astype(np.float32)
    kernel = rng.normal(size=(width, 4)).astype(np.float32)
    scale = quantize.absmax_scale(kernel, bits=3.0, axis=1)
    nearest = output_error(kernel, NEAREST(kernel, scale, bits=3.0), inputs)
    for damping in (0.0, 1e-8, 1e-4):
        ours = GPTQ(kernel, inputs, scale, bits=3.0, damping=damping)
        assert np.isfinite(ours).all()
        assert output_error(kernel, ours, inputs) <= nearest


def test_gptq_of_uncorrelated_inputs_is_the_nearest():
    kernel, _ = layer()
    inputs = np.eye(12, dtype=np.float32)
    scale = quantize.absmax_scale(kernel, bits=3.0, axis=1)
    np.testing.assert_array_equal(GPTQ(kernel, inputs, scale, bits=3.0), NEAREST(kernel, scale, bits=3.0))
    np.testing.assert_array_equal(GPTQ(kernel, layer()[1], scale, bits=16.0), kernel)
    np.testing.assert_array_equal(GPTQ(kernel, np.zeros((40, 12), np.float32), scale, bits=3.0), np.zeros((12, 5)))


def test_qwix_rounds_alike():
    gptq_core = pytest.importorskip("qwix.contrib.gptq_core")
    qarray = pytest.importorskip("qwix._src.core.qarray")
    kernel, inputs = layer(7)
    how = qarray.HowToQuantize(qtype="int4", channelwise_axes=[0])
    with jax.numpy_rank_promotion("allow"):
        hessian = gptq_core.compute_hessian(jnp.asarray(inputs.T))
        theirs = qarray.dequantize(gptq_core.quantize_weight(jnp.asarray(kernel.T), hessian, how)[0])
    # qwix's scale is a float32, the maximum over 7.5
    scale = np.abs(kernel).max(0, keepdims=True) / 7.5
    ours = GPTQ(kernel, inputs, scale, bits=4.0, full_range=True)
    errors = [output_error(kernel, found, inputs) for found in (ours, np.asarray(theirs).T)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    np.testing.assert_allclose(ours, np.asarray(theirs).T, atol=1e-2)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_activation_aware_scales(bits):
    kernel, inputs = layer(bits + 10)
    ours = np.asarray(AWQ(kernel, inputs, bits=float(bits)))
    error, twin = references.activation_aware_scales(
        kernel, inputs, functools.partial(references.fake_quant, bits=bits, axis=1), grid=20
    )
    np.testing.assert_allclose(ours, twin, rtol=1e-4)
    plain = references.fake_quant(kernel, bits=bits, axis=1)
    assert error <= output_error(kernel, plain, inputs) * 1.00001  # the exponent 0 is no scaling
    assert ours.max() * ours.min() == pytest.approx(1, rel=1e-5)


def test_the_scales_of_qwix_lose_no_less():
    """They are chosen by a weighted error of the weights, which is blind to how inputs are correlated."""
    awq_core = pytest.importorskip("qwix.contrib.awq_core")
    qarray = pytest.importorskip("qwix._src.core.qarray")
    how = qarray.HowToQuantize(qtype="int4", channelwise_axes=[0])
    ratios = []
    for seed in range(5):
        kernel, inputs = layer(seed)
        with jax.numpy_rank_promotion("allow"):
            active = awq_core.compute_act_scale(jnp.asarray(inputs))
            theirs = np.ravel(awq_core.search_optimal_scales(jnp.asarray(kernel.T), active, how))
        errors = []
        for scales in (np.asarray(AWQ(kernel, inputs, bits=4.0)), theirs):
            rounded = references.fake_quant(kernel * scales[:, None], bits=4, axis=1) / scales[:, None]
            errors.append(output_error(kernel, rounded, inputs))
        ratios.append(errors[0] / errors[1])
    assert max(ratios) < 1.001
    assert min(ratios) < 0.9


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_smoothing_scales(strength):
    kernel, inputs = layer(3)
    inputs[:, 2], kernel[5] = 0, 0
    ours = np.asarray(jax.jit(quantize.smoothing_scales)(kernel, inputs, strength=strength))
    np.testing.assert_allclose(ours, references.smoothing_scales(kernel, inputs, strength), rtol=1e-5)
    if strength == 0.5:
        used = np.delete(np.arange(12), [2, 5])
        balanced = np.abs(inputs / ours).max(0), np.abs(kernel * ours[:, None]).max(1)
        np.testing.assert_allclose(balanced[0][used], balanced[1][used], rtol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_scales_leave_the_layer_as_it_was(seed):
    kernel, inputs = layer(seed)
    inputs, before = inputs.astype(np.float64), inputs.astype(np.float64) @ kernel
    for scales in (AWQ(kernel, inputs.astype(np.float32), bits=3.0), quantize.smoothing_scales(kernel, layer(seed)[1])):
        scales = np.asarray(scales, np.float64)
        assert (scales > 0).all()
        np.testing.assert_allclose((inputs / scales) @ (scales[:, None] * kernel), before, rtol=1e-9, atol=1e-9)


def test_smoothing_helps_where_inputs_have_outliers():
    kernel, inputs = layer(4, n=200)
    inputs[:, 1] *= 100
    scales = np.asarray(quantize.smoothing_scales(kernel, inputs))

    def product(x, w):
        return quantize.fake_quant(x, bits=8) @ quantize.fake_quant(w, bits=8, axis=1)

    plain, smooth = product(inputs, kernel), product(inputs / scales, scales[:, None] * kernel)
    exact = inputs @ kernel
    assert np.sum((smooth - exact) ** 2) < 0.5 * np.sum((plain - exact) ** 2)


def test_a_grid_is_one_trace_and_equals_the_loop():
    (kernel, inputs), traces = layer(), 0

    def member(bits, damping):
        nonlocal traces
        traces += 1
        scale = quantize.absmax_scale(kernel, bits=bits, axis=1)
        return quantize.gptq(kernel, inputs, scale, bits=bits, damping=damping)

    grid = jax.jit(jax.vmap(member))
    for widths in ([2.0, 4.0], [3.0, 8.0]):
        found = grid(np.array(widths, np.float32), np.array([0.01, 0.1], np.float32))
        for i, (bits, damping) in enumerate(zip(widths, (0.01, 0.1), strict=True)):
            scale = quantize.absmax_scale(kernel, bits=bits, axis=1)
            np.testing.assert_allclose(found[i], GPTQ(kernel, inputs, scale, bits=bits, damping=damping), atol=1e-5)
    assert traces == 1


def test_nan_is_not_hidden():
    kernel, inputs = layer()
    scale = quantize.absmax_scale(kernel, bits=3.0, axis=1)
    broken = inputs.copy()
    broken[0, 0] = np.nan
    assert np.isnan(GPTQ(kernel, broken, scale, bits=3.0)[1:]).all()
    assert np.isnan(AWQ(kernel, broken, bits=3.0)).any()
    assert np.isnan(quantize.smoothing_scales(kernel, broken)[0])
    kernel = kernel.copy()
    kernel[4, 2] = np.nan
    assert np.isnan(GPTQ(kernel, inputs, scale, bits=3.0)[4:, 2]).all()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: quantize.gptq(jnp.ones((3, 2)), jnp.ones((4, 2)), jnp.array(0.5), bits=2), ValueError),
        (lambda: quantize.gptq(jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.ones((3, 1)), bits=2), ValueError),
        (lambda: quantize.gptq(jnp.ones((3, 2), int), jnp.ones((4, 3)), jnp.array(0.5), bits=2), TypeError),
        (lambda: quantize.gptq(jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.array(1), bits=2), TypeError),
        (lambda: quantize.activation_aware_scales(jnp.ones(3), jnp.ones((4, 3)), bits=2), ValueError),
        (lambda: quantize.smoothing_scales(jnp.ones((3, 2)), jnp.ones(3)), ValueError),
    ],
)
def test_bad_inputs(call, error):
    with pytest.raises(error):
        call()
