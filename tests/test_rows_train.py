"""Tables that train by rows inside the training step, beside the same tables trained densely by optax."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Hparams, current, start

from recjax import compress, embed, losses, models, rows, train

OPTIMIZED = True

SEEDS, SETTINGS, STEPS, BATCH = 2, 2, 6, 6
FIXED = {"user": jnp.linspace(-1, 1, 24 * 2).reshape(24, 2), "item": jnp.linspace(1, -1, 16 * 3).reshape(16, 3)}
TWO_TOWER = models.two_tower(
    models.TwoTower(users=24, items=16, user_features=2, item_features=3, dim=4, hidden=5), FIXED["user"], FIXED["item"]
)


def by_rows(recipe, optimizer=lambda hparams: rows.adam(hparams.learning_rate)):
    return recipe._replace(rows=train.RowSparse(optimizer, toy.touched))


def two_tower_loss(params, batch, hparams, key):
    query = TWO_TOWER.query(params, batch)
    pair = (jnp.sum(query * TWO_TOWER.items(params, batch[name]), axis=-1) for name in ("item", "negative"))
    return losses.bpr(*pair).mean()


COMPRESSED = toy.COMPRESSED._replace(transform=toy.compression("item", every=STEPS))  # the mask of the first step
TOWERS = toy.PLAIN._replace(loss=two_tower_loss)


@pytest.fixture(scope="module")
def problem():
    data = toy.rows(toy.logs()[0])
    ids = np.random.default_rng(0).integers(len(data.user), size=(STEPS, SEEDS, BATCH)).astype(np.int32)
    return data, jnp.asarray(ids), jax.random.split(jax.random.key(2), SEEDS)


def hparams(learning_rate=(0.05, 0.02), sparsity=(0.5, 0.0), bits=(4, 16)):
    leaves = (np.array(v, np.float32) for v in (learning_rate, sparsity, bits))
    return Hparams(*(jnp.asarray(np.broadcast_to(leaf, (SEEDS, SETTINGS))) for leaf in leaves))


def run(problem, recipe, hparams, params, fixed):
    data, ids, keys = problem
    return train.run_chunk(recipe, start(recipe, params, hparams), hparams, ids, keys, data, fixed)


def towers():
    params = jax.vmap(TWO_TOWER.init)(jax.random.split(jax.random.key(3), SEEDS))
    return {**params, "fixed": {}}


@pytest.mark.parametrize(
    ("recipe", "params", "fixed"),
    [(COMPRESSED, toy.starts(SEEDS), {}), (TOWERS, towers(), FIXED)],
    ids=["mf", "two_tower"],
)
def test_a_population_trained_by_rows_is_where_dense_adam_has_it(problem, recipe, params, fixed):
    """Masked, fake-quantized and shared by members; the network of the two towers goes on with optax."""
    expected, values = run(problem, recipe, hparams(), params, fixed)
    state, found = run(problem, by_rows(recipe), hparams(), params, fixed)
    np.testing.assert_allclose(found, values, rtol=2e-5)
    now = current(by_rows(recipe), state, hparams())
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected.params):
        at = functools.reduce(lambda node, key: node[key.key], path, now)
        np.testing.assert_allclose(at, leaf, rtol=1e-4, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    toy.same_bits(state.compression, expected.compression)
    late = np.abs(np.asarray(state.params["tables"]["user"]) - np.asarray(now["tables"]["user"])).max()
    assert late > 0.01  # some row's momentum has not been read yet
    toy.same_bits(current(recipe, expected, hparams()), expected.params)


def test_one_program_for_all_numbers_and_chunks_are_one_run(problem):
    recipe, (data, ids, keys) = by_rows(COMPRESSED), problem
    whole, _ = run(problem, recipe, hparams(), toy.starts(SEEDS), {})
    programs = train.program(())._cache_size()
    run(problem, recipe, hparams(learning_rate=(0.5, 0.1), bits=(2, 8)), toy.starts(SEEDS), {})
    assert train.program(())._cache_size() == programs
    state = start(recipe, toy.starts(SEEDS), hparams())
    for part in (ids[:3], ids[3:]):
        state, _ = train.run_chunk(recipe, state, hparams(), part, keys, data, {})
    toy.same_bits(state, whole)


def test_duplicates_are_summed_exactly_and_other_rows_stay():
    """One step of row-wise Adagrad is the sum of a row's gradients over its root mean square, times the rate."""
    recipe = by_rows(toy.PLAIN, lambda hparams: rows.rowwise_adagrad(hparams.learning_rate, eps=0.0))
    params = jax.tree.map(lambda leaf: leaf[0], toy.starts(1))
    batch = {"user": [3, 3, 7, 3], "item": [1, 5, 1, 1], "negative": [2, 1, 2, 2]}
    arrays = {name: jnp.asarray(ids, jnp.int32) for name, ids in batch.items()}
    state = train.init_state(recipe, params, Hparams(), jax.random.key(0))
    after, _ = jax.jit(train.step, static_argnums=0)(recipe, state, Hparams(learning_rate=0.5), arrays, {})
    before = {name: np.asarray(table, np.float64) for name, table in params["tables"].items()}
    p, q, b = before["user"], before["item"], before["item_bias"]
    grads = {name: np.zeros_like(table) for name, table in before.items()}
    for u, i, j in zip(*batch.values(), strict=True):
        push = -1 / 4 / (1 + np.exp(p[u] @ (q[i] - q[j]) + b[i, 0] - b[j, 0]))
        grads["user"][u] += push * (q[i] - q[j])
        for item, sign in ((i, 1), (j, -1)):
            grads["item"][item] += sign * push * p[u]
            grads["item_bias"][item] += sign * push
    for name, own in {"user": [3, 7], "item": [1, 2, 5], "item_bias": [1, 2, 5]}.items():
        expected = before[name].astype(np.float32)
        for row in own:
            g = grads[name][row]
            expected[row] = before[name][row] - 0.5 * g / np.sqrt(np.mean(g**2))
        found, others = np.asarray(after.params["tables"][name]), np.setdiff1d(np.arange(len(expected)), own)
        np.testing.assert_allclose(found[own], expected[own], rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(found[others], expected[others], err_msg=name)


def test_a_chunk_needs_no_room_that_grows_with_the_tables(problem):
    """So no table, mask or slots are copied; and most of what is passed in comes back in the same place."""
    room = []
    for count in (500, 4_000):
        model = models.matrix_factorization(models.MatrixFactorization(users=count, items=count, dim=8))
        recipe = by_rows(toy.PLAIN._replace(transform=compress.chain()))
        params = jax.eval_shape(model.init, jax.random.key(0))
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((SEEDS, *leaf.shape), leaf.dtype), params)
        state = jax.eval_shape(functools.partial(start, recipe), params, hparams())
        data, ids, keys = problem
        memory = train.program(()).lower(recipe, state, hparams(), ids, keys, data, {}).compile().memory_analysis()
        assert memory.alias_size_in_bytes >= sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
        room.append(memory.temp_size_in_bytes)
    assert room[0] == room[1]


