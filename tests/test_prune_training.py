"""Scores, masks that change while training, and penalties: against twins, closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from programs import Programs

import recjax

prune = Programs(recjax.prune)

RNG = np.random.default_rng(0)
EXCHANGE = jax.jit(prune.drop_and_grow)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_first_order_scores():
    w, g = {"a": draw(3, 2)}, {"a": draw(3, 2)}
    np.testing.assert_allclose(prune.saliency(w, g)["a"], np.abs(np.float64(w["a"]) * g["a"]), rtol=1e-6)
    kernel, inputs = draw(4, 3), draw(5, 4)
    norms = [np.sqrt(sum(float(v) ** 2 for v in inputs[:, i])) for i in range(4)]
    twin = [[abs(float(kernel[i, j])) * norms[i] for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(prune.activation_magnitude(kernel, inputs), twin, rtol=1e-5)
    with pytest.raises(ValueError, match=r"inputs: expected \[batch, 4\], got \(4, 5\)"):
        prune.activation_magnitude(kernel, inputs.T)


def test_gradient_flow_by_a_hessian_written_out():
    h = draw(4, 4)
    h, b, w = h + h.T, draw(4), draw(4)
    found = prune.gradient_flow(lambda p: p["w"] @ h @ p["w"] / 2 + p["w"] @ b, {"w": jnp.asarray(w)})["w"]
    h, b, w = (np.float64(x) for x in (h, b, w))
    np.testing.assert_allclose(found, w * (h @ (h @ w + b)), rtol=1e-4, atol=1e-5)


def test_random_scores_differ_between_layers_and_keys():
    layers = {"a": jnp.zeros((3, 4)), "b": jnp.zeros((3, 4))}
    one, other = (prune.random_scores(jax.random.key(seed), layers) for seed in (0, 1))
    assert len({float(x[0, 0]) for x in (*one.values(), *other.values())}) == 4
    assert all(((x >= 0) & (x < 1)).all() for x in one.values())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0.0, -0.5, 1.0, 2.0]), min_size=20, max_size=20),
    st.lists(st.booleans(), min_size=20, max_size=20),
    st.lists(st.sampled_from([0.0, -1.0, 3.0]), min_size=20, max_size=20),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_connections_are_exchanged_and_their_number_stays(weights, mask, growth, fraction):
    weights, growth = (np.array(x, np.float32).reshape(4, 5) for x in (weights, growth))
    mask = np.array(mask).reshape(4, 5)
    found = EXCHANGE(weights, mask, growth, fraction=fraction)
    new, grown = references.drop_and_grow(weights, mask, growth, fraction)
    np.testing.assert_array_equal(found.mask, new)
    np.testing.assert_array_equal(found.grown, grown)
    assert found.mask.sum() == mask.sum()


def test_exchange_over_fractions_is_one_program_and_refuses_other_shapes():
    w, mask, growth = draw(4, 5), RNG.random((4, 5)) < 0.5, draw(4, 5)
    fractions = jnp.array([0.0, 0.3, 1.0])
    found = jax.vmap(lambda f: EXCHANGE(w, mask, growth, fraction=f).mask)(fractions)
    for fraction, ours in zip(fractions, found, strict=True):
        np.testing.assert_array_equal(ours, references.drop_and_grow(w, mask, growth, float(fraction))[0])
    with pytest.raises(ValueError, match="expected equal shapes"):
        prune.drop_and_grow(w, mask, growth[:2], fraction=0.1)
    steps = np.array([0, 25, 50, 100, 140])
    twin = [0.4 / 2 * (1 + np.cos(np.pi * min(t, 100) / 100)) for t in steps]
    np.testing.assert_allclose(prune.drop_fraction(steps, end=100, initial=0.4), twin, atol=1e-6)


def test_moments_of_new_connections_start_at_zero():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    optimizer = optax.adam(0.1)
    _, state = optimizer.update(jax.tree.map(lambda x: 2 * x, params), optimizer.init(params))
    grown = {"a": jnp.array([[True, False, False], [False, True, False]]), "b": jnp.array([False, False, True])}
    after = prune.reset_moments(state, grown)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for name in ("mu", "nu"):
        for leaf in ("a", "b"):
            old, new = (getattr(s[0], name)[leaf] for s in (state, after))
            np.testing.assert_array_equal(new, np.where(grown[leaf], 0, old))
            assert (old != 0).all()
    assert after[0].count == 1


def test_moments_inside_parts_of_an_optimizer_are_found_and_factored_ones_refused():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    grown = {"a": jnp.array([[True, False, False], [False, True, False]]), "b": jnp.array([False, False, True])}
    parts = {"x": optax.adam(0.1), "y": optax.sgd(0.1, momentum=0.9)}

    def after(optimizer):
        return prune.reset_moments(jax.tree.map(jnp.ones_like, optimizer.init(params)), grown)

    split = after(optax.multi_transform(parts, {"a": "x", "b": "y"})).inner_states
    for moment in (
        split["x"].inner_state[0].mu["a"],
        after(optax.masked(parts["x"], {"a": True, "b": False}))[0][0].nu["a"],
    ):
        np.testing.assert_array_equal(moment, ~grown["a"])
    np.testing.assert_array_equal(split["y"].inner_state[0].trace["b"], ~grown["b"])
    for optimizer in (optax.adafactor(0.1, min_dim_size_to_factor=2), optax.sm3(0.1)):
        with pytest.raises(ValueError, match=r"\['a'\].*: expected a moment of shape \(2, 3\), got"):
            after(optimizer)
    whole = after(optax.adafactor(0.1))[0]  # too small to be factored
    np.testing.assert_array_equal(whole.v["a"], ~grown["a"])
    np.testing.assert_array_equal(whole.v_row["a"], [1])


def test_phases_take_turns_and_end_masked():
    steps = np.arange(20)
    found = np.asarray(prune.in_dense_phase(steps, begin=3, end=15, every=4))
    assert "".join("d" if dense else "s" for dense in found) == "ddd" + "ssss" + "dddd" + "ssss" + "sssss"


def test_gradients_behind_masks():
    w, s, g = draw(6), draw(6), draw(6)
    mask = references.mask_globally([s], 0.5, signed=True)[0]
    w[4] = 0.0
    value, pull = jax.vjp(lambda w, decay: prune.masked_with_decay(w, mask, decay=decay), w, jnp.float32(0.3))
    np.testing.assert_array_equal(value, np.where(mask, w, 0))
    np.testing.assert_allclose(pull(g)[0], g + 0.3 * np.where(mask, 0, w), rtol=1e-6)
    assert pull(g)[1] == 0
    for gated, kept in (
        (lambda w, s: prune.movement_masked(w, s, sparsity=0.5), mask),
        (lambda w, s: prune.soft_movement_masked(w, s, threshold=0.6), 1 / (1 + np.exp(-s)) > 0.6),
    ):
        value, pull = jax.vjp(gated, w, s)
        np.testing.assert_array_equal(value, np.where(kept, w, 0))
        np.testing.assert_allclose(pull(g)[0], g * kept, rtol=1e-6)
        np.testing.assert_allclose(pull(g)[1], g * w, rtol=1e-6)
    assert np.isnan(prune.masked_with_decay(jnp.array([jnp.nan]), jnp.array([False]))[0])
    compiled = jax.jit(prune.score_masked)(jnp.array([jnp.nan, -1.0]), jnp.zeros(2), jnp.zeros(2, bool))
    assert np.isnan(compiled[0])
    assert str(compiled[1]) == "0.0"
    with pytest.raises(ValueError, match="mask: expected shape"):
        prune.masked_with_decay(w, mask[:3])
    with pytest.raises(ValueError, match="scores: expected"):
        prune.movement_masked(w, s[:3], sparsity=0.5)
    with pytest.raises(TypeError, match="scores: expected"):
        prune.movement_masked(w, jnp.asarray(s, jnp.bfloat16), sparsity=0.5)


def test_penalties_and_their_proximal_steps():
    x = draw(3, 4)
    x[1] *= 0.01
    layers = {"x": x, "y": draw(2)}
    total = sum(abs(float(v)) for leaf in layers.values() for v in leaf.ravel())
    np.testing.assert_allclose(prune.l1_penalty(layers, strength=0.3), 0.15 * total, rtol=1e-5)
    norms = np.sqrt((np.float64(x) ** 2).sum(axis=1))
    np.testing.assert_allclose(prune.group_lasso(x, axis=0, strength=0.7), 0.7 * norms.sum(), rtol=1e-5)
    twin = references.soft_threshold(x, np.full(x.shape, 0.4)).reshape(x.shape)
    np.testing.assert_allclose(prune.soft_threshold(x, 0.4), twin, rtol=1e-5, atol=1e-7)
    shrunk = prune.group_soft_threshold(x, 0.4, axis=0)
    np.testing.assert_allclose(shrunk, x * np.maximum(1 - 0.4 / norms, 0)[:, None], rtol=1e-5, atol=1e-7)
    assert (shrunk[1] == 0).all()
    # a proximal step is the minimum of the penalty plus half the squared distance: no neighbor is lower
    for step, penalty in (
        (prune.soft_threshold(x, 0.4), lambda y: prune.l1_penalty(y, strength=0.8)),
        (shrunk, lambda y: prune.group_lasso(y, axis=0, strength=0.4)),
    ):
        best = penalty(step) + np.sum(np.square(step - x)) / 2
        for _ in range(10):
            near = step + 0.05 * draw(3, 4)
            assert penalty(near) + np.sum(np.square(near - x)) / 2 > best
    zeros = jax.grad(lambda y: prune.group_lasso(y, axis=0, strength=1.0))(jnp.zeros((2, 3)))
    assert (zeros == 0).all()
    assert (prune.group_soft_threshold(jnp.zeros((2, 3)), 0.1, axis=0) == 0).all()
    barely = prune.group_soft_threshold(jnp.array([[3.0, 4.0]]), 4.9, axis=0)  # of length 5: a fiftieth is left
    np.testing.assert_allclose(barely, [[0.06, 0.08]], rtol=1e-4)
    broken = prune.group_soft_threshold(jnp.array([[jnp.nan, 1.0], [3.0, 4.0]]), 1.0, axis=0)
    assert np.isnan(broken).tolist() == [[True, True], [False, False]]
    assert np.isnan(prune.soft_threshold(jnp.nan, 1.0))


@pytest.mark.parametrize("shape", [(3, 4), (3, 1), (1, 4), (1, 1)])
def test_learned_thresholds(shape):
    x, logits = draw(3, 4) * 2, draw(*shape)
    thresholds = np.broadcast_to(1 / (1 + np.exp(-np.float64(logits))), x.shape)
    twin = references.soft_threshold(x, thresholds).reshape(x.shape)
    np.testing.assert_allclose(prune.learned_threshold(x, logits), twin, rtol=1e-5, atol=1e-6)
    check_grads(prune.learned_threshold, (x, logits), order=1, modes=["rev"], rtol=2e-2, atol=2e-2, eps=1e-3)
    with pytest.raises(ValueError, match="logits: expected 2 axes as in x"):
        prune.learned_threshold(x, logits[0])
