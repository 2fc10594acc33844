"""The top-N experiment: its protocols, its closed forms beside those of the peers, and how a run is cut and resumed."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest

from experiments import baselines_topn, real, record
from recjax import data, grid
from recjax.study import Training

ROOT = pathlib.Path(__file__).parent.parent
USERS, ITEMS = 12, 40
RNG = np.random.default_rng(0)


def log(rows, item_ids=None):
    user, item = (side.astype(np.int32) for side in np.nonzero(rows))
    ids = np.arange(ITEMS).astype(str) if item_ids is None else item_ids
    return data.Interactions(user, item, np.arange(USERS).astype(str), ids)


PART = RNG.choice(4, size=(USERS, ITEMS), p=[0.4, 0.4, 0.1, 0.1])
TRAIN, VALID, TEST = (log((part == PART) & ((np.arange(USERS) != 3) | (part < 3))[:, None]) for part in (1, 2, 3))
SPLIT = data.Split(TRAIN, VALID, TEST, {})


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("count_empty", [False, True])
def test_test_queries_see_what_the_final_model_learned_from(refit, count_empty):
    setup = baselines_topn.of_split("toy", SPLIT, refit=refit, count_empty=count_empty)
    known = (PART == 1) | (refit & (PART == 2))
    np.testing.assert_array_equal(setup.whole.matrix().toarray() > 0, known)
    assert (3 in setup.whole.test.user) == count_empty
    seen = data.history_batch(setup.whole.log, setup.whole.test, ITEMS)["history"]
    for user, history in zip(setup.whole.test.user, np.asarray(seen), strict=True):
        assert set(history[history >= 0]) == set(np.flatnonzero(known[user]))
    for user, end, until in zip(*setup.whole.test, strict=True):
        wanted = set(np.flatnonzero(PART[user] == 3)) if user != 3 else set()
        assert set(setup.whole.log.items[end:until]) == wanted


def test_later_items_are_numbered_above_all_that_a_user_has():
    shuffled = RNG.permutation(ITEMS)
    part = log(PART == 1, shuffled.astype(str))
    dataset = data.dataset(data.Split(part, part.take(slice(0)), part.take(slice(0)), {}))
    found = baselines_topn.numbered_above(dataset, np.array([5, 0]))
    for row, user in zip(found, (5, 0), strict=True):
        have = shuffled[PART[user] == 1]
        assert row.tolist() == [bool((number > have).all()) for number in shuffled]


def test_a_cut_run_goes_on_and_keeps_what_was_measured(monkeypatch):
    asked = []

    def plan(setup):
        return {name: lambda name=name: asked.append(name) or {} for name in ("first", "second", "third")}

    def alone(figures, *arguments):
        return {**figures(*arguments), "seconds": 2.0}

    counts = {f"{part}_rows": 1 for part in ("train", "valid", "test")}
    setup = types.SimpleNamespace(dataset=types.SimpleNamespace(counts=counts))
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
    setup = baselines_topn.of_split("toy", SPLIT, refit=True)
    net = baselines_topn.factors(4, 16, 20, 1e-2, (1e-3,), seeds=2)
    monkeypatch.setattr(baselines_topn, "bench", lambda name: setup)
    monkeypatch.setattr(baselines_topn, "nets", lambda name: {"MF": net})
    monkeypatch.setattr(baselines_topn.machine, "enable_compilation_cache", lambda: None)
    study = baselines_topn.study_of(setup, net, setup.whole)
    training = Training(grid.Schedule(epochs=20, batch_size=16, chunk_epochs=20))
    chosen = {name: values[0] for name, values in net.settings.items()}
    both = study.run(grid.product(**net.settings, seed=range(2)), training=training)
    for seed, params in enumerate(both.members(0)):
        found = baselines_topn.refitted("toy", "MF", chosen, 20, seed)
        expected = baselines_topn.figures(study.model.scorer(params), setup.whole, setup.whole.test)
        assert found == pytest.approx(expected, abs=1e-6)
        assert found["recall@20"] > 0


def test_a_model_is_tried_with_every_setting_and_every_seed(monkeypatch):
    setup = baselines_topn.of_split("toy", SPLIT)
    net = baselines_topn.factors(4, 16, 10, 1e-2, (1e-3, 1e-1), seeds=2)
    found = baselines_topn.trained(setup, "MF", net)
    assert len(found["validation"]) == len(found["test"]["ndcg@20"]["by_seed"]) == 2
    best = int(np.argmax(found["validation"]))
    assert found["chosen"] == pytest.approx({"learning_rate": 1e-2, "l2": (1e-3, 1e-1)[best]})
    assert found["schedule"] == {"epochs": 10, "batch_size": 16}


@pytest.mark.parametrize("name", baselines_topn.NAMES)
def test_every_model_of_a_data_set_has_the_hyperparameters_that_are_swept(name):
    features = data.Features(RNG.normal(size=(ITEMS, 3)).astype(np.float32), ("a", "b", "c"))
    train = dataclasses.replace(TRAIN, item_features=features)
    setup = baselines_topn.of_split(name, SPLIT._replace(train=train))
    for model, net in baselines_topn.nets(name).items():
        objective = net.family(setup.dataset).objective
        assert objective is not None
        assert set(net.settings) <= set(objective.hparams._fields), model


@pytest.mark.skipif(not (real.DATA / "tiktok").is_dir(), reason="no real data: set RECJAX_DATA to a folder with tiktok")
def test_the_features_of_a_log_are_those_of_its_items():
    ids = np.array(["7", "0", "2"])
    raw = np.load(real.DATA / "tiktok" / "image_feat.npy").astype(np.float32)[[7, 0, 2]]
    found = baselines_topn.tiktok_features(ids).values[:, :128]
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