@pytest.mark.parametrize("found", [None, {"user": jnp.zeros(1, jnp.int32)}])
def test_rows_that_are_not_named(found):
    recipe = toy.PLAIN._replace(rows=train.RowSparse(lambda hparams: rows.adam(0.1), lambda batch: found))
    params = jax.tree.map(lambda leaf: leaf[0], toy.starts(1))
    state = train.init_state(recipe, params, Hparams(), jax.random.key(0))
    with pytest.raises(ValueError, match="touched: expected ids for each table"):
        train.step(recipe, state, Hparams(), {}, {})


@jax.jit
def read_both_ways(table, ids):
    """What a table and a view of it answer, and the gradients of both, the view's put back in place."""
    places = embed.touched(table, ids)
    view = embed.view(table, places)
    answers = embed.lookup(table, ids), embed.lookup(view, ids), embed.lookup(view, jnp.arange(-3, 13))

    def pull(read):
        return lambda values: jnp.nansum(jnp.arange(16.0).reshape(4, 2, 2) * embed.lookup(read(values), ids))

    of_view = jax.grad(pull(lambda values: dataclasses.replace(view, values=values)))(view.values)
    grads = jax.grad(pull(lambda values: values))(table), rows.put(jnp.zeros_like(table), places, of_view)
    return places, answers, grads


@settings(max_examples=30, deadline=None)
@given(ids=st.lists(st.integers(-3, 12), min_size=8, max_size=8))
def test_a_view_reads_as_its_table(ids):
    table = jnp.arange(20.0).reshape(10, 2) ** 2
    places, (whole, viewed, every), grads = read_both_ways(table, jnp.array(ids).reshape(4, 2))
    unique = np.intersect1d(ids, range(10))  # sorted, each once
    np.testing.assert_array_equal(places[: len(unique)], unique)
    assert (np.asarray(places[len(unique) :]) == np.iinfo(np.int32).max).all()
    np.testing.assert_array_equal(viewed, whole)
    np.testing.assert_array_equal(np.isfinite(every[:, 0]), np.isin(np.arange(-3, 13), unique))
    np.testing.assert_array_equal(*grads)


def test_a_view_has_no_end():
    with pytest.raises(ValueError, match="ids: expected an array"):
        embed.lookup(embed.RowView(jnp.array([1]), jnp.ones((1, 2)), 3))


class Composed(NamedTuple):
    """A table of quotients plus one of remainders, both through a square matrix that every row shares."""

    quotient: jax.Array
    remainder: jax.Array
    matrix: jax.Array

    def rows(self, ids):
        high, low = jnp.divmod(ids, self.remainder.shape[0])
        return (embed.lookup(self.quotient, high) + embed.lookup(self.remainder, low)) @ self.matrix

    def touched(self, ids):
        high, low = jnp.divmod(ids, self.remainder.shape[0])
        return Composed(embed.touched(self.quotient, high), embed.touched(self.remainder, low), None)


def test_a_record_trains_by_the_rows_of_each_part_and_densely_otherwise():
    rng = np.random.default_rng(4)
    parts = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 3), (4, 3), (3, 3)))
    params = {"tables": {"item": Composed(*parts)}, "net": {}, "auxiliary": {}}

    def loss(params, batch, hparams, key):
        return jnp.square(embed.lookup(params["tables"]["item"], batch["item"]) - 1).sum()

    dense = toy.PLAIN._replace(loss=loss)
    by_row = dense._replace(rows=train.RowSparse(lambda hparams: rows.adam(hparams.learning_rate), lambda batch: batch))
    step, states = jax.jit(train.step, static_argnums=0), {}
    for recipe in (dense, by_row):
        state = train.init_state(recipe, params, Hparams(), jax.random.key(0))
        for ids in ([0, 7, 7], [19, 1, 6], [4, 4, 4]):
            state, _ = step(recipe, state, Hparams(), {"item": jnp.array(ids)}, {})
        states[recipe] = train.current(recipe, state, Hparams())["tables"]["item"]
    for expected, found in zip(states[dense], states[by_row], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
