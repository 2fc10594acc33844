"""The models of the top-N tables, each by its own equation; what all models share is in test_models_battery.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from references import retrieval as twins

from recjax import embed, models
from recjax.models.history import multi_hot, sum_rows

USERS, ITEMS, DIM = 6, 8, 3
RNG = np.random.default_rng(3)
HAS = (RNG.random((USERS, ITEMS)) < 0.4) & (np.arange(USERS) < USERS - 1)[:, None]  # the last user has nothing
HAS[:, 2] = False  # and nobody has this one
HISTORY = sp.csr_array(HAS.astype(np.float64))
LISTS = [np.flatnonzero(row).tolist() for row in HAS]
PADDED = np.array([[-1] * (ITEMS - len(row)) + row for row in LISTS], np.int32)


def filled(model):
    """All trained entries random."""
    params = model.init(jax.random.key(0))
    trained = {part: params[part] for part in ("tables", "net")}
    return {**params, **jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), trained)}


def scores(model, params, **batch):
    return model.query(params, {"user": jnp.arange(USERS), **batch}) @ model.items(params).T


@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
@pytest.mark.parametrize("neighbors", [1, 3, 100])
def test_neighbors_are_those_of_the_definition(neighbors, shrinkage, monkeypatch):
    monkeypatch.setattr("recjax.models.neighbors.BLOCK", 4)
    for rows in (HISTORY, sp.csr_array(HISTORY.T)):
        near = models.cosine_neighbors(rows, neighbors=neighbors, shrinkage=shrinkage)
        expected = twins.cosine_neighbors(rows.toarray(), neighbors, shrinkage)
        np.testing.assert_allclose(near.toarray(), expected, rtol=1e-12)


def test_an_item_is_scored_by_the_neighbors_that_a_history_has():
    model = models.fit_item_knn(HISTORY, neighbors=2, shrinkage=1.0)
    near = twins.cosine_neighbors(HISTORY.T.toarray(), 2, 1.0)
    expected = [[sum(near[i, j] for i in np.flatnonzero(HAS[u])) for j in range(ITEMS)] for u in range(USERS)]
    assert sp.issparse(model.weights)
    np.testing.assert_allclose(model.scores(HISTORY), expected, rtol=1e-5, atol=1e-7)


def test_an_item_is_scored_by_the_neighbors_who_have_it():
    model, users = models.UserKnn(HISTORY, neighbors=2), np.arange(USERS)[::-1]
    near = twins.cosine_neighbors(HISTORY.toarray(), 2, 0.0)
    expected = [[sum(near[u, v] for v in np.flatnonzero(HAS[:, i])) for i in range(ITEMS)] for u in users]
    np.testing.assert_allclose(model.scores(HISTORY[users], own=users), expected, rtol=1e-5, atol=1e-7)


def test_the_neighbors_of_a_new_user_are_all_users(monkeypatch):
    monkeypatch.setattr("recjax.models.neighbors.BLOCK", 1)
    new = np.array([[0, 1, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 2, 0, 0]], float)
    near = [twins.cosine_neighbors(np.vstack([row, HISTORY.toarray()]), 3, 0.5)[0, 1:] for row in new]
    found = models.UserKnn(HISTORY, neighbors=3, shrinkage=0.5).scores(sp.csr_array(new))
    np.testing.assert_allclose(found, np.array(near) @ HISTORY.toarray(), rtol=1e-5, atol=1e-7)


def test_no_neighbor_is_too_few():
    with pytest.raises(ValueError, match="neighbors: expected at least 1, got 0"):
        models.cosine_neighbors(HISTORY, neighbors=0)


def test_popular_is_what_many_have():
    model, log = models.popularity(ITEMS), np.nonzero(HAS)[1]
    params = models.fit_popularity(log, items=ITEMS)
    np.testing.assert_array_equal(scores(model, params), np.tile(HAS.sum(axis=0), (USERS, 1)))
    assert jax.tree.structure(params) == jax.tree.structure(model.init(jax.random.key(0)))
    assert model.touched({"user": jnp.arange(2)}) is None
    assert set(model.touched({"item": jnp.arange(2)}) or {}) == {"item"}


def test_content_is_the_cosine_of_centered_features():
    features = RNG.normal(size=(ITEMS, 4)) + 5
    found = scores(
        models.content_based(models.ContentBased(items=ITEMS, features=4)),
        models.fit_content_based(features),
        history=PADDED,
    )
    centered = features - features.mean(axis=0)
    for u in range(USERS):
        for i in range(ITEMS):
            pairs = [(centered[i], centered[j]) for j in np.flatnonzero(HAS[u])]
            expected = sum(a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs)
            np.testing.assert_allclose(found[u, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (np.ones(4), r"features: expected shape \[items, features\], got \(4,\)"),
        (np.array([[1.0, 2.0], [np.nan, 3.0]]), "features: expected finite numbers, got nan at item 1, feature 0"),
    ],
)
def test_features_that_are_none_are_refused(features, said):
    with pytest.raises(ValueError, match=said):
        models.fit_content_based(features)


@pytest.mark.parametrize("layers", [0, 3])
def test_lightgcn_is_the_mean_of_its_layers(layers):
    edges = np.nonzero(HAS)
    model = models.lightgcn(models.LightGcn(users=USERS, items=ITEMS, dim=DIM, layers=layers), *edges)
    params = filled(model)
    tables = params["tables"]
    users, items = twins.lightgcn(tables["user"], tables["item"], list(zip(*edges, strict=True)), layers)
    np.testing.assert_allclose(scores(model, params), users @ items.T, rtol=1e-4, atol=1e-5)


def test_gradients_of_lightgcn_go_back_along_the_edges():
    """Beside JAX's own gradient of the same propagation as a dense matrix."""
    edges = np.nonzero(HAS)
    model = models.lightgcn(models.LightGcn(users=USERS, items=ITEMS, dim=DIM, layers=2), *edges)
    params = filled(model)
    degrees = HAS.sum(axis=1, keepdims=True) * HAS.sum(axis=0)
    graph = np.where(HAS, 1 / np.sqrt(np.maximum(degrees, 1)), 0).astype(np.float32)

    def dense(tables):
        users, items = tables["user"], tables["item"]
        first, second = graph @ items, graph.T @ users
        users, items = (users + first + graph @ second) / 3, (items + second + graph.T @ first) / 3
        return jnp.sum(jnp.sin(users @ items.T))

    found = jax.grad(lambda tables: jnp.sum(jnp.sin(scores(model, {**params, "tables": tables}))))(params["tables"])
    expected = jax.grad(dense)(params["tables"])
    for side in ("user", "item"):
        np.testing.assert_allclose(found[side], expected[side], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own_graph", [False, True])
def test_members_of_lightgcn_are_propagated_as_one_by_one(own_graph):
    """With a graph that they share, side by side in one product; with a graph of each, one after the other."""
    edges = np.nonzero(HAS)
    logs = [edges, (edges[0], (edges[1] + 1) % ITEMS)] if own_graph else [edges, edges]
    config = models.LightGcn(users=USERS, items=ITEMS, dim=DIM, layers=2)
    params = [filled(models.lightgcn(config, *log)) for log in logs]

    def slope(tables, fixed):
        def value(tables):
            found = models.propagate({"tables": tables, "fixed": fixed}, config.layers)["tables"]
            return jnp.sum(jnp.sin(found["user"] @ found["item"].T))

        return jax.value_and_grad(value)(tables)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    fixed = stacked["fixed"] if own_graph else params[0]["fixed"]
    found = jax.jit(jax.vmap(slope, in_axes=(0, 0 if own_graph else None)))(stacked["tables"], fixed)
    for place, one in enumerate(params):
        expected = jax.tree.leaves(slope(one["tables"], one["fixed"]))
        for leaf, right in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_allclose(leaf[place], right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("user", "item", "said"),
    [
        ([0, 1], [0], r"\[edges\] each, got \(2,\) and \(1,\)"),
        ([0, 6], [0, 1], r"user: expected positions in 0..5, got 0..6"),
        ([0, 1], [-1, 1], r"item: expected positions in 0..7, got -1..1"),
    ],
)
def test_edges_outside_the_tables_are_refused(user, item, said):
    with pytest.raises(ValueError, match=said):
        models.lightgcn(models.LightGcn(users=USERS, items=ITEMS), np.array(user), np.array(item))


@pytest.mark.parametrize("own", [0.3, 1.0])
def test_simplex_is_a_cosine_to_a_user_and_a_history(own):
    model = models.simplex(models.SimpleX(users=USERS, items=ITEMS, dim=DIM, own=own))
    params = filled(model)
    kernel, tables = params["net"]["history"]["kernel"], params["tables"]
    expected = twins.simplex(tables["user"], tables["item"], kernel, LISTS, own)
    np.testing.assert_allclose(scores(model, params, history=PADDED), expected, rtol=1e-4, atol=1e-5)


def test_simplex_of_zeros_has_scores_of_zero_and_finite_gradients():
    model = models.simplex(models.SimpleX(users=USERS, items=ITEMS, dim=DIM))
    zeros = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))

    def total(tables):
        return scores(model, {**zeros, "tables": tables}, history=PADDED).sum()

    value, grads = jax.value_and_grad(total)(zeros["tables"])
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("items", [ITEMS, 40 * ITEMS])
def test_elsa_is_its_equation_over_all_items_and_over_candidates(items):
    config = models.Elsa(items=items, dim=DIM)
    model = models.elsa(config)
    params = filled(model)
    history = np.array([[-1, -1, -1, -1], [-1, -1, 7, 2], [3, 1, 3, 0]], np.int32)
    weight = np.array([[9, 9, 9, 9], [9, 9, 1, 0.5], [9, 2, 0.5, 1]], np.float32)
    candidates = np.array([[0, 7, 2], [7, 7, 5], [0, 3, 4]], np.int32)
    tables, scale = params["tables"], float(params["net"]["scale"])
    weights = [{}, {7: 1, 2: 0.5}, {3: 0.5, 1: 2, 0: 1}]
    for batch, of in (
        ({"history": history, "weight": weight}, weights),
        ({"history": history}, [dict.fromkeys(x, 1) for x in weights]),
    ):
        expected = twins.elsa(tables["item"], tables["item_bias"][:, 0], scale, of)
        whole = models.elsa_scores(config, params, batch)
        np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)
        some = models.elsa_scores(config, params, batch, candidates)
        np.testing.assert_allclose(some, np.take_along_axis(expected, candidates, 1), rtol=1e-4, atol=1e-5)
        inner = np.array(model.query(params, batch) @ model.items(params).T)
        others = np.array([[j not in x for j in range(items)] for x in of])
        np.testing.assert_allclose(inner[others], expected[others], rtol=1e-4, atol=1e-5)


