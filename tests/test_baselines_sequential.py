"""The experiment on sequences, on a log of a few users: what it trains, and what its figures are of."""

import dataclasses

import numpy as np
import pytest

from experiments import baselines_sequential as experiment
from recjax import families

ITEMS = 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, [user, *rng.permutation(ITEMS)[: rng.integers(5, 12)]])) for user in range(17)]
    path = tmp_path_factory.mktemp("log") / "sequences.txt"
    path.write_text("\n".join(lines))
    return experiment.read(path)


def test_every_user_has_one_item_in_valid_and_one_in_test(dataset):
    assert dataset.timed
    for held in (dataset.valid, dataset.test):
        np.testing.assert_array_equal(held.user, np.arange(17))
        np.testing.assert_array_equal(held.until - held.end, 1)
    np.testing.assert_array_equal(dataset.test.end, dataset.valid.until)


def test_figures_of_every_seed(dataset):
    def family(of):
        model = families.gru4rec(of, 4, length=5, hidden=3)
        schedule = dataclasses.replace(model.objective.schedule, epochs=4)
        return model._replace(objective=model.objective._replace(schedule=schedule))

    config = experiment.Config(seeds=2, batch_size=8)
    found = experiment.figures("toy", experiment.Baseline(family, (0.5, 0.25)), config, dataset)
    assert found["published"] == {"hr@10": 0.5, "ndcg@10": 0.25}
    assert len(set(found["valid_ndcg@10"]["by_seed"])) == found["members"] == 2
    assert 0 < found["test"]["ndcg@10"]["mean"] < found["test"]["hr@10"]["mean"] <= 1
    assert found["best_epoch"] <= found["epochs"] == 4


def test_one_negative_trains_to_the_last_epoch(dataset):
    model = experiment.BASELINES["SASRec, one negative"].family(dataset)
    schedule = model.objective.schedule
    assert schedule.epochs == schedule.patience == 120
    rate = model.objective.optimizer(model.objective.hparams._replace(steps=10.0))
    state = rate.init(np.zeros(1, np.float32))
    first, last = np.ones(1, np.float32), None
    for _ in range(11):
        last, state = rate.update(first, state)
    assert last == 0
