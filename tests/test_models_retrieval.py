"""One battery over every model, and what each of them is by its own equation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax import artifact, embed, evaluate, losses
from recjax.data import seen, split_random, synthetic, uniform_negatives
from recjax.models import (
    Ease,
    MatrixFactorization,
    Mlp,
    Ranking,
    TwoTower,
    ease,
    fit_ease,
    matrix_factorization,
    mlp,
    two_tower,
)
from recjax.pipeline import students

USERS, ITEMS, DIM = 6, 8, 3
RNG = np.random.default_rng(0)
USER_FEATURES, ITEM_FEATURES = (RNG.normal(size=shape).astype(np.float32) for shape in ((USERS, 4), (ITEMS, 5)))
CONFIG = TwoTower(users=USERS, items=ITEMS, user_features=4, item_features=5, dim=DIM, hidden=7)
USER = np.array([4, 0, 4], np.int32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, a batch for it, and what it is expected to look like."""

    model: Any
    batch: dict[str, np.ndarray]
    width: int  # of a query, or of the logits
    taps: dict[str, tuple[int, ...]]


CASES = {
    "mf": Case(
        matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=DIM)),
        {"user": USER},
        DIM + 1,
        {"user": (3, DIM)},
    ),
    "two_tower": Case(
        two_tower(CONFIG, USER_FEATURES, ITEM_FEATURES),
        {"user": USER},
        DIM + 1,
        {"user": (3, DIM), "hidden_0": (3, 7)},
    ),
    "ease": Case(
        ease(Ease(items=ITEMS)),
        {"user": USER, "history": (RNG.random((3, ITEMS)) < 0.5).astype(np.float32)},
        ITEMS,
        {"history": (3, ITEMS)},
    ),
    "mlp": Case(
        mlp(Mlp(widths=(5, 7, 4))), {"inputs": RNG.normal(size=(3, 5)).astype(np.float32)}, 4, {"hidden_0": (3, 7)}
    ),
}
RETRIEVAL = ("mf", "two_tower", "ease")


@functools.lru_cache
def params_of(name):
    """Two members with all entries random, also those that start as zero. ``fixed`` is shared."""
    shapes = jax.eval_shape(CASES[name].model.init, jax.random.key(0))
    rng, fixed = np.random.default_rng(1), {}
    if name == "two_tower":
        fixed = {"user": jnp.asarray(USER_FEATURES), "item": jnp.asarray(ITEM_FEATURES)}
        assert {side: leaf.shape for side, leaf in shapes["fixed"].items()} == {k: v.shape for k, v in fixed.items()}
    members = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes) for _ in range(2)]
    return [{**params, "fixed": fixed} for params in members]


def scores(model, params, batch):
    if isinstance(model, Ranking):
        return model.logit(params, batch)
    return model.query(params, batch) @ model.items(params).T


@pytest.mark.parametrize("name", CASES)
def test_shapes_follow_the_contract(name):
    case, params = CASES[name], params_of(name)[0]
    assert sorted(params) == ["aids", "fixed", "net", "tables"]
    taps = jax.eval_shape(case.model.taps, params, case.batch)
    assert {tap: value.shape for tap, value in taps.items()} == case.taps
    if isinstance(case.model, Ranking):
        assert jax.eval_shape(case.model.logit, params, case.batch).shape == (3, case.width)
        return
    assert jax.eval_shape(case.model.query, params, case.batch).shape == (3, case.width)
    assert jax.eval_shape(case.model.items, params).shape == (ITEMS, case.width)
    for shape in ((), (4,), (3, 2)):
        assert jax.eval_shape(case.model.items, params, np.zeros(shape, np.int32)).shape == (*shape, case.width)


def test_features_come_with_the_parameters_of_two_towers():
    found = jax.jit(lambda key: CASES["two_tower"].model.init(key)["fixed"])(jax.random.key(0))
    np.testing.assert_array_equal(found["user"], USER_FEATURES)
    np.testing.assert_array_equal(found["item"], ITEM_FEATURES)


