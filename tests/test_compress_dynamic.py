"""Weights that start anew, through the training step: against loops of masks, Adam and rewinding in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from toy import Hparams

from recjax import compress, prune, rows, train

PATHS = ("item", "net/kernel")
SHAPES = ((6, 4), (4, 3))
RATE, STEPS = 0.1, 12


def half(hparams):
    return hparams.sparsity


def third(hparams):
    return 0.3


def arrays(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in (*SHAPES, (3,))]


def parameters():
    item, kernel, bias = map(jnp.asarray, arrays(0))
    return {"tables": {"item": item}, "net": {"kernel": kernel, "bias": bias}, "auxiliary": {}, "fixed": {}}


def leaves(params):
    return [np.asarray(leaf) for leaf in (params["tables"]["item"], params["net"]["kernel"], params["net"]["bias"])]


def loss(params, batch, hparams, key):
    """Half the squares of the gaps to targets: a gradient is a gap."""
    seen = [params["tables"]["item"], params["net"]["kernel"], params["net"]["bias"]]
    seen[0] = seen[0] if isinstance(seen[0], jax.Array) else seen[0].rows(None)
    return sum(jnp.sum((leaf - target) ** 2) / 2 for leaf, target in zip(seen, batch["targets"], strict=True))


def recipe_of(plan):
    return train.Recipe(loss, lambda hparams: optax.adam(hparams.learning_rate), plan, lambda data, ids, key: data)


class Twin:
    """Weights and Adam's moments in float64, and what is read behind masks."""

    def __init__(self):
        self.w = [np.float64(x) for x in arrays(0)]
        self.masks = [np.ones(x.shape, bool) for x in self.w]
        self.m, self.v = ([np.zeros(x.shape) for x in self.w] for _ in range(2))
        self.count = 0

    def step(self, targets):
        """Trains all weights with the gradients of what is read; the gradients."""
        self.count += 1
        grads = [np.where(mask, w, 0) - t for mask, w, t in zip(self.masks, self.w, targets, strict=True)]
        for i, g in enumerate(grads):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i] / (1 - 0.9**self.count), self.v[i] / (1 - 0.999**self.count)
            self.w[i] = self.w[i] - RATE * m / (np.sqrt(v) + 1e-8)
        return grads

    def reset(self, i, where, value=0.0):
        self.w[i] = np.where(where, value, self.w[i])
        self.m[i], self.v[i] = np.where(where, 0, self.m[i]), np.where(where, 0, self.v[i])


def run(plan, masks_of, after):
    """A run of the training step beside a twin, on which ``after(twin, grads, step)`` acts after each of its steps."""
    recipe, hparams, params = recipe_of(plan), Hparams(learning_rate=RATE, sparsity=0.5), parameters()
    state, twin = train.init_state(recipe, params, hparams, jax.random.key(3)), Twin()
    twin.masks[:2] = [np.asarray(masks_of(state)[path]) for path in PATHS]
    step = jax.jit(train.step, static_argnums=0)
    for t in range(STEPS):
        targets = arrays(10 + t)
        state, _ = step(recipe, state, hparams, {"targets": targets}, {})
        after(twin, twin.step(targets), t)
        for ours, theirs in zip(leaves(state.params), twin.w, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=f"step {t}")
        for path, mask in zip(PATHS, twin.masks, strict=False):
            np.testing.assert_array_equal(masks_of(state)[path], mask, err_msg=f"step {t}")
        adam = state.optimizer.dense[0]
        for moments, theirs in ((adam.mu[0], twin.m), (adam.nu[0], twin.v)):
            for ours, one in zip(leaves(moments), theirs, strict=True):
                np.testing.assert_allclose(ours, one, rtol=1e-4, atol=1e-6, err_msg=f"step {t}")
        assert adam.count == t + 1
    return state, twin


def test_rigged_lottery_grows_where_the_dense_gradient_is_largest():
    plan = compress.rigged_lottery(PATHS, sparsity=half, fraction=third, end=10, every=3)
    exchanged = []

    def after(twin, grads, t):
        if t + 1 not in (3, 6, 9):
            return
        share = 0.3 / 2 * (1 + np.cos(np.pi * (t + 1) / 10))
        for i in range(2):
            twin.masks[i], grown = references.drop_and_grow(twin.w[i], twin.masks[i], grads[i], share)
            twin.reset(i, grown)
            exchanged.append(grown.sum())

    state, twin = run(plan, lambda state: state.compression.keep, after)
    assert [mask.sum() for mask in twin.masks[:2]] == [12, 6]
    assert sum(exchanged) >= 4
    seen = plan.apply(state.params, (), state.compression, None)
    np.testing.assert_array_equal(seen["tables"]["item"].rows(None) == 0, ~twin.masks[0])


