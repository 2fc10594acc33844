"""Learned quantizers against twins with closed-form gradients (references), torch's fake quantization, and packing."""

import functools
import math

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

BITS = [1, 2, 3, 4, 8]
SHAPE = (6, 10)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def float16(x):
    return np.asarray(x, np.float16).astype(np.float32)


@jax.jit
def with_gradients(x, step, cotangent, bits):
    value, pull = jax.vjp(lambda x, step: quantize.learned_step(x, step, bits=bits), x, step)
    return value, *pull(cotangent)


@jax.jit
def offset_with_gradients(x, step, offset, cotangent, bits):
    value, pull = jax.vjp(lambda *args: quantize.learned_step_offset(*args, bits=bits), x, step, offset)
    return value, *pull(cotangent)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("step_shape", [(6, 1), (1, 10), (1, 1)])
def test_learned_step_and_its_gradients(bits, step_shape):
    x, cotangent = gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    step = float16(np.random.default_rng(2).uniform(0.5, 1.5, step_shape) * 2 / 2 ** (bits - 1))  # some are clipped
    ours = with_gradients(x, step, cotangent, float(bits))
    twin = references.learned_step(x, step, cotangent, bits=bits)
    np.testing.assert_array_equal(ours[0], twin[0].astype(np.float32))
    np.testing.assert_array_equal(ours[1], twin[1])
    np.testing.assert_allclose(ours[2], twin[2], rtol=1e-4, atol=1e-5)
    low, high = references.step_bounds(bits)
    clipped = (x / step < low) | (x / step > high)
    assert 0 < clipped.mean() < 1