@pytest.mark.parametrize("name", RETRIEVAL)
def test_some_items_are_rows_of_all_items(name):
    model, params = CASES[name].model, params_of(name)[0]
    ids = np.array([[7, 0], [3, 3], [ITEMS, -1]], np.int32)
    every, some = jax.jit(model.items)(params), np.asarray(jax.jit(model.items)(params, ids))
    np.testing.assert_allclose(some[:2], np.asarray(every)[ids[:2]], rtol=1e-5, atol=1e-6)
    assert np.isnan(some[2]).all()  # never a neighbour's row


@pytest.mark.parametrize("name", ["mf", "two_tower"])
def test_a_user_who_is_not_there_gives_nan(name):
    found = np.asarray(jax.jit(CASES[name].model.query)(params_of(name)[0], {"user": np.int32([-1, 2, USERS])}))
    assert np.isnan(found[[0, 2], :-1]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("name", CASES)
def test_every_trained_leaf_gets_a_finite_gradient(name):
    case, params = CASES[name], params_of(name)[0]
    weights = np.random.default_rng(2).normal(
        size=jax.eval_shape(functools.partial(scores, case.model), params, case.batch).shape
    )
    weights = weights.astype(np.float32)

    @jax.jit
    def total(trained):
        return jnp.sum(scores(case.model, {**params, **trained}, case.batch) * weights)

    trained = {part: params[part] for part in ("tables", "net")}
    grads = jax.jit(jax.grad(total))(trained)
    assert jax.tree.leaves(grads)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 1e-4, path
    # along the gradient the function grows by its squared length
    length, small = sum(float(jnp.sum(grad**2)) for grad in jax.tree.leaves(grads)), 1e-3
    up, down = (
        float(total(jax.tree.map(lambda leaf, grad, s=s: leaf + s * grad, trained, grads)))
        for s in (small / length**0.5, -small / length**0.5)
    )
    assert (up - down) / (2 * small) == pytest.approx(length**0.5, rel=2e-2)


@pytest.mark.parametrize("name", CASES)
def test_members_by_vmap_equal_members_alone(name):
    case, members = CASES[name], params_of(name)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    together = jax.jit(jax.vmap(functools.partial(scores, case.model), in_axes=(0, None)))(stacked, case.batch)
    alone = jax.jit(functools.partial(scores, case.model))
    for params, found in zip(members, together, strict=True):
        np.testing.assert_allclose(found, alone(params, case.batch), rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0], together[1])


@pytest.mark.parametrize("name", RETRIEVAL)
def test_a_record_in_place_of_a_table_is_read_as_what_it_stands_for(name):
    case, params = CASES[name], params_of(name)[0]
    keep = {table: np.abs(value) > 0.2 for table, value in params["tables"].items()}
    records = {table: embed.Masked(jnp.asarray(value), keep[table]) for table, value in params["tables"].items()}
    dense = {table: np.where(keep[table], value, 0) for table, value in params["tables"].items()}
    run = jax.jit(functools.partial(scores, case.model))
    np.testing.assert_allclose(
        run({**params, "tables": records}, case.batch), run({**params, "tables": dense}, case.batch), rtol=1e-6
    )