def test_sparse_evolution_grows_anywhere_else():
    plan = compress.sparse_evolution(PATHS, sparsity=half, fraction=third, end=8, every=4)
    recipe, hparams = recipe_of(plan), Hparams(learning_rate=RATE, sparsity=0.5)
    step, places = jax.jit(train.step, static_argnums=0), []
    for seed in (3, 4):
        state = train.init_state(recipe, parameters(), hparams, jax.random.key(seed))
        for t in range(STEPS):
            before = state
            state, _ = step(recipe, before, hparams, {"targets": arrays(10 + t)}, {})
            for i, path in enumerate(PATHS):
                old, new = (np.asarray(s.compression.keep[path]) for s in (before, state))
                assert new.sum() == old.sum() == np.prod(SHAPES[i]) // 2
                if t + 1 != 4:  # not at the end either
                    np.testing.assert_array_equal(new, old)
                    continue
                grown, gone = new & ~old, old & ~new
                w = np.abs(leaves(state.params)[i])
                assert 0 < grown.sum() <= round(0.3 * old.sum())
                assert w[gone].max() <= w[old & new].min() or grown.sum() < round(0.3 * old.sum())
                for leaf in (state.params, state.optimizer.dense[0].mu[0], state.optimizer.dense[0].nu[0]):
                    assert (leaves(leaf)[i][grown] == 0).all()
                    assert (leaves(leaf)[i][~grown] != 0).all()
                places.append(grown)
    assert not np.array_equal(places[0], places[2])  # another key, other places


def test_alternating_phases():
    plan = compress.alternating_pruning(PATHS, sparsity=half, begin=2, end=9, every=2)

    def after(twin, grads, t):
        masked = [False, False, True, True, False, False, True, True, False, True, True, True, True]
        for i in range(2):
            if masked[t + 1] and not masked[t]:
                twin.masks[i] = references.mask_smallest(np.float32(twin.w[i]), 0.5)
            elif not masked[t + 1]:
                twin.masks[i] = np.ones(SHAPES[i], bool)
            twin.reset(i, ~twin.masks[i])

    state, twin = run(plan, lambda state: state.compression, after)
    assert [mask.sum() for mask in twin.masks[:2]] == [12, 6]
    assert (leaves(state.params)[0][~twin.masks[0]] == 0).all()


def test_lottery_ticket_rewinds_everything_and_nests_its_masks():
    plan = compress.lottery_ticket(PATHS, share=third, every=4, rounds=2)

    def after(twin, grads, t):
        if t + 1 not in (4, 8):
            return
        for i in range(2):
            left = np.where(twin.masks[i], np.float32(twin.w[i]), 0)
            before, twin.masks[i] = twin.masks[i], references.mask_smallest(left, 1 - 0.7 ** ((t + 1) // 4))
            assert (twin.masks[i] <= before).all()
        for i, first in enumerate(arrays(0)):
            twin.reset(i, np.ones(first.shape, bool), np.float64(first))

    _, twin = run(plan, lambda state: state.compression.keep, after)
    assert [mask.sum() for mask in twin.masks[:2]] == [12, 6]  # of 24 and 12, .49 stays


def test_a_chain_restarts_each_and_an_exchange_stays_a_branch():
    plan = compress.chain(
        compress.rigged_lottery(PATHS[:1], sparsity=half, fraction=third, end=10, every=3),
        compress.kernel_quantization(PATHS[1:], bits=lambda hparams: 8.0),
    )
    recipe, hparams = recipe_of(plan), Hparams(learning_rate=RATE, sparsity=0.5)
    state = train.init_state(recipe, parameters(), hparams, jax.random.key(0))
    state = state._replace(step=jnp.array(2, jnp.int32))
    program = jax.make_jaxpr(lambda s, h: jax.vmap(lambda h: train.step(recipe, s, h, {"targets": arrays(10)}, {}))(h))
    grid = Hparams(*(jnp.ones(2) / 2,) * 3)
    assert "cond" in {equation.primitive.name for equation in program(state, grid).jaxpr.eqns}
    after, _ = jax.jit(train.step, static_argnums=0)(recipe, state, hparams, {"targets": arrays(10)}, {})
    grown = np.asarray(after.compression[0].grown["item"])
    assert grown.any()
    assert (leaves(after.params)[0][grown] == 0).all()
    assert (leaves(after.optimizer.dense[0].mu[0])[0][grown] == 0).all()


@pytest.mark.parametrize("make", ["exchange", "ticket"])
def test_tables_that_train_by_rows_are_refused(make):
    plan = {
        "exchange": compress.sparse_evolution(PATHS[:1], sparsity=half, fraction=third, end=10, every=3),
        "ticket": compress.lottery_ticket(PATHS[1:], share=third, every=4),
    }[make]
    by_rows = train.RowSparse(lambda hparams: rows.adam(0.1), lambda batch: {"item": batch["ids"]})
    recipe = recipe_of(plan)._replace(rows=by_rows, loss=lambda params, batch, hparams, key: jnp.zeros(()))
    state = train.init_state(recipe, parameters(), Hparams(sparsity=0.5), jax.random.key(0))
    with pytest.raises(ValueError, match=r"trained densely"):
        train.step(recipe, state, Hparams(), {"ids": jnp.array([1, 2])}, {})


def test_grown_moments_are_found_beside_what_is_learned():
    params, learned = {"net": {"kernel": jnp.ones((2, 2))}}, {"kernel": jnp.ones((2, 2))}
    optimizer = optax.adam(0.1)
    _, moments = optimizer.update((params, learned), optimizer.init((params, learned)))
    new = prune.reset_moments(moments, {"net": {"kernel": jnp.eye(2, dtype=bool)}})
    assert (np.diag(new[0].mu[0]["net"]["kernel"]) == 0).all()
    np.testing.assert_array_equal(new[0].mu[1]["kernel"], moments[0].mu[1]["kernel"])
