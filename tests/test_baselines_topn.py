"""The top-N experiment: its own ways of ranking are those of the library, its closed forms those of the peers."""

import itertools
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import baselines_topn, real, record, topn
from recjax import data, evaluate, grid, models

ROOT = pathlib.Path(__file__).parent.parent
USERS, ITEMS = 12, 40
RNG = np.random.default_rng(0)


def log(rows):
    user, item = (side.astype(np.int32) for side in np.nonzero(rows))
    return data.Interactions(user, item, np.arange(USERS).astype(str), np.arange(ITEMS).astype(str))


PART = RNG.choice(3, size=(USERS, ITEMS), p=[0.5, 0.4, 0.1])
TRAIN, TEST = log(PART == 1), log((PART == 2) & (np.arange(USERS) != 3)[:, None])


@pytest.mark.parametrize("empty", [False, True])
def test_lists_from_scores_are_those_of_the_products(empty):
    queries, vectors = (jnp.asarray(RNG.normal(size=(rows, 5)), jnp.float32) for rows in (USERS, ITEMS))
    protocol = evaluate.Protocol(count_empty=empty)
    found = topn.rank_scores(
        lambda users: np.array(queries[users] @ vectors.T), TEST, TRAIN, protocol=protocol, block=5
    )
    expected = evaluate.rank(queries, vectors, TEST, TRAIN, k=topn.K, protocol=protocol)
    for ours, its in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, its)
    assert topn.figures(found) == topn.figures(expected)


def test_long_histories_are_cut_and_short_ones_padded():
    found = topn.histories(TRAIN, 15)
    for user in range(USERS):
        have = set(np.flatnonzero(PART[user] == 1))
        kept = found[user][found[user] >= 0].tolist()
        assert len(set(kept)) == len(kept) == min(15, len(have))
        assert set(kept) <= have


def test_later_items_are_numbered_above_all_that_a_user_has():
    shuffled = RNG.permutation(ITEMS)
    known = data.Interactions(TRAIN.user, TRAIN.item, TRAIN.user_ids, shuffled.astype(str))
    found = baselines_topn.numbered_above(known, np.array([5, 0]))
    for row, user in zip(found, (5, 0), strict=True):
        have = shuffled[PART[user] == 1]
        assert row.tolist() == [bool((number > have).all()) for number in shuffled]


def test_two_parts_are_one_log():
    whole = topn.both(TRAIN, TEST)
    assert len(whole) == len(TRAIN) + len(TEST)
    np.testing.assert_array_equal(topn.matrix(whole).toarray(), (topn.matrix(TRAIN) + topn.matrix(TEST)).toarray())


def test_the_penalty_is_of_the_vectors_of_a_batch():
    tables = {"user": jnp.arange(6.0).reshape(3, 2), "item": jnp.ones((4, 2))}
    batch = {"user": jnp.array([0, 2]), "item": jnp.array([[0, 1], [2, 3]])}
    # 0² + 1² + 4² + 5² of the users and four items of length² 2, by halves, over two rows
    assert topn.penalty({"tables": tables}, batch) == (42 + 8) / 2 / 2


def test_the_losses_of_shared_negatives_are_their_equations():
    tables = {"user": RNG.normal(size=(3, 4)), "item": RNG.normal(size=(6, 4)), "item_bias": RNG.normal(size=(6, 1))}
    tables = {name: table.astype(np.float32) for name, table in tables.items()}
    model = topn.by_cosine(models.matrix_factorization(models.MatrixFactorization(users=3, items=6, dim=4)))
    groups = np.int32([[0, 3, 4], [2, 3, 0]])  # of one row each
    batch = {"user": np.int32([2, 0]), "item": np.int32([1, 5]), "negatives": groups}
    queries = np.concatenate([tables["user"], np.ones((3, 1))], axis=1)[batch["user"]]
    vectors = np.concatenate([tables["item"], tables["item_bias"]], axis=1)
    scores = (queries @ vectors.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (queries, vectors)))
    right, wrong = scores[[0, 1], batch["item"]], np.take_along_axis(scores, groups, axis=1)
    hparams = topn.Hparams(0.0, margin=0.1, weight=7.0, temperature=0.5)
    params = {"tables": jax.tree.map(jnp.asarray, tables)}
    given = params, jax.tree.map(jnp.asarray, batch), hparams, jax.random.key(0)
    every = np.exp(np.concatenate([right[:, None], wrong], axis=1) / 0.5)
    np.testing.assert_allclose(topn.softmax(model, *given), -np.log(every[:, 0] / every.sum(axis=1)).mean(), rtol=1e-5)
    hinge = 1 - right + 7 * np.maximum(wrong - 0.1, 0).mean(axis=1)
    np.testing.assert_allclose(topn.contrastive(model, *given), hinge.mean(), rtol=1e-5)