@pytest.mark.parametrize("name", RETRIEVAL)
def test_tables_survive_the_disk(name, tmp_path):
    case, params = CASES[name], params_of(name)[0]
    pruned = {table: np.where(np.abs(value) > 0.4, value, 0) for table, value in params["tables"].items()}
    run = jax.jit(functools.partial(scores, case.model))
    for tables in (params["tables"], pruned):
        specs = artifact.save_tables(tmp_path / "weights.safetensors", tables)
        found = artifact.load_tables((tmp_path / "weights.safetensors").read_bytes(), specs)
        assert sorted(found) == sorted(tables)
        for table in tables:
            np.testing.assert_array_equal(found[table], tables[table])
        before, after = (run({**params, "tables": t}, case.batch) for t in (tables, found))
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["mf", "two_tower"])
def test_touched_names_the_rows_that_a_step_reads(name):
    model, params = CASES[name].model, params_of(name)[0]
    batch = {"user": USER, "item": np.array([[2, 5], [2, 2], [7, 0]], np.int32)}
    assert model.touched({"user": USER}) is None  # the whole catalogue

    def loss(tables):
        own = {**params, "tables": tables}
        return jnp.sum(
            jnp.square(jnp.einsum("bd,bcd->bc", model.query(own, batch), model.items(own, batch["item"])) - 9)
        )

    grads = jax.jit(jax.grad(loss))(params["tables"])
    touched = model.touched(batch)
    assert set(touched) == set(grads)
    for table, grad in grads.items():
        read = np.flatnonzero(np.abs(np.asarray(grad)).max(axis=1))
        assert read.tolist() == np.unique(touched[table]).tolist(), table


@pytest.mark.parametrize("name", ["mf", "two_tower"])
def test_scores_are_those_of_the_equation(name):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params_of(name)[0])
    tables, sides = params["tables"], {"user": 0.0, "item": 0.0}
    if name == "two_tower":
        for side, features in (("user", USER_FEATURES), ("item", ITEM_FEATURES)):
            first, last = params["net"][side]["hidden_0"], params["net"][side]["output"]
            hidden = np.maximum(features @ first["kernel"] + first["bias"], 0)
            sides[side] = hidden @ last["kernel"] + last["bias"]
    user, item = tables["user"] + sides["user"], tables["item"] + sides["item"]
    expected = user @ item.T + tables["item_bias"].T
    case = CASES[name]
    found = jax.jit(functools.partial(scores, case.model))(params_of(name)[0], case.batch)
    np.testing.assert_allclose(found, expected[USER], rtol=1e-4, atol=1e-5)
    vectors = students.materialize(case.model, params_of(name)[0])  # what is packed of any such model
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
        (USER_FEATURES[:5], ITEM_FEATURES, r"expected user_features of shape \(6, 4\), got \(5, 4\)"),
        (USER_FEATURES, ITEM_FEATURES.T, r"expected item_features of shape \(8, 5\), got \(5, 8\)"),
        (USER_FEATURES, ITEM_FEATURES[0], r"expected item_features of shape \(8, 5\), got \(5,\)"),
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


@pytest.mark.parametrize("regularization", [0.3, 2.0, 50.0])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(regularization):
    rng = np.random.default_rng(7)
    x = (rng.random((30, 9)) < 0.4) * rng.choice([1.0, 0.5], (30, 1))
    params = fit_ease(x.T @ x, regularization=regularization)
    weights = params["tables"]["item"].T
    expected = _ridge(x, regularization)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6)
    assert not np.allclose(expected, expected.T, atol=1e-3)  # so a transposed table would be seen
    assert (np.diag(weights) == 0).all()
    assert not np.signbit(np.diag(weights)).any()
    found = scores(ease(Ease(items=9)), jax.tree.map(jnp.asarray, params), {"history": jnp.asarray(x, jnp.float32)})
    np.testing.assert_allclose(found, x @ expected, rtol=0, atol=1e-5)
    order = rng.permutation(9)
    again = fit_ease(x[:, order].T @ x[:, order], regularization=regularization)["tables"]["item"].T
    np.testing.assert_allclose(again, expected[np.ix_(order, order)], rtol=0, atol=1e-6)
    twice = np.concatenate([x, x])  # everyone twice is everyone once with half the regularization
    again = fit_ease(twice.T @ twice, regularization=2 * regularization)["tables"]["item"].T
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-6)


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

    judged = evaluate.judge(split.test, split.train)
    ndcg = jax.jit(lambda params: evaluate.ndcg(model, params, judged, k=10))
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
