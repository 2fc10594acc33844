"""What each retrieval model is by its own equation; what all models share is in test_models_battery.py."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp

from recjax import evaluate, families, losses, metrics
from recjax.data import Interactions, Split, dataset, seen, split_random, synthetic, uniform_negatives
from recjax.families.mf import by_vectors
from recjax.models import (
    Ease,
    EaseByUsers,
    ItemItem,
    MatrixFactorization,
    TwoTower,
    ease,
    ease_by_items,
    ease_by_users,
    fit_ease,
    matrix_factorization,
    two_tower,
)

USERS, ITEMS, DIM = 6, 8, 3
RNG = np.random.default_rng(0)
USER_FEATURES, ITEM_FEATURES = (RNG.normal(size=shape).astype(np.float32) for shape in ((USERS, 4), (ITEMS, 5)))
CONFIG = TwoTower(users=USERS, items=ITEMS, user_features=4, item_features=5, dim=DIM, hidden=7)
USER = np.array([4, 0, 4], np.int32)
MODELS = {
    "mf": matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=DIM)),
    "two_tower": two_tower(CONFIG, USER_FEATURES, ITEM_FEATURES),
}


@functools.lru_cache
def params_of(name):
    """All entries random, also those that start as zero."""
    shapes, rng = jax.eval_shape(MODELS[name].init, jax.random.key(0)), np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes)
    fixed = {"user": jnp.asarray(USER_FEATURES), "item": jnp.asarray(ITEM_FEATURES)}
    return {**params, "fixed": fixed if name == "two_tower" else {}}


def scores(model, params, batch):
    return model.query(params, batch) @ model.items(params).T


def test_features_come_with_the_parameters_of_two_towers():
    found = jax.jit(lambda key: MODELS["two_tower"].init(key)["fixed"])(jax.random.key(0))
    np.testing.assert_array_equal(found["user"], USER_FEATURES)
    np.testing.assert_array_equal(found["item"], ITEM_FEATURES)


@pytest.mark.parametrize("name", ["mf", "two_tower"])
def test_a_user_who_is_not_there_gives_nan(name):
    found = np.asarray(jax.jit(MODELS[name].query)(params_of(name), {"user": np.int32([-1, 2, USERS])}))
    assert np.isnan(found[[0, 2], :-1]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("name", ["mf", "two_tower"])
def test_scores_are_those_of_the_equation(name):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params_of(name))
    tables, sides = params["tables"], {"user": 0.0, "item": 0.0}
    if name == "two_tower":
        for side, features in (("user", USER_FEATURES), ("item", ITEM_FEATURES)):
            first, last = params["net"][side]["hidden_0"], params["net"][side]["output"]
            hidden = np.maximum(features @ first["kernel"] + first["bias"], 0)
            sides[side] = hidden @ last["kernel"] + last["bias"]
    user, item = tables["user"] + sides["user"], tables["item"] + sides["item"]
    expected = user @ item.T + tables["item_bias"].T
    found = jax.jit(functools.partial(scores, MODELS[name]))(params_of(name), {"user": USER})
    np.testing.assert_allclose(found, expected[USER], rtol=1e-4, atol=1e-5)
    each = np.arange(USERS, dtype=np.int32)
    log = Interactions(each, each, each.astype(str), np.arange(ITEMS).astype(str))
    one_event = dataset(Split(log, log.take(slice(0)), log.take(slice(0)), {}))
    served = by_vectors(one_event, MODELS[name], None, dim=DIM, bias=True).served(params_of(name))
    vectors = jax.tree.map(np.asarray, served["tables"])  # what is stored of any such model
    assert {table: value.shape for table, value in vectors.items()} == {
        "user": (USERS, DIM),
        "item": (ITEMS, DIM),
        "item_bias": (ITEMS, 1),
    }
    np.testing.assert_allclose(
        vectors["user"] @ vectors["item"].T + vectors["item_bias"].T, expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        (USER_FEATURES[:5], ITEM_FEATURES, r"user_features: expected shape \(6, 4\), got \(5, 4\)"),
        (USER_FEATURES, ITEM_FEATURES.T, r"item_features: expected shape \(8, 5\), got \(5, 8\)"),
        (USER_FEATURES, ITEM_FEATURES[0], r"item_features: expected shape \(8, 5\), got \(5,\)"),
    ],
)
def test_features_of_other_shapes_are_named(user, item, message):
    with pytest.raises(ValueError, match=message):
        two_tower(CONFIG, user, item)


def _ridge(x, regularization):
    """Each item on the others: one least-squares problem a column, its own weight held at zero."""
    count = x.shape[1]
    weights = np.zeros((count, count))
    for item in range(count):
        others = [i for i in range(count) if i != item]
        rows = np.concatenate([x[:, others], np.sqrt(regularization) * np.eye(count - 1)])
        target = np.concatenate([x[:, item], np.zeros(count - 1)])
        weights[others, item] = np.linalg.lstsq(rows, target, rcond=None)[0]
    return weights


@pytest.mark.parametrize("block", [4, 1024])
@pytest.mark.parametrize("regularization", [0.3, 2.0, 50.0])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(regularization, block, monkeypatch):
    monkeypatch.setattr(sys.modules["recjax.models.ease"], "BLOCK", block)  # models.ease is the function
    rng = np.random.default_rng(7)
    x = (rng.random((30, 9)) < 0.4) * rng.choice([1.0, 0.5], (30, 1))
    x[:, 4] = 0  # nobody has this item
    history, expected = sp.csr_array(x), _ridge(x, regularization)
    weights = ease_by_items(history, regularization=regularization).weights
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6)
    assert not np.allclose(expected, expected.T, atol=1e-3)  # so a transposed table would be seen
    assert (weights[4] == 0).all()
    assert not np.signbit(weights[weights == 0]).any()
    new = sp.csr_array((rng.random((5, 9)) < 0.4) * rng.choice([1.0, 2.0], (5, 9)))
    for fit in (ease_by_items, ease_by_users):
        model = fit(history, regularization=regularization)
        for rows in (history, new):
            found = model.scores(rows)
            assert (found.dtype, type(found)) == (np.float32, np.ndarray)
            np.testing.assert_allclose(found, rows @ expected, rtol=0, atol=1e-5)
    order = rng.permutation(9)
    again = ease_by_items(sp.csr_array(x[:, order]), regularization=regularization).weights
    np.testing.assert_allclose(again, expected[np.ix_(order, order)], rtol=0, atol=1e-6)
    twice = sp.csr_array(np.concatenate([x, x]))  # everyone twice is everyone once with half the regularization
    again = ease_by_items(twice, regularization=2 * regularization).weights
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-6)


def test_ease_inverts_the_smaller_side():
    for shape, record in (((3, 4), EaseByUsers), ((4, 4), ItemItem), ((5, 4), ItemItem)):
        assert type(fit_ease(sp.csr_array(np.ones(shape)), regularization=1.0)) is record
    with pytest.raises(ValueError, match=r"regularization: expected a value large enough .* got -9.0"):
        fit_ease(sp.csr_array(np.eye(3)), regularization=-9.0)


def test_the_retrieval_model_of_ease_scores_by_its_table():
    table = RNG.normal(size=(9, 9)).astype(np.float32)
    history = np.array([[-1, 4, 0], [7, 8, 7], [-1, -1, -1]])
    x = np.zeros((3, 9))
    x[[0, 0, 1, 1], [4, 0, 7, 8]] = 1
    params = {"tables": {"item": jnp.asarray(table)}, "net": {}, "fixed": {}, "auxiliary": {}}
    found = scores(ease(Ease(items=9)), params, {"history": jnp.asarray(history)})
    np.testing.assert_allclose(found, x @ table.T, rtol=0, atol=1e-5)


def test_factorization_learns_a_planted_taste():
    """BPR with uniform negatives beats popularity by far on held-out rows of a log with tastes of rank 3."""
    log = synthetic(0, users=120, items=60, rank=3, interactions_per_user=14)
    split = split_random(log, seed=0)
    model = matrix_factorization(MatrixFactorization(users=log.users, items=log.items, dim=8))
    have = jax.tree.map(jnp.asarray, seen(split.train))
    user, item = jnp.asarray(split.train.user), jnp.asarray(split.train.item)
    optimizer = optax.adamw(0.02, weight_decay=0.1)

    @jax.jit
    def train(key):
        params = model.init(key)

        def loss(params, key):
            rows, draws = jax.random.split(key)
            rows = jax.random.randint(rows, (512,), 0, len(user))
            negatives = uniform_negatives(draws, user[rows], have, items=log.items, count=1)[:, 0]
            query = model.query(params, {"user": user[rows]})
            one, other = (jnp.sum(query * model.items(params, ids), -1) for ids in (item[rows], negatives))
            return losses.bpr(one, other).mean()

        def body(carry, key):
            params, moments = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        (params, _), values = jax.lax.scan(body, (params, optimizer.init(params)), jax.random.split(key, 300))
        return params, values

    held_out = dataset(split)
    assert held_out.users == log.users  # so positions are those of the log

    def ndcg(params):
        found = evaluate.rank(evaluate.Scorer(score, params, 0), held_out, held_out.test, k=10)
        return metrics.ndcg(found.hits, found.relevant).mean()

    score = families.inner_product(model)
    params, values = train(jax.random.key(0))
    popular = np.bincount(split.train.item, minlength=log.items)[:, None].astype(np.float32)
    by_count = {
        **params,
        "tables": {**jax.tree.map(jnp.zeros_like, params["tables"]), "item_bias": jnp.asarray(popular)},
    }
    learned, popularity = float(ndcg(params)), float(ndcg(by_count))
    assert values[-20:].mean() < 0.6 * values[:20].mean()
    assert popularity > 0.05
    assert learned > 1.4 * popularity, (learned, popularity)
