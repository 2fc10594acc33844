"""Sensitivity against a loop over leaves and widths; trained widths against twins (references) and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import quantize

BITS = [0, 1, 2, 4]


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_sensitivity_is_a_loop_over_leaves_and_widths():
    params = {"a": {"w": gaussian(6, 5), "b": gaussian(5, seed=1)}, "c": gaussian(5, 2, seed=2), "ids": np.arange(3)}
    x, traces = gaussian(10, 6, seed=3), 0

    def loss(params):
        nonlocal traces
        traces += 1
        hidden = jnp.tanh(x @ params["a"]["w"] + params["a"]["b"][None])
        return jnp.mean((hidden @ params["c"]) ** 2) + params["ids"].sum()

    call = jax.jit(lambda params, bits: quantize.sensitivity(loss, params, bits=bits))
    for widths in ([2.0, 4.0, 16.0], [3.0, 8.0, 1.0]):
        found = call(params, np.array(widths))
        assert traces == 1
        np.testing.assert_array_equal(found["ids"], np.zeros(3))
        for path in (("a", "w"), ("a", "b"), ("c",)):
            for i, width in enumerate(widths):
                changed = {"a": dict(params["a"]), "c": params["c"], "ids": params["ids"]}
                owner = changed["a"] if len(path) == 2 else changed
                leaf = owner[path[-1]]
                if width == 1:
                    owner[path[-1]] = np.where(leaf < 0, -1, 1) * np.float32(np.float16(np.abs(leaf).mean()))
                else:
                    owner[path[-1]] = references.fake_quant(leaf, bits=int(width))

                def twin(p):
                    hidden = np.tanh(x.astype(np.float64) @ p["a"]["w"] + p["a"]["b"])
                    return np.mean((hidden @ p["c"]) ** 2)

                ours = found["a"][path[1]][i] if len(path) == 2 else found["c"][i]
                np.testing.assert_allclose(ours, twin(changed) - twin(params), atol=2e-6)


def test_sensitivity_with_a_quantizer_of_rows():
    params = {"w": gaussian(6, 5)}
    found = quantize.sensitivity(
        lambda p: jnp.sum((p["w"] - params["w"]) ** 2),
        params,
        bits=[2, 3],
        quantizer=lambda leaf, bits: quantize.fake_quant(leaf, bits=bits, axis=0),
    )
    twin = [np.sum((references.fake_quant(params["w"], bits=b, axis=0) - params["w"]) ** 2) for b in (2, 3)]
    np.testing.assert_allclose(found["w"], twin, rtol=1e-5)
    with pytest.raises(ValueError, match="bits"):
        quantize.sensitivity(lambda p: p["w"].sum(), params, bits=jnp.array(2.0))


def test_mixed_precision_and_its_gradients():
    x, offset = gaussian(7, 6), np.float32(np.float16(0.3)) * gaussian(6, seed=1)
    offset = offset.astype(np.float16).astype(np.float32)
    shares = np.asarray(jax.nn.softmax(gaussian(7, 4, seed=2)))
    steps = np.array([9.0, 0.75, 0.5, 0.25], np.float32)
    weights = gaussian(7, 6, seed=3)

    @jax.jit
    def call(x, shares, steps, offset, bits):
        value, pull = jax.vjp(lambda *args: quantize.mixed_precision(*args, bits=bits), x, shares, steps, offset)
        return value, pull(jnp.asarray(weights))

    value, (to_x, to_shares, to_steps, to_offset) = call(x, shares, steps, offset, np.array(BITS, np.float32))
    twin = references.mixed_precision(x, shares, steps, offset[None], BITS, references.learned_step_offset)
    np.testing.assert_allclose(value, twin, rtol=1e-5, atol=1e-6)
    expected = [np.zeros(part.shape) for part in (x, shares, steps, offset)]
    for b, (width, step) in enumerate(zip(BITS, steps, strict=True)):
        if width > 0:
            own = weights * shares[:, b, None]
            learned = references.learned_step_offset(x, np.full((1, 1), step), offset[None], own, bits=width)
            expected[0] += learned[1]
            expected[1][:, b] = np.sum(weights * learned[0], -1)
            expected[2][b] = learned[2].item()
            expected[3] += learned[3][0]
    for found, by_hand in zip((to_x, to_shares, to_steps, to_offset), expected, strict=True):
        np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-5)
    assert np.asarray(to_steps)[0] == 0
    one = np.eye(4, dtype=np.float32)[[0] * 7]
    np.testing.assert_array_equal(call(x, one, steps, offset, np.array(BITS, np.float32))[0], np.zeros((7, 6)))


def test_shares_penalty_and_choice():
    logits = gaussian(5, 4) * np.float32(0.003)
    shares = np.asarray(quantize.bit_width_shares(logits))
    exponentials = np.exp(logits.astype(np.float64) / 0.003)
    np.testing.assert_allclose(shares, exponentials / exponentials.sum(-1, keepdims=True), rtol=1e-5)
    counts = np.array([40, 10, 25, 10, 1000])
    penalty = quantize.bit_width_penalty(shares, counts, bits=BITS)
    np.testing.assert_allclose(penalty, (shares @ np.array(BITS)) / (counts / 10), rtol=1e-5)
    np.testing.assert_array_equal(quantize.chosen_bit_widths(shares, bits=BITS), references.chosen_bits(shares, BITS))
    edge = np.array([[0.875, 0.0, 0.125, 0.0], [0.125, 0.125, 0.124, 0.626], [np.nan, 0, 0, 1]], np.float32)
    np.testing.assert_array_equal(quantize.chosen_bit_widths(edge, bits=BITS), [2, 4, np.nan])


def test_frequency_groups():
    counts = np.random.default_rng(0).zipf(1.5, 50)
    groups = np.asarray(quantize.frequency_groups(counts, groups=8))
    assert sorted(set(groups)) == list(range(8))
    assert np.bincount(groups).min() >= 6
    assert np.bincount(groups).max() <= 7
    for low in range(7):
        assert counts[groups == low].max() <= counts[groups == low + 1].min()
    np.testing.assert_array_equal(quantize.frequency_groups(np.full(4, 3), groups=2), [0, 0, 1, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantize.frequency_groups(jnp.ones((2, 2))),
        lambda: quantize.frequency_groups(jnp.ones(2), groups=0),
        lambda: quantize.chosen_bit_widths(jnp.ones((2, 3)), bits=[1, 2]),
        lambda: quantize.bit_width_penalty(jnp.ones((2, 3)), jnp.ones(3), bits=[1, 2, 3]),
        lambda: quantize.mixed_precision(jnp.ones((2, 3)), jnp.ones((2, 2)), jnp.ones(2), jnp.ones(2), bits=[1, 2]),
        lambda: quantize.mixed_precision(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2), jnp.ones(3), bits=[1, 2]),
    ],
)
def test_bad_shapes(call):
    with pytest.raises(ValueError, match="expected"):
        call()
