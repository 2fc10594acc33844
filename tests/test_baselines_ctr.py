"""The CTR models on Frappe: what is trained is what is evaluated, and a cut run goes on."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import baselines_ctr, record
from recjax import data, families


def rows(count, seed):
    """A click is where the first two fields agree in parity."""
    fields = np.random.default_rng(seed).integers(0, 6, (count, 3)).astype(np.int32) + np.int32([0, 6, 12])
    return data.Examples(fields, ((fields[:, 0] + fields[:, 1]) % 2 == 0).astype(np.float32))


@pytest.fixture(scope="module")
def found():
    def family(dataset):
        model = families.fm(dataset)
        objective = model.objective
        hparams = objective.hparams._replace(learning_rate=0.05, l2=0.0)
        schedule = dataclasses.replace(objective.schedule, epochs=12)
        return model._replace(objective=objective._replace(hparams=hparams, schedule=schedule))

    dataset = data.CTRDataset(*(rows(count, seed) for seed, count in enumerate((96, 64, 50))), features=18)
    config = baselines_ctr.Config(seeds=2, batch_size=16)
    return baselines_ctr.figures("toy", (family, baselines_ctr.Published(0.9, 0.1)), config, dataset)


def test_a_planted_structure_is_found(found):
    assert found["test_auc"]["mean"] > 0.95
    assert found["test_logloss"]["mean"] < 0.5
    assert len(found["test_auc"]["by_seed"]) == len(set(found["test_logloss"]["by_seed"])) == 2
    assert found["parameters"] == 18 * 10 + 18 + 1
    assert found["difference"] == found["test_auc"]["mean"] - 0.9
    assert found["within"]
    assert max(found["best_epochs"]) <= found["epochs"] <= 12


def test_every_model_is_made_at_the_sizes_of_frappe():
    """And its loss takes its hyperparameters."""
    part = rows(4, 0)
    dataset = data.CTRDataset(part, part, part, features=5382)
    for name, (family, _) in baselines_ctr.BASELINES.items():
        objective = family(dataset).objective
        params = jax.eval_shape(family(dataset).init, jax.random.key(0))
        batch = objective.gather(objective.data, np.arange(2), jax.random.key(0))
        value = jax.eval_shape(objective.loss, params, batch, objective.hparams, jax.random.key(0))
        assert value.shape == (), name


def test_a_run_that_was_cut_measures_what_is_missing(tmp_path, monkeypatch):
    names, asked = list(baselines_ctr.BASELINES), []

    def alone(measure, name, config, frappe):
        asked.append(name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        spread = {"mean": 0.9, "sd": 0.0}
        published = {"auc": 0.9, "sd": None}
        figures = {"test_auc": spread, "test_logloss": spread, "published": published, "difference": 0.0, "bar": 0.0}
        return {**figures, "within": True, "parameters": 1, "epochs": 1, "seconds": 1.0, "peak_memory_bytes": 1}

    monkeypatch.setattr(record, "alone", alone)
    path, config = tmp_path / "results.json", baselines_ctr.Config(seeds=2)
    with pytest.raises(KeyboardInterrupt):
        baselines_ctr.main(config, tmp_path, path)
    assert list(json.loads(path.read_text())["models"]) == names[:2]
    baselines_ctr.main(config, tmp_path, path)
    assert asked == [*names[:3], *names[2:]]
    assert list(json.loads(path.read_text())["models"]) == names
    baselines_ctr.main(baselines_ctr.Config(seeds=3), tmp_path, path)
    assert asked[-len(names) :] == names
