"""The models of clicks on Frappe: what is trained is what is judged, and the table says what the record holds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import baselines_ctr, clicks, record
from recjax import data, models


def rows(count, seed):
    """A click is where the first two fields agree in parity."""
    fields = np.random.default_rng(seed).integers(0, 6, (count, 3)).astype(np.int32) + np.int32([0, 6, 12])
    return data.Rows(fields, ((fields[:, 0] + fields[:, 1]) % 2 == 0).astype(np.float32))


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clicks, "FEATURES", 18)
        patch.setattr(clicks, "FIELDS", 3)
        patch.setattr(clicks, "BLOCK", 32)
        baseline = baselines_ctr.Baseline(
            models.factorization_machine,
            baselines_ctr.Hparams(learning_rate=0.05, l2=0.0),
            baselines_ctr.Published(0.9, 0.1),
            epochs=12,
            drops=False,
        )
        parts = {
            part: rows(count, seed) for seed, (part, count) in enumerate({"train": 96, "valid": 64, "test": 50}.items())
        }
        config = baselines_ctr.Config(seeds=2, batch_size=16)
        return baselines_ctr.figures("toy", baseline, config, parts)


def test_a_planted_structure_is_found(found):
    assert found["test_auc"]["mean"] > 0.95
    assert found["test_logloss"]["mean"] < 0.5
    assert len(found["test_auc"]["by_seed"]) == len(set(found["test_logloss"]["by_seed"])) == 2
    assert found["parameters"] == 18 * 10 + 18 + 1
    assert found["difference"] == found["test_auc"]["mean"] - 0.9
    assert found["within"]
    assert max(found["best_epochs"]) <= found["epochs"] <= 12


def test_every_model_is_made_at_the_sizes_of_frappe():
    """And has the keyword that its dropout is given by, where it has some."""
    fields = models.Fields(features=20, fields=10, dim=10)
    for name, baseline in baselines_ctr.BASELINES.items():
        model = baseline.make(fields)
        params = jax.eval_shape(model.init, jax.random.key(0))
        batch = {"fields": jnp.zeros((4, 10), jnp.int32), "label": jnp.zeros(4)}
        recipe = baselines_ctr.recipe(model, baseline.drops)
        value = jax.eval_shape(recipe.loss, params, batch, baseline.hparams, jax.random.key(0))
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
