"""One step against NumPy, a population against a loop over its members, and one program for all settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from toy import Hparams

from recjax import compress, train

SEEDS, SETTINGS, STEPS, BATCH = 2, 3, 4, 8
TRACES = []


def counted_loss(params, batch, hparams, key):
    TRACES.append(None)
    return toy.loss(params, batch, hparams, key)


COMPRESSED = toy.COMPRESSED._replace(loss=counted_loss)


def hparams(learning_rate=(0.05, 0.1, 0.02), sparsity=(0.0, 0.5, 0.75), bits=(16, 4, 3)):
    leaves = (np.array(v, np.float32) for v in (learning_rate, sparsity, bits))
    return Hparams(*(jnp.asarray(np.broadcast_to(leaf, (SEEDS, SETTINGS))) for leaf in leaves))


@pytest.fixture(scope="module")
def problem():
    data = toy.rows(toy.logs()[0])
    ids = np.random.default_rng(0).integers(len(data.user), size=(STEPS, SEEDS, BATCH)).astype(np.int32)
    return data, jnp.asarray(ids), jax.random.split(jax.random.key(2), SEEDS)


def run(problem, hparams, recipe=COMPRESSED, steps=slice(None), state=None):
    data, ids, keys = problem
    state = toy.start(recipe, toy.starts(SEEDS), hparams) if state is None else state
    return train.run_chunk(recipe, state, hparams, ids[steps], keys, data, {})


def test_one_step_of_gradient_descent_on_bpr_is_that_of_numpy(problem):
    recipe = toy.PLAIN._replace(optimizer=lambda hparams: optax.sgd(hparams.learning_rate))
    params = jax.tree.map(lambda leaf: leaf[0], toy.starts(1))
    state = train.init_state(recipe, params, Hparams(), jax.random.key(0))
    batch = {"user": [3, 3, 7], "item": [1, 5, 1], "negative": [2, 1, 2]}
    after, value = jax.jit(train.step, static_argnums=0)(
        recipe,
        state,
        Hparams(learning_rate=0.5),
        jax.tree.map(jnp.asarray, {k: np.int32(v) for k, v in batch.items()}),
        {},
    )
    before = {name: np.asarray(table, np.float64) for name, table in params["tables"].items()}
    p, q, b = before["user"], before["item"], before["item_bias"]
    expected, total = {name: table.copy() for name, table in before.items()}, 0.0
    for u, i, j in zip(*batch.values(), strict=True):
        margin = p[u] @ (q[i] - q[j]) + b[i, 0] - b[j, 0]
        pull = 0.5 / 3 / (1 + np.exp(margin))  # learning rate, mean of three rows, the sigmoid of -margin
        total += np.log1p(np.exp(-margin)) / 3
        expected["user"][u] += pull * (q[i] - q[j])
        expected["item"][i] += pull * p[u]
        expected["item"][j] -= pull * p[u]
        expected["item_bias"][i] += pull
        expected["item_bias"][j] -= pull
    np.testing.assert_allclose(value, total, rtol=1e-5)
    for name, table in expected.items():
        np.testing.assert_allclose(after.params["tables"][name], table, rtol=0, atol=1e-6, err_msg=name)
    assert (int(after.step), after.params["net"]) == (1, {})
    assert "fixed" not in after.params


def test_a_population_equals_a_loop_over_its_members(problem):
    data, ids, keys = problem
    settings = hparams()
    state, values = run(problem, settings)
    assert state.step.shape == ()
    assert values.shape == (STEPS, SEEDS, SETTINGS)
    alone, gather = jax.jit(train.step, static_argnums=0), jax.jit(toy.gather)
    init = jax.jit(train.init_state, static_argnums=0)
    members = jax.random.split(jax.random.key(1), SEEDS)
    starts, settings, found = jax.tree.map(np.asarray, (toy.starts(SEEDS), settings, state.params))
    masks, values = jax.tree.map(np.asarray, (state.compression, values))
    for seed in range(SEEDS):
        for setting in range(SETTINGS):
            own = jax.tree.map(lambda leaf, at=(seed, setting): leaf[at], settings)
            one = init(COMPRESSED, jax.tree.map(lambda leaf, at=seed: leaf[at], starts), own, members[seed])
            for i in range(STEPS):
                batch = gather(data, ids[i, seed], jax.random.fold_in(keys[seed], i))
                one, value = alone(COMPRESSED, one, own, batch, {})
                np.testing.assert_allclose(values[i, seed, setting], value, rtol=2e-5)
            for name, table in one.params["tables"].items():
                np.testing.assert_allclose(found["tables"][name][seed, setting], table, rtol=1e-4, atol=2e-6)
            for name, mask in one.compression[0].items():
                np.testing.assert_array_equal(masks[0][name][seed, setting], mask)
            assert int(one.step) == int(state.step) == STEPS


def test_one_program_serves_every_value_of_the_hyperparameters(problem):
    _, first = run(problem, hparams())
    traces, programs = len(TRACES), train.program(())._cache_size()
    assert traces > 0
    _, second = run(problem, hparams(learning_rate=(0.3, 0.2, 0.01), sparsity=(0.9, 0.1, 0.0), bits=(2, 8, 16)))
    assert (len(TRACES), train.program(())._cache_size()) == (traces, programs)
    assert not np.allclose(first[-1], second[-1])


def test_chunks_are_one_run(problem):
    whole, values = run(problem, hparams())
    state, first = run(problem, hparams(), steps=slice(0, 2))
    state, second = run(problem, hparams(), steps=slice(2, 4), state=state)
    toy.same_bits(state, whole)
    toy.same_bits(np.concatenate([first, second]), np.asarray(values))


def test_the_state_is_donated_and_nothing_else(problem):
    settings = hparams()
    state = toy.start(COMPRESSED, toy.starts(SEEDS), settings)
    run(problem, settings, state=state)
    large = jax.tree.leaves((state.params, state.optimizer, state.compression))
    assert all(leaf.is_deleted() for leaf in large)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((settings, problem)))


def test_options_of_a_recipe_reach_the_compiler(problem):
    recipe = toy.PLAIN._replace(compiler_options=(("no_such_option", "1"),))
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        run(problem, hparams(), recipe=recipe)


def test_settings_of_a_seed_share_their_draws_and_seeds_do_not(problem):
    """Gradients are the draws themselves: the ids of the batch, the sample of the seed and the key of the member."""

    def gather(data, ids, key):
        return {"user": ids % toy.USERS, "noise": jax.random.normal(key)}

    def loss(params, batch, hparams, key):
        tables = params["tables"]
        mine = tables["user"].at[batch["user"]].get(mode="fill").sum() + jax.random.normal(key) * tables["item"].sum()
        return -mine - batch["noise"] * tables["item_bias"].sum()

    recipe = train.Recipe(loss, lambda hparams: optax.sgd(hparams.learning_rate), compress.chain(), gather)
    settings = hparams(learning_rate=(1, 1, 1))
    before = jax.tree.map(np.array, toy.start(recipe, toy.starts(SEEDS), settings).params["tables"])
    after = run(problem, settings, recipe=recipe)[0].params["tables"]
    moved = {name: np.asarray(after[name]) - before[name] for name in after}
    for name, move in moved.items():
        np.testing.assert_array_equal(move[:, 1:], np.broadcast_to(move[:, :1], move[:, 1:].shape), err_msg=name)
        assert np.abs(move[0] - move[1]).max() > 0.1, name
    counts = np.stack(
        [np.bincount(row % toy.USERS, minlength=toy.USERS) for row in problem[1].swapaxes(0, 1).reshape(SEEDS, -1)]
    )
    np.testing.assert_allclose(moved["user"][:, 0, :, 0], counts, atol=1e-5)
    draws = [sum(float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(STEPS)) for key in problem[2]]
    np.testing.assert_allclose(moved["item_bias"][:, 0, 0, 0], draws, rtol=1e-4, atol=1e-5)


def test_a_loss_in_bfloat16_leaves_float32_parameters(problem):
    seen = []

    def loss(params, batch, hparams, key):
        seen.append(params["tables"])
        return toy.loss(params, batch, hparams, key)

    recipe = toy.COMPRESSED._replace(loss=loss, optimizer=lambda hparams: optax.sgd(hparams.learning_rate))
    (whole, values), (half, rounded) = (
        run(problem, hparams(), recipe._replace(precision=train.Precision(compute)))
        for compute in ("float32", "bfloat16")
    )
    assert [tables["user"].dtype for tables in (seen[0], seen[-1])] == [jnp.float32, jnp.bfloat16]
    for tables in seen:  # a compressed table has its grid
        assert jnp.bfloat16 not in {leaf.dtype for leaf in jax.tree.leaves(tables["item"])}
    assert [leaf.dtype for leaf in jax.tree.leaves(half)] == [leaf.dtype for leaf in jax.tree.leaves(whole)]
    np.testing.assert_allclose(rounded, values, rtol=1e-2)
    assert not np.array_equal(rounded, values)
    start = np.asarray(toy.starts(SEEDS)["tables"]["user"])[:, None]
    moved, expected = (np.asarray(state.params["tables"]["user"]) - start for state in (half, whole))
    np.testing.assert_allclose(moved, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_the_precision_of_matrix_products_is_that_of_the_loss_and_its_gradient():
    def loss(params, batch, hparams, key):
        return (params["tables"]["user"] @ params["tables"]["item"].T).mean()

    params = jax.tree.map(lambda leaf: leaf[0], toy.starts(1))
    for name, products in ((None, 0), ("tensorfloat32", 3)):
        recipe = toy.PLAIN._replace(loss=loss, precision=train.Precision(matmul=name))
        state = train.init_state(recipe, params, Hparams(), jax.random.key(0))
        text = str(jax.make_jaxpr(lambda s, recipe=recipe: train.step(recipe, s, Hparams(), {}, {}))(state))
        assert text.count("dot_general[") == 3
        assert text.count("precision=(Precision.HIGH, Precision.HIGH)") == products