def test_vbpr_is_its_equation():
    features = RNG.normal(size=(ITEMS, 5)).astype(np.float32)
    model = models.vbpr(models.Vbpr(users=USERS, items=ITEMS, features=5, dim=DIM, content=2), jnp.asarray(features))
    params = filled(model)
    kernel, bias = (params["net"][name]["kernel"] for name in ("content", "bias"))
    np.testing.assert_allclose(
        scores(model, params), twins.vbpr(params["tables"], kernel, bias, features), rtol=1e-4, atol=1e-5
    )


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"features: expected shape \(8, 5\), got \(8, 4\)"):
        models.vbpr(models.Vbpr(users=USERS, items=ITEMS, features=5), jnp.zeros((ITEMS, 4)))


@pytest.mark.parametrize("items", [6, 600])  # by one product, and row by row
def test_an_item_that_occurs_again_counts_once_with_its_latest_weight(items):
    history = np.array([[-1, 2, 5, 2, 0], [-1, items, -7, 3, 3]], np.int32)
    weight = np.array([[9, 1, 2, 3, 4], [9, 9, 9, 5, 6]], np.float32)
    expected = np.zeros((2, items))
    expected[0, [2, 5, 0]], expected[1, 3] = [3, 2, 4], 6
    np.testing.assert_array_equal(multi_hot(history, items, weight), expected)
    np.testing.assert_array_equal(multi_hot(history, items), expected > 0)
    table = RNG.normal(size=(items, 3)).astype(np.float32)

    def rows(ids):
        return embed.lookup(jnp.asarray(table), ids)

    np.testing.assert_allclose(sum_rows(rows, history, items, weight), expected @ table, rtol=1e-5, atol=1e-6)
