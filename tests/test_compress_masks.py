"""Pruned and quantized to any width: zeros stay zero, scales are those of what is kept, what is packed is what trained.

The twins know no masks: they are given the kept entries of what shares a scale, and nothing else.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references

from recjax import compress, embed, prune, quantize

TABLE, KERNEL, LEARNED = "item", "net/hidden_0/kernel", "net/output/kernel"
WIDTHS = [1, 2, 4, 8]


def bits(hparams):
    return hparams["bits"]


PLAN = compress.chain(
    compress.magnitude_pruning([TABLE, KERNEL, LEARNED, "user"], sparsity=lambda hparams, step: 0.4),
    compress.row_quantization([TABLE], bits=bits),
    compress.learned_steps(["user"], bits=bits),
    compress.kernel_quantization([KERNEL], bits=bits),
    compress.kernel_learned_steps([LEARNED], bits=bits),
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def masked_case(seed=0):
    """Values and a mask with a row of nothing, a row of one entry, and a row whose largest entry is dropped."""
    x = draw(6, 5, seed=seed)
    keep = np.random.default_rng(seed + 1).random((6, 5)) < 0.6
    keep[1], keep[2] = False, np.arange(5) == 3
    keep[3] = np.abs(x[3]) < np.abs(x[3]).max()
    x[4] = np.abs(x[4]) + 1  # a range without a zero in it
    return x, keep


def of_kept(x, keep, twin, **layout):
    """A twin of a vector, on the kept entries of each group."""
    found = np.zeros(x.shape, np.float32)
    for entries in references.sharing(x.shape, **layout):
        kept = [place for place in entries if keep[place]]
        if kept:
            found[tuple(np.transpose(kept))] = twin(np.array([x[place] for place in kept]))
    return found


@functools.partial(jax.jit, static_argnames=("axis", "group_size", "granularity"))
def fake(x, keep, width, axis=None, group_size=None, granularity=None):
    layout = {"axis": axis, "group_size": group_size, "granularity": granularity}
    return quantize.fake_quant(x, bits=width, where=keep, **layout)


pack = jax.jit(quantize.quantize, static_argnames=("bits", "axis", "group_size"))


@pytest.mark.parametrize(
    "layout",
    [{"axis": 0}, {"axis": -1}, {}, {"axis": 0, "group_size": 2}, {"axis": 0, "group_size": 2, "granularity": 1}],
)
def test_scales_are_those_of_kept_entries(layout):
    x, keep = masked_case()
    for width in WIDTHS:
        twin = of_kept(x, keep, lambda kept, w=width: references.fake_quant_grouped(kept, bits=w), **layout)
        found = fake(x, keep, width, **layout)
        np.testing.assert_array_equal(found, twin)
        if layout == {"axis": 0, "group_size": 2}:
            packed = pack(x, bits=width, where=keep, **layout)
            np.testing.assert_array_equal(prune.densify(prune.sparsify(packed, jnp.asarray(keep))), found)
            if width > 1:  # a grid with a zero needs no bitmap
                np.testing.assert_array_equal(quantize.dequantize(packed), found)


def test_rows_with_a_bias():
    x, keep = masked_case(2)
    rows = jax.jit(lambda x, keep, width: quantize.fake_quant_rows(x, bits=width, where=keep))
    for width in WIDTHS:
        twin = of_kept(x, keep, lambda kept, w=width: references.fake_quant_row(kept, bits=w), axis=0)
        found = rows(x, keep, width)
        np.testing.assert_allclose(found, twin, rtol=1e-6, atol=1e-7)
        packed = quantize.quantize_rows(x, bits=width, where=jnp.asarray(keep))
        assert packed.bias[1] == 0  # of no entry
        np.testing.assert_array_equal(prune.densify(prune.sparsify(packed, jnp.asarray(keep))), found)
    grads = jax.grad(lambda x: rows(x, keep, 2).sum())(np.where(keep, x, 0))
    np.testing.assert_array_equal(grads, np.ones(x.shape))  # masked entries too, though 0 is outside a row's range


def test_all_kept_is_as_without_a_mask_and_gradients_pass_straight_through():
    x, keep = masked_case(3)
    everything = np.ones_like(keep)
    for width in (*WIDTHS, 16):
        np.testing.assert_array_equal(fake(x, everything, width, axis=0), quantize.fake_quant(x, bits=width, axis=0))
    np.testing.assert_array_equal(fake(x, keep, 16, axis=0), np.where(keep, x, 0))
    np.testing.assert_array_equal(jax.grad(lambda x: fake(x, keep, 1, axis=0).sum())(x), np.ones(x.shape))


def test_a_masked_nan_is_seen_and_wrong_masks_are_refused():
    x, keep = masked_case(4)
    x[1, 2] = np.nan  # in the row of which nothing is kept
    assert np.isnan(fake(x, keep, 1, axis=0)[1, 2])
    assert np.isnan(quantize.quantize(x, bits=1, axis=0, where=keep).scale[1, 0])
    assert np.isnan(quantize.fake_quant_rows(x, bits=1, where=keep)[1, 2])
    for call in (quantize.fake_quant, quantize.quantize, quantize.fake_quant_rows, quantize.quantize_rows):
        with pytest.raises(ValueError, match=r"where: expected shape \(6, 5\) of x, got \(5,\)"):
            call(x, bits=1, where=keep[0])
        with pytest.raises(TypeError, match="where: expected bool, got float32"):
            call(x, bits=1, where=jnp.ones((6, 5)))


def test_learned_steps_of_a_pruned_array():
    x, keep = masked_case(5)
    weights, step = draw(6, 5, seed=9), np.float32(0.5)
    for width in (1, 2):
        run = lambda x, s, w=width: quantize.learned_step(x, s, bits=w, where=keep, gradient_scale=1.0)  # noqa: E731
        value, pull = jax.vjp(jax.jit(run), np.where(keep, x, 0), step)
        to_x, to_step = pull(weights)
        twin, slope, total = references.learned_step(x, np.full((1, 1), step), weights, bits=width)
        np.testing.assert_allclose(value, np.where(keep, twin, 0), rtol=1e-6)
        np.testing.assert_allclose(to_x, np.where(keep, slope, weights), rtol=1e-6)
        _, _, total = references.learned_step(x[keep], np.full(1, step), weights[keep], bits=width)
        high = 1 if width == 1 else 2 ** (width - 1) - 1
        np.testing.assert_allclose(to_step, total[0] * np.sqrt(keep.sum() * high), rtol=1e-4)


def parameters():
    net = {"hidden_0": {"kernel": draw(6, 8, seed=1)}, "output": {"kernel": draw(8, 3, seed=2)}}
    return {"tables": {"item": draw(9, 6, seed=3), "user": draw(7, 6, seed=4)}, "net": net}


@jax.jit
def train(params, learned, state, hparams):
    """A few steps with masks that are refreshed at each; what was read at the end."""
    optimizer, targets = optax.adam(0.02), jax.tree.map(jnp.flip, params)

    def read(params, learned, state):
        seen = PLAN.apply(params, learned, state, hparams)
        return {**seen, "tables": {name: embed.lookup(table) for name, table in seen["tables"].items()}}

    def loss(trained, state):
        gaps = jax.tree.map(lambda leaf, target: jnp.mean((leaf - target) ** 2), read(*trained, state), targets)
        return sum(jax.tree.leaves(gaps))

    def body(carry, step):
        trained, moments, state = carry
        change, moments = optimizer.update(jax.grad(loss)(trained, state), moments)
        trained = optax.apply_updates(trained, change)
        return (trained, moments, PLAN.update(*trained, state, None, step, hparams)), None

    trained = params, learned
    (trained, _, state), _ = jax.lax.scan(body, (trained, optimizer.init(trained), state), jnp.arange(5))
    return *trained, state, read(*trained, state)


@pytest.mark.parametrize("width", WIDTHS)
def test_pruned_entries_stay_zero_through_training_and_into_what_is_packed(width):
    hparams = {"bits": float(width)}
    learned, state = PLAN.init(jax.random.key(0), parameters(), hparams)
    params, learned, (masks, *_), read = train(parameters(), learned, state, hparams)
    weights = {TABLE: params["tables"]["item"], KERNEL: params["net"]["hidden_0"]["kernel"]}
    found = {TABLE: read["tables"]["item"], KERNEL: read["net"]["hidden_0"]["kernel"]}
    for (path, leaf), axis in zip(weights.items(), (0, -1), strict=True):
        keep = masks[path]
        assert (np.asarray(leaf)[~keep] != 0).all()  # they train on behind the mask
        packed = prune.sparsify(pack(leaf, bits=width, axis=axis, where=keep), keep)
        np.testing.assert_array_equal(prune.densify(packed), found[path])
        if path == TABLE:
            own = embed.quantized(jnp.where(keep, leaf, 0), bits=width)
            np.testing.assert_array_equal(embed.lookup(own), found[path])
        twin = of_kept(leaf, keep, lambda kept: references.fake_quant_grouped(kept, bits=width), axis=axis)
        np.testing.assert_array_equal(found[path], twin)
    stepped = {"user": (params["tables"]["user"], learned[2]["user"], read["tables"]["user"])}
    stepped[LEARNED] = (params["net"]["output"]["kernel"], learned[4][LEARNED], read["net"]["output"]["kernel"])
    for path, (leaf, step, seen) in stepped.items():
        whole = quantize.quantize_with(leaf, quantize.usable_step(step), bits=width, full_range=True)
        np.testing.assert_array_equal(prune.densify(prune.sparsify(whole, masks[path])), seen)
        assert (np.asarray(seen)[~masks[path]] == 0).all()