@pytest.mark.parametrize("bits", BITS)
def test_learned_step_offset_and_its_gradients(bits):
    x, cotangent = gaussian(*SHAPE) + np.float32(0.7), gaussian(*SHAPE, seed=1)
    step = float16(np.random.default_rng(2).uniform(0.5, 1.5, (1, 1)) * 2 / 2 ** (bits - 1))
    offset = float16(gaussian(1, 10, seed=3))
    ours = offset_with_gradients(x, step, offset, cotangent, float(bits))
    twin = references.learned_step_offset(x, step, offset, cotangent, bits=bits)
    np.testing.assert_allclose(ours[0], twin[0], rtol=1e-6, atol=1e-6)
    for found, expected in zip(ours[1:], twin[1:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.any(np.asarray(ours[3]) != 0)


@pytest.mark.parametrize("bits", BITS)
def test_what_is_trained_is_what_is_packed(bits):
    x = gaussian(*SHAPE)
    step = np.array([[0.3], [-0.11], [1e-9], [0.0], [7.77], [1e-3]], np.float32)  # any that an optimizer leaves
    offset = gaussian(1, 10, seed=3)
    trained = with_gradients(x, step, x, float(bits))[0]
    usable = quantize.usable_step(step)
    packed = quantize.quantize_with(x, usable, bits=bits, full_range=True)
    assert packed.nbytes == 6 * math.ceil(10 * bits / 8) + 2 * 6
    np.testing.assert_array_equal(packed.scale, usable)
    np.testing.assert_array_equal(np.asarray(quantize.dequantize(packed)).view(np.uint32), trained.view(jnp.uint32))
    moved = offset_with_gradients(x, step, offset, x, float(bits))[0]
    packed = quantize.quantize_with(x - float16(offset), usable, bits=bits, full_range=True)
    np.testing.assert_array_equal(quantize.dequantize(packed) + float16(offset), moved)


def test_usable_steps_are_positive_float16_and_can_leave_zero():
    step = np.array([0.1, -0.25, 0.0, -1e-9, 1e6, np.nan], np.float32)
    twin = np.minimum(np.maximum(np.abs(step), 2.0**-14), 65504).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(quantize.usable_step(step), twin)
    slope = jax.grad(lambda s: jnp.sum(quantize.usable_step(s)))(step)
    np.testing.assert_array_equal(slope[:5], [1, -1, 1, -1, 1])
    grown = with_gradients(np.ones((2, 3), np.float32), np.zeros((1, 1), np.float32), np.ones((2, 3), np.float32), 2.0)
    assert grown[2].item() > 0  # all three entries are clipped, so a larger step is what moves them
    assert np.isfinite(grown[0]).all()


@pytest.mark.parametrize("bits", BITS)
def test_initial_step(bits):
    x = gaussian(*SHAPE)
    for axis, shared in ((None, (0, 1)), (0, 1), (1, 0)):
        twin = 2 * np.abs(x.astype(np.float64)).mean(shared, keepdims=True) / np.sqrt(references.step_bounds(bits)[1])
        np.testing.assert_allclose(quantize.initial_step(x, bits=bits, axis=axis), twin, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_torch_agrees(bits):
    torch = pytest.importorskip("torch")
    x, cotangent = gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    step = float16(0.8 / 2 ** (bits - 2))
    low, high = references.step_bounds(bits)
    x_, step_ = torch.tensor(x, requires_grad=True), torch.tensor([float(step)], requires_grad=True)
    # torch multiplies the step's gradient by the last argument
    theirs = torch._fake_quantize_learnable_per_tensor_affine(
        x_, step_, torch.zeros(1), low, high, 1 / math.sqrt(x.size * high)
    )
    theirs.backward(torch.tensor(cotangent))
    value, to_x, to_step = with_gradients(x, step.reshape(1, 1), cotangent, float(bits))
    np.testing.assert_allclose(value, theirs.detach(), rtol=1e-6)
    # torch decides what is inside from the rounded quotient, the paper from the quotient itself
    quotient = x / step
    same = (np.rint(quotient) >= low) & (np.rint(quotient) <= high) == ((quotient >= low) & (quotient <= high))
    assert same.mean() > 0.8
    np.testing.assert_array_equal(np.asarray(to_x)[same], x_.grad.numpy()[same])
    between = np.where(same, 0, np.rint(quotient) - quotient - np.clip(np.rint(quotient), low, high))
    correction = np.sum(cotangent * between) / math.sqrt(x.size * high)
    np.testing.assert_allclose(to_step.item(), step_.grad.item() - correction, rtol=1e-4)


def test_a_grid_of_bits_is_one_trace_and_equals_the_loop():
    x, cotangent, traces = gaussian(*SHAPE), gaussian(*SHAPE, seed=1), 0
    step = np.full((6, 1), 0.25, np.float32)

    def member(bits, scale):
        nonlocal traces
        traces += 1
        call = functools.partial(quantize.learned_step, bits=bits, gradient_scale=scale)
        value, pull = jax.vjp(call, x, step)
        return value, *pull(cotangent)

    grid = jax.jit(jax.vmap(member))
    for widths in ([1.0, 2.0, 4.0, 16.0], [8.0, 3.0, 32.0, 5.0]):
        scales = np.array([0.1, 1.0, 2.0, 3.0], np.float32)
        found = grid(np.array(widths, np.float32), scales)
        for i, bits in enumerate(widths):
            if bits >= 16:
                expected = x, cotangent, np.zeros((6, 1))
            else:
                expected = references.learned_step(x, step, cotangent, bits=int(bits))
                published = 1 / np.sqrt(10 * references.step_bounds(int(bits))[1])
                expected = *expected[:2], expected[2] * scales[i] / published
            for ours, twin in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours[i], twin, rtol=1e-4, atol=1e-5)
    assert traces == 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(-6, 6), st.integers(0, 1000), st.sampled_from([2.0, 4.0]))
def test_powers_of_two_scale_values_and_leave_gradients(power, seed, bits):
    x, cotangent, step = gaussian(*SHAPE, seed=seed), gaussian(*SHAPE, seed=1), np.full((6, 1), 0.5, np.float32)
    factor = np.float32(2.0**power)
    plain = with_gradients(x, step, cotangent, bits)
    scaled = with_gradients(factor * x, factor * step, cotangent, bits)
    np.testing.assert_array_equal(scaled[0], factor * plain[0])
    np.testing.assert_array_equal(scaled[1], plain[1])
    np.testing.assert_array_equal(scaled[2], plain[2])
    np.testing.assert_array_equal(with_gradients(plain[0], step, cotangent, bits)[0], plain[0])  # idempotent


def test_bounds_without_the_last_negative_number():
    x = np.array([-9.0, -0.3, 9.0], np.float32)
    call = jax.jit(lambda x, full: quantize.learned_step(x, jnp.array(0.5), bits=3, full_range=full))
    np.testing.assert_array_equal(call(x, True), [-2.0, -0.5, 1.5])
    np.testing.assert_array_equal(call(x, False), [-1.5, -0.5, 1.5])


def test_nan_stays_in_its_place_and_infinities_are_clipped():
    x = np.array([[np.nan, 0.2, np.inf, -np.inf, 0.0]], np.float32)
    value = quantize.learned_step(x, jnp.array(0.5), bits=3)
    np.testing.assert_array_equal(value, [[np.nan, 0, 1.5, -2, 0]])
    moved = quantize.learned_step_offset(x, jnp.array(0.5), jnp.array(1.0), bits=3)
    np.testing.assert_array_equal(moved, [[np.nan, 0, 2.5, -1, 0]])
    np.testing.assert_array_equal(quantize.clipped_activation(x, 1.5, bits=2), [[np.nan, 0, 1.5, 0, 0]])
    assert np.isnan(quantize.learned_step(x, jnp.array(np.nan), bits=3)).all()


@pytest.mark.parametrize("bits", BITS)
def test_clipped_activation(bits):
    x, cotangent = gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    clip = np.float32(float16(0.8 / (2**bits - 1)) * (2**bits - 1))  # its step is exact
    x[0, :3] = [clip, 0, -0.0]

    @jax.jit
    def call(x, clip, bits):
        value, pull = jax.vjp(lambda x, clip: quantize.clipped_activation(x, clip, bits=bits), x, clip)
        return value, *pull(jnp.asarray(cotangent))

    ours = call(x, clip, float(bits))
    twin = references.clipped_activation(x, clip, cotangent, bits=bits)
    np.testing.assert_allclose(ours[0], twin[0], rtol=1e-6)
    np.testing.assert_array_equal(ours[1], twin[1])
    np.testing.assert_allclose(ours[2], twin[2], rtol=1e-5)
    assert len(np.unique(ours[0])) <= 2**bits
    np.testing.assert_array_equal(call(x, clip, 16.0)[0], np.clip(x, 0, clip))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_dorefa_weights(bits):
    x = gaussian(*SHAPE)
    ours = jax.jit(lambda x, bits: quantize.dorefa_weights(x, bits=bits))(x, float(bits))
    # the stored 2 / L is a float16: it is off by 2^-11 of itself at most, the values by that of the range
    np.testing.assert_allclose(ours, references.dorefa_weights(x, bits=bits), atol=2.0**-10)
    if bits > 1:
        packed = quantize.quantize_rows(quantize.tanh_normalized_weights(x), bits=bits, low=-1.0, high=1.0)
        np.testing.assert_array_equal(quantize.dequantize(packed), ours)


def test_dorefa_gradient_is_true_but_for_rounding():
    x, cotangent = gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    ours = jax.grad(lambda x: jnp.sum(cotangent * quantize.dorefa_weights(x, bits=4)))(x)
    squeezed = np.tanh(x.astype(np.float64))
    place = np.unravel_index(np.abs(squeezed).argmax(), SHAPE)
    top = np.abs(squeezed[place])
    by_hand = cotangent / top
    by_hand[place] -= np.sign(squeezed[place]) * np.sum(cotangent * squeezed) / top**2
    np.testing.assert_allclose(ours, by_hand * (1 - squeezed**2), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(quantize.tanh_normalized_weights(jnp.zeros(3)), np.zeros(3))


def test_quantized_backward():
    cotangent, key = (
        gaussian(*SHAPE) * np.float32(10.0) ** np.arange(-2, 4, dtype=np.float32)[:, None],
        jax.random.key(5),
    )
    cotangent[3] = 0
    x = gaussian(*SHAPE, seed=2)

    @jax.jit
    def back(key, bits):
        value, pull = jax.vjp(lambda x: quantize.quantized_backward(x, key, bits=bits), x)
        return value, pull(jnp.asarray(cotangent))[0]

    noise = np.asarray(jax.random.uniform(key, SHAPE, jnp.float32, -0.5, 0.5), np.float64)
    for bits in (1, 2, 4, 8):
        value, gradient = back(key, float(bits))
        np.testing.assert_array_equal(value, x)
        twin = references.dorefa_gradient(cotangent, noise, bits=bits)
        np.testing.assert_allclose(gradient, twin, rtol=1e-4, atol=1e-6 * np.abs(cotangent).max())
    np.testing.assert_array_equal(back(key, 16.0)[1], cotangent)
    keys = jax.random.split(key, 4000)
    mean = jax.jit(lambda keys: jnp.mean(jax.vmap(lambda k: back(k, 2.0)[1])(keys), 0))(keys)
    top = np.abs(cotangent).max(1, keepdims=True)
    assert (np.abs(mean - cotangent) <= 5 * top / 3 / np.sqrt(4000)).all()  # sd of one is at most a third of 2 top


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: quantize.learned_step(jnp.arange(3), jnp.array(0.5), bits=2), TypeError),
        (lambda: quantize.learned_step(jnp.ones(3), jnp.array(1), bits=2), TypeError),
        (lambda: quantize.learned_step(jnp.ones((2, 3)), jnp.ones((2, 2)), bits=2), ValueError),
        (lambda: quantize.learned_step(jnp.ones((2, 3)), jnp.ones(2), bits=2), ValueError),
        (lambda: quantize.learned_step_offset(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones(3), bits=2), ValueError),
        (
            lambda: quantize.learned_step_offset(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones((1, 2)), bits=2),
            ValueError,
        ),
        (lambda: quantize.initial_step(jnp.ones((2, 3)), bits=2, axis=2), ValueError),
        (lambda: quantize.clipped_activation(jnp.ones(3), jnp.ones(3), bits=2), ValueError),
        (lambda: quantize.clipped_activation(jnp.arange(3), 1.0, bits=2), TypeError),
        (lambda: quantize.dorefa_weights(jnp.array(1.0), bits=2), ValueError),
        (lambda: quantize.quantized_backward(jnp.array(1.0), jax.random.key(0), bits=2), ValueError),
    ],
)
def test_bad_inputs(call, error):
    with pytest.raises(error):
        call()
