"""Supervised objectives against their equations in NumPy, and what their batches hold."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import data, families, grid, models
from recjax.families import ctr, objectives, sequential

RNG = np.random.default_rng(0)
ITEMS, LENGTH = 30, 20
ANY = grid.Schedule(epochs=1, batch_size=4)


def dataset(user, item, items, **columns):
    ids = np.arange(max(user) + 1).astype(str), np.arange(items).astype(str)
    log = data.Interactions(np.int32(user), np.int32(item), *ids, **columns)
    return data.dataset(data.Split(log, log.take(slice(0)), log.take(slice(0)), {}))


def test_the_penalty_is_of_the_vectors_of_a_batch():
    tables = {"user": jnp.arange(6.0).reshape(3, 2), "item": jnp.ones((4, 2))}
    batch = {"user": jnp.array([0, 2]), "item": jnp.array([[0, 1], [2, 3]])}
    # 0² + 1² + 4² + 5² of the users and four items of length² 2, by halves, over two rows
    assert objectives.row_penalty({"tables": tables}, batch) == (42 + 8) / 2 / 2


def test_the_losses_of_shared_negatives_are_their_equations():
    tables = {"user": RNG.normal(size=(3, 4)), "item": RNG.normal(size=(6, 4)), "item_bias": RNG.normal(size=(6, 1))}
    tables = {name: table.astype(np.float32) for name, table in tables.items()}
    log = dataset([0, 1, 2], [0, 1, 2], 6)
    groups = np.int32([[0, 3, 4], [2, 3, 0]])  # of one row each
    batch = {"user": np.int32([2, 0]), "item": np.int32([1, 5]), "negatives": groups}
    queries = np.concatenate([tables["user"], np.ones((3, 1))], axis=1)[batch["user"]]
    vectors = np.concatenate([tables["item"], tables["item_bias"]], axis=1)
    scores = (queries @ vectors.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (queries, vectors)))
    right, wrong = scores[[0, 1], batch["item"]], np.take_along_axis(scores, groups, axis=1)
    hparams = objectives.Shared(margin=0.1, negative_weight=7.0, loss_temperature=0.5, l2=0.1)
    given = {"tables": jax.tree.map(jnp.asarray, tables)}, jax.tree.map(jnp.asarray, batch), hparams, jax.random.key(0)

    def loss(learn):
        return families.mf(log, 4, cosine=True, learn=functools.partial(learn, schedule=ANY)).objective.loss(*given)

    every = np.exp(np.concatenate([right[:, None], wrong], axis=1) / 0.5)
    rows = sum((tables[name][batch[name.split("_")[0]]] ** 2).sum() for name in tables)
    expected = -np.log(every[:, 0] / every.sum(axis=1)).mean() + 0.1 * rows / 2 / 2
    np.testing.assert_allclose(loss(objectives.sampled_softmax), expected, rtol=1e-5)
    hinge = 1 - right + 7 * np.maximum(wrong - 0.1, 0).mean(axis=1)
    np.testing.assert_allclose(loss(objectives.contrastive), hinge.mean(), rtol=1e-5)


def test_dropped_entries_are_those_of_the_unit_query():
    """Half of them at random, the others twice as large: a score is twice a sum of some of the products."""
    factors = models.matrix_factorization(models.MatrixFactorization(users=1, items=2, dim=3))
    model, params = families.unit_length(factors), jax.jit(factors.init)(jax.random.key(0))
    batch = {"user": jnp.array([0]), "item": jnp.array([1]), "negatives": jnp.array([[0]])}
    products = np.asarray(model.query(params, batch)[0] * model.items(params, batch["item"])[0], np.float64)
    sums = np.array([2 * products[list(kept)].sum() for kept in itertools.product([False, True], repeat=4)])
    loss = objectives.contrastive(dataset([0], [1], 2), model, ANY).loss
    hparams = objectives.Shared(margin=0.0, negative_weight=0.0, dropout=0.5)
    keys = jax.random.split(jax.random.key(1), 32)
    scores = 1 - jax.vmap(lambda key: loss(params, batch, hparams, key))(keys)
    apart = np.abs(np.asarray(scores)[:, None] - sums)
    assert apart.min(axis=1).max() < 1e-6
    assert len(set(apart.argmin(axis=1))) > 4


@pytest.fixture(scope="module")
def histories():
    """Seventeen users, the first of whom has all items."""
    rng = np.random.default_rng(0)
    each = [rng.permutation(ITEMS)[: rng.integers(1, 12)] if user else np.arange(ITEMS) for user in range(17)]
    user = np.repeat(np.arange(17), [len(items) for items in each])
    return dataset(user, np.concatenate(each), ITEMS, timestamp=np.arange(len(user), dtype=float))


def gru4rec(length):
    return models.gru4rec(models.Gru4Rec(items=ITEMS, length=length, dim=4, hidden=3))


@pytest.mark.parametrize("prefixes", [False, True])
@pytest.mark.parametrize("contrast", [sequential.shared_negatives, sequential.one_negative])
def test_a_batch_has_every_label_of_its_windows(histories, contrast, prefixes):
    """The long ones first, and each after the items that were before it; over all windows, every label once."""
    objective = sequential.next_item(histories, gru4rec(LENGTH), LENGTH, contrast=contrast, prefixes=prefixes)
    ids = jnp.asarray(np.random.default_rng(1).permutation(objective.rows))
    batch = jax.jit(objective.gather)(objective.data, ids, jax.random.key(0))
    place = np.asarray(batch["place"])
    counts, parts = place >= 0, [np.asarray(part) for part in batch["histories"]]
    ends = [row[: at + 1] for part in parts for row in part for at in range(len(row))]
    found = [tuple(ends[at][ends[at] >= 0]) for at in place[counts]]
    labels = np.asarray(batch["label"])[counts].tolist()
    log, expected = histories.log, []
    for user in range(histories.users):
        items = log.items[log.offsets[user] : log.offsets[user + 1]].tolist()
        stride = 1 if prefixes else LENGTH
        for at in range(1, len(items)):
            end = len(items) - (len(items) - 1 - at) // stride * stride  # of the window that has it as a label
            expected.append((tuple(items[max(0, end - LENGTH - 1) : at]), items[at], user))
    assert sorted(zip(found, labels, strict=True)) == sorted(one[:2] for one in expected)
    if not prefixes:
        assert parts[0].shape[1] == LENGTH
        assert parts[1].shape[1] < LENGTH
    if contrast is sequential.one_negative:
        owner = {(history, label): user for history, label, user in expected}
        have = histories.matrix().toarray() > 0
        negatives = np.asarray(batch["negatives"])[counts]
        for history, label, negative in zip(found, labels, negatives, strict=True):
            user = owner[history, label]
            assert negative == -1 if have[user].all() else not have[user, negative]


@pytest.mark.parametrize("name", ["shared_negatives", "one_negative", "whole_catalog"])
def test_the_loss_is_the_mean_over_labels(histories, name):
    """By hand from queries and vectors; what stands at padding changes nothing."""
    model = gru4rec(3)
    params = jax.jit(model.init)(jax.random.key(1))
    pieces = np.int32([[-1, 4, 7]]), np.int32([[-1, 2]])
    label, others = np.int32([7, 9, 5]), {"shared_negatives": [3, 9, 20, 5], "one_negative": [3, -1, 20, 0]}
    negatives = np.int32(others.get(name, []))
    batch = {"histories": pieces, "place": np.int32([1, 2, 4, -1]), "label": np.int32([*label, 11])}
    batch = jax.tree.map(jnp.asarray, {**batch, "negatives": negatives})
    objective = sequential.next_item(histories, model, 3, contrast=getattr(sequential, name))
    found = jax.jit(objective.loss)(params, batch, sequential.NextItem(dropout=0.0), jax.random.key(0))
    table = np.asarray(params["tables"]["item"], np.float64)
    history = np.int32([[-1, 4, 7], [-1, -1, 2]])
    queries = np.asarray(jax.jit(model.queries)(params, {"history": history}), np.float64).reshape(-1, 4)[[1, 2, 5]]
    expected = []
    for row, (query, right) in enumerate(zip(queries, label, strict=True)):
        scores = table @ query
        if name == "one_negative":
            other = negatives[row]
            expected.append(np.logaddexp(0, -scores[right]) + (np.logaddexp(0, scores[other]) if other >= 0 else 0))
        else:
            rest = [item for item in (negatives if len(negatives) else range(ITEMS)) if item != right]
            expected.append(np.log(np.exp(scores[[right, *rest]]).sum()) - scores[right])
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_bounds_hold_for_a_whole_epoch_and_save_work():
    sizes = np.array([20] * 20 + [3] * 80)
    long, short = sequential._lengths(sizes, 20, 100)
    assert long * 20 + (100 - long) * short < 100 * 20
    assert short == 3
    assert long >= 20
    assert sequential._lengths(np.full(10, 20), 20, 10) == (0, 20)
    assert sequential._at_most(sizes, 100) >= sizes.sum()


def test_the_penalty_is_half_of_the_sum_of_squares_of_all_tables():
    rows = data.Examples(RNG.integers(0, 40, (6, 10)).astype(np.int32), (RNG.random(6) < 0.4).astype(np.float32))
    model = families.dnn(data.CTRDataset(rows, rows, rows, 40), 4, hidden=(5, 4))
    params = jax.jit(model.init)(jax.random.key(0))
    batch = ctr.batch_of(jax.tree.map(jnp.asarray, rows))
    plain, penalized = (
        model.objective.loss(params, batch, ctr.Deep(l2=l2, dropout=0.0), jax.random.key(0)) for l2 in (0.0, 0.5)
    )
    squares = np.square(np.asarray(params["tables"]["feature"], np.float64)).sum()
    np.testing.assert_allclose(penalized - plain, 0.25 * squares, rtol=1e-4)
    logits = np.asarray(model.score(params, batch), np.float64)[:, 0]
    signs = 2 * np.asarray(batch["label"], np.float64) - 1
    np.testing.assert_allclose(plain, np.log1p(np.exp(-signs * logits)).mean(), rtol=1e-5)


def test_the_learning_rate_falls_after_each_validation_that_is_not_the_best():
    score = np.array([[0.5, 0.6], [0.6, 0.5], [0.55, 0.4], [0.7, 0.65]]).reshape(4, 2, 1)
    hparams = ctr.Deep(learning_rate=jnp.full((2, 1), 1e-3))
    ran = np.ones((4, 1), bool)
    pasts = [grid.History(np.arange(n), score[:n], score[:n], score[:n], ran[:n]) for n in range(5)]
    rates = [np.asarray(ctr.reduced_on_plateaus(hparams, past).learning_rate) for past in pasts]
    expected = [[1e-3, 1e-3], [1e-3, 1e-3], [1e-3, 1e-4], [1e-4, 1e-5], [1e-4, 1e-5]]
    np.testing.assert_allclose(np.stack(rates)[..., 0], expected, rtol=1e-5)