def test_dropped_entries_are_those_of_the_unit_query():
    """Half of them at random, the others twice as large: a score is twice a sum of some of the products."""
    factors = models.MatrixFactorization(users=1, items=2, dim=3)
    model = topn.by_cosine(models.matrix_factorization(factors))
    params = jax.jit(model.init)(jax.random.key(0))
    batch = {"user": jnp.array([0]), "item": jnp.array([1]), "negatives": jnp.array([[0]])}
    products = np.asarray(model.query(params, batch)[0] * model.items(params, batch["item"])[0], np.float64)
    sums = np.array([2 * products[list(kept)].sum() for kept in itertools.product([False, True], repeat=4)])
    hparams, keys = topn.Hparams(0.0, dropout=0.5), jax.random.split(jax.random.key(1), 32)
    scores = 1 - jax.vmap(lambda key: topn.contrastive(model, params, batch, hparams, key))(keys)
    apart = np.abs(np.asarray(scores)[:, None] - sums)
    assert apart.min(axis=1).max() < 1e-6
    assert len(set(apart.argmin(axis=1))) > 4


def test_a_cut_run_goes_on_and_keeps_what_was_measured(monkeypatch):
    asked = []

    def plan(setup):
        return {name: lambda name=name: asked.append(name) or {} for name in ("first", "second", "third")}

    def alone(figures, *arguments):
        return {**figures(*arguments), "seconds": 2.0}

    counts = {f"{part}_rows": 1 for part in ("train", "valid", "test")}
    setup = types.SimpleNamespace(split=types.SimpleNamespace(counts=counts))
    monkeypatch.setattr(baselines_topn, "bench", lambda name: setup)
    monkeypatch.setattr(baselines_topn, "plan", plan)
    monkeypatch.setattr(record, "alone", alone)
    *cut, whole = baselines_topn.run("tiktok", {})
    assert asked == ["first", "second", "third"]
    assert [list(one["models"]) for one in (*cut, whole)] == [asked[:1], asked[:2], asked]
    before = {name: {**whole["models"][name], "commit": "earlier"} for name in ("first", "third")}
    (again,) = baselines_topn.run("tiktok", before)  # cut before that, nothing of the third is lost
    assert asked[3:] == ["second"]
    assert list(again["models"]) == ["first", "second", "third"]
    assert [row["commit"] for row in again["models"].values()] == ["earlier", whole["commit"], "earlier"]
    assert again["seconds"] == 6
    (nothing,) = baselines_topn.run("tiktok", again["models"])
    assert nothing["models"] == again["models"]
    assert len(asked) == 4


def test_a_seed_refitted_alone_is_that_of_a_population(monkeypatch):
    split = data.Split(TRAIN, log((PART == 0) & (RNG.random(PART.shape) < 0.3)), TEST, {})
    setup = baselines_topn.Bench("toy", split, evaluate.Protocol(), refit=True)
    make = baselines_topn.factors(4, 16, 20, 1e-2, (1e-3,), seeds=2)
    monkeypatch.setattr(baselines_topn, "bench", lambda name: setup)
    monkeypatch.setattr(baselines_topn, "nets", lambda setup: {"MF": make})
    monkeypatch.setattr(baselines_topn.machine, "keep_programs", lambda: None)
    training = make(setup.whole)
    steps = len(setup.whole) // 16
    schedule = grid.Schedule(epochs=20, batch_size=16, chunk_epochs=20, count_from=20 * steps)
    held_out = evaluate.judge(split.valid, split.train, cells=2**20)
    both, _ = topn.fit(training._replace(schedule=schedule), setup.whole, held_out, range(2), lambda text: None)
    chosen = {name: float(values[0]) for name, values in training.hparams.items()}
    for seed in range(2):
        found = baselines_topn.refitted("toy", "MF", chosen, 20, seed)
        assert found == baselines_topn.judged(setup, training.model, both, seed, 0)
        assert found["recall@20"] > 0


@pytest.mark.skipif(not (real.DATA / "tiktok").is_dir(), reason="no real data: set RECJAX_DATA to a folder with tiktok")
def test_the_features_of_a_log_are_those_of_its_items():
    ids = np.array(["7", "0", "2"])
    raw = np.load(real.DATA / "tiktok" / "image_feat.npy").astype(np.float32)[[7, 0, 2]]
    found = baselines_topn.tiktok_features(ids)[:, :128]
    expected = (raw - raw.mean(0)) / raw.std(0)
    found, expected = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_closed_forms_equal_those_of_the_peers():
    peers = json.loads((ROOT / "experiments/results/peers_topn.json").read_text(encoding="utf-8"))
    assert not peers["commit"].endswith("-dirty")
    for name, row in peers["models"].items():
        for metric, ours in row["ours"].items():
            tied = name.endswith(", 50")  # either of two equally similar ones may be the last neighbor
            assert abs(ours - row["peer"][metric]) < (2e-3 if tied else 5e-5), (name, metric)


@pytest.mark.parametrize(("one", "measured"), [(None, list(baselines_topn.NAMES)), ("tiktok", ["tiktok"])])
def test_every_data_set_is_measured_unless_one_is_named(one, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines_topn, "run", lambda name, before: iter([{"of": name, "before": before}]))
    monkeypatch.setattr(baselines_topn, "stamped", lambda found: found["of"])
    monkeypatch.setattr(baselines_topn, "table", list)
    for before in ({}, dict(zip(measured, measured, strict=True))):
        baselines_topn.main(one, tmp_path / "found.json")
        written = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        assert written == {name: {"of": name, "before": before.get(name, {})} for name in measured}
