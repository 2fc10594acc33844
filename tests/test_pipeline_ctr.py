"""A run of task ctr on a small table: what it leaves behind, against scikit-learn and NumPy, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_cases import Recorder
from sklearn import metrics

from recjax import artifact, pipeline
from recjax.cli import main
from recjax.errors import InputError
from recjax.families import Model
from recjax.pipeline import source
from recjax.pipeline.config import Config
from recjax.pipeline.ctr import mean_of_logits

SMALL = Config(
    task="ctr",
    teacher=("lr",),
    student="fm",
    dim=4,
    seeds=1,
    epochs=3,
    learning_rate=(0.01,),
    temperature=(1.0,),
    alpha=(0.5,),
    sparsity=(0.5,),
    bits=(4,),
)
STAGES = ["logistic_regression", "teacher", "student_alone", "distilled", "pruned", "quantized", "packed"]
HEADER = "user,item,price,empty,key,click"


def make_rows(count: int) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    user, item, price = rng.integers(0, 12, count), rng.integers(0, 9, count), rng.normal(size=count)
    taste = rng.normal(size=(12, 9))
    label = rng.random(count) < 1 / (1 + np.exp(-2 * taste[user, item] - price))
    columns = (user, item, price.round(3), label.astype(int))
    return [
        (f"u{u}", f"i{i}", str(p), "", f"k{n}", str(y)) for n, (u, i, p, y) in enumerate(zip(*columns, strict=True))
    ]


def write(path, rows, header=HEADER) -> str:
    path.write_text("\n".join([header, *map(",".join, rows), ""]))
    return str(path)


@pytest.fixture(scope="module")
def rows():
    return make_rows(900)


@pytest.fixture(scope="module")
def done(rows, tmp_path_factory):
    place = tmp_path_factory.mktemp("ctr")
    parts = {"train": rows[:600], "valid": rows[600:750], "test": rows[750:]}
    files = {name: write(place / f"{name}.csv", part) for name, part in parts.items()}
    heard = Recorder()
    pipeline.run(dataclasses.replace(SMALL, **files), place / "run", heard)
    return place / "run"


@pytest.fixture(scope="module")
def lines(done):
    return [json.loads(line) for line in (done / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stages(lines):
    return {line["stage"]: line for line in lines if "stage" in line}


def probabilities(folder, rows):
    names = HEADER.split(",")[:3]
    return artifact.load(folder).score([dict(zip(names, row, strict=False)) for row in rows]).probability


def test_the_packed_row_is_what_the_artifact_scores(done, rows, stages):
    """AUC and log loss again, by scikit-learn, from raw rows."""
    row, label = stages["packed"], [int(row[-1]) for row in rows]
    found = probabilities(done / "evaluated", rows[600:])
    assert row["auc"] == pytest.approx(metrics.roc_auc_score(label[750:], found[150:]), abs=1e-6)
    assert row["valid_auc"] == pytest.approx(metrics.roc_auc_score(label[600:750], found[:150]), abs=1e-6)
    assert row["logloss"] == pytest.approx(metrics.log_loss(label[750:], found[150:]), abs=1e-6)
    share = np.mean(label[750:])
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert row["normalized_entropy"] == pytest.approx(row["logloss"] / entropy, abs=1e-5)
    at, truth = np.minimum(found[150:] * 15, 14).astype(int), np.array(label[750:])
    gaps = [abs((truth - found[150:])[at == one].sum()) for one in range(15)]
    assert row["calibration_error"] == pytest.approx(sum(gaps) / len(truth), abs=1e-5)
    card = artifact.load(done / "evaluated").card
    assert card["metrics"]["auc"] == row["auc"]
    assert card["data"]["counts"]["test_rows"] == 150


def test_every_stage_is_calibrated_and_smaller(stages, done):
    assert list(stages) == STAGES
    for row in stages.values():
        assert 0.5 < row["auc"] < 1
        assert 0 < row["calibration_error"] < 0.3
        assert row["ms_per_1000_rows"] > 0
        assert row["auc_by_seed"] == [row["auc"]]
    size = {name: stages[name]["bytes"] for name in STAGES}
    assert size["student_alone"] == size["distilled"] > size["pruned"] > size["packed"]
    assert stages["packed"]["hyperparameters"] == {"sparsity": 0.5, "bits": 4}


def test_comparisons_are_of_the_log_loss_of_each_row(stages, lines, done):
    (summary,) = [line["summary"] for line in lines if "summary" in line]
    assert [(row["metric"], row["users"]) for row in summary["comparisons"]] == [("logloss", 150)] * 4
    for row in summary["comparisons"]:
        of, to = (stages[row[side]]["logloss"] for side in ("of", "to"))
        assert row["difference"] == pytest.approx(of - to, abs=1e-6)
        assert row["low"] < row["difference"] < row["high"]


def test_the_page_says_what_ctr_is_of(done):
    page = (done / "report.html").read_text()
    text = page[page.index("<main>") :]
    for word in ("AUC", "log loss", "Logistic regression", "150 rows evaluated", "recjax score artifact", "key (a"):
        assert word in text, word
    for word in ("NDCG", "ndcg", "user", "recommend", "Recall", "popular"):
        assert word not in text, word


def test_the_refit_learns_from_all_rows(done, rows):
    """Its calibration is that of the artifact that was measured: no rows are left to calibrate on."""
    measured, served = (artifact.load(done / name) for name in ("evaluated", "artifact"))
    assert served.calibration == pytest.approx(measured.calibration)
    assert served.encoding.as_json() == measured.encoding.as_json()
    assert not np.allclose(probabilities(done / "artifact", rows), probabilities(done / "evaluated", rows), atol=1e-3)


def test_a_finished_run_scores_a_file(done, rows, tmp_path, capsys):
    path = write(tmp_path / "rows.csv", [row[:3] for row in rows[:5]], "user,item,price")
    assert main(["score", str(done / "artifact"), path, "--out", str(tmp_path / "scores.csv")]) == 0
    scores = [float(line) for line in (tmp_path / "scores.csv").read_text().split()[1:]]
    assert scores == pytest.approx(probabilities(done / "artifact", rows[:5]), rel=1e-5)
    assert main(["run", "--resume", str(done)]) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out


def test_an_ensemble_is_the_mean_of_logits():
    def model(factor):
        def score(params, batch):
            return factor * params["weight"] * batch["x"]

        return Model(lambda key: {"weight": jnp.float32(1)}, score, None, {"x": jnp.zeros((1, 1))})

    ensemble = mean_of_logits([model(1.0), model(2.0)])
    params = {"0": {"weight": jnp.float32(3)}, "1": {"weight": jnp.float32(-6)}}
    assert ensemble.score(params, {"x": jnp.float32([[1.0], [2.0]])}).tolist() == [[-4.5], [-9.0]]
    assert set(ensemble.init(jax.random.key(0))) == {"0", "1"}


# -- what is read, and what is refused -------------------------------------------------------------------------------


def test_columns_without_use_are_dropped_and_said(rows, tmp_path):
    loaded = source.load(dataclasses.replace(SMALL, data=write(tmp_path / "clicks.csv", rows), drop=("price",)))
    encoding = getattr(loaded.dataset, "encoding")  # noqa: B009
    assert set(encoding.columns) == {"user", "item"}
    assert set(encoding.dropped) == {"empty", "key", "price"}
    other = source.load(dataclasses.replace(SMALL, data=str(tmp_path / "clicks.csv")))
    assert other.fingerprint != loaded.fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row, n: (*row[:-1], "2" if n == 7 else row[-1]), "row 9"),
        (lambda row, n: (*row[:-1], "1"), "labels of"),
        (lambda row, n: ("", "", "", *row[3:]), "expected columns beside the label"),
    ],
)
def test_rows_that_teach_nothing_are_refused(rows, tmp_path, change, said):
    path = write(tmp_path / "clicks.csv", [change(row, n) for n, row in enumerate(rows)])
    with pytest.raises(InputError, match=said) as caught:
        source.load(dataclasses.replace(SMALL, data=path, label="click"))
    assert "clicks.csv" in str(caught.value)


def test_a_test_file_with_other_columns_is_refused(rows, tmp_path):
    train = write(tmp_path / "train.csv", rows)
    test = write(tmp_path / "test.csv", rows[:50], "person,item,price,empty,key,click")
    with pytest.raises(InputError, match=r"test\.csv: .*user"):
        source.load(dataclasses.replace(SMALL, train=train, test=test))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--task ctr", "option --task: expected --data, or --train and --test, for ctr, got no rows"),
        ("--task ctr --data a.csv --split last-out", "option --split: expected time or random for --task ctr"),
        ("--task ctr --data a.csv --k-core 5", "option --k-core: expected --task retrieval for it, got --task ctr"),
        ("--task ctr --data a.csv --synthetic", "option --synthetic: expected --task retrieval"),
        ("--data a.csv --label click", "option --label: expected --task ctr for it, got --task retrieval"),
        ("--task ctr --data a.csv --min-count 0", "option --min-count: expected at least 1, got 0"),
        ("--task ctr --data a.csv --teacher ease", "option --teacher: expected auto, lr, fm, dnn"),
        ("--task ctr --data a.csv --student finalmlp", "option --student: expected auto, lr, fm, dnn"),
        ("--task ctr --data a.csv --distill rrd", "option --distill: expected soft-targets, got rrd"),
    ],
)
def test_an_option_of_the_other_task_is_refused(arguments, said, capsys):
    assert main(["run", *arguments.split()]) == 2
    assert said in capsys.readouterr().err
