"""Frappe: CTR models beside their published figures.

Command:   python -m experiments.baselines_ctr --json experiments/results/baselines_ctr.json
Hardware:  two CPU cores, no accelerator
Wall time: two and a half hours on one core; the JSON states it model by model
Expected:  every model within .002 AUC of the published figure, or above it

The published figures are those of BARS (Frappe_x1): the mean of five runs where it gives five, with batch normalization
in the deep ones, which these models don't have. Valid and test are the published ones; the train negatives of this copy
were drawn anew, so the figures of all models may be shifted alike: the mean difference is in the JSON as ``shift``.

The families train as they are by default, five seeds a model in one grid: each has its own start, data order and
dropout, and its test AUC is that of the epoch with its best validation AUC. Adam, batches of 4,096, a tenth of the
learning rate after a validation that was no better, and an end after two of them; an L2 penalty of the tables. A model
trains in a process of its own, so that its memory and time are its own.

What differs from BARS in the shallow models, the DNN and FinalMLP was chosen on the validation AUC of seed 0; wide and
deep, DeepFM and DCN-V2 have what was chosen for the DNN. The shallow models take ten times the learning rate, and 30
epochs at most. FinalMLP has streams of 400-400-400 and of 400 units, and gates of 64: with the published 400, 100 and
400 it reached .968 on validation.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from experiments.real import DATA
from experiments.record import measured_before, over_seeds, plus_minus, resumed, say
from recjax import families
from recjax.data import CTRDataset
from recjax.families import Model
from recjax.files import write_json
from recjax.grid import product
from recjax.provenance import provenance
from recjax.study import Study, Training
from recjax.tasks import ctr

BAR = 0.002  # how far below the published AUC a model may be


class Published(NamedTuple):
    """A figure of BARS.

    Attributes:
      auc: on test.
      logloss: on test.
      sd: of the AUC over five runs; None where there was one.
    """

    auc: float
    logloss: float
    sd: float | None = None


Baseline = tuple[Callable[[CTRDataset], Model], Published]
BASELINES: dict[str, Baseline] = {
    "logistic regression": (families.lr, Published(0.935584, 0.307643)),
    "factorization machine": (families.fm, Published(0.967108, 0.206515)),
    "DNN": (families.dnn, Published(0.984045, 0.158370, 0.00051)),
    "wide and deep": (families.wide_and_deep, Published(0.983073, 0.153978, 0.00079)),
    "DeepFM": (families.deepfm, Published(0.983947, 0.149462, 0.00016)),
    "DCN-V2": (families.dcn_v2, Published(0.983824, 0.152036, 0.00043)),
    "FinalMLP": (families.finalmlp, Published(0.986072, 0.148415)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How often, and on how much at once.

    Attributes:
      seeds: each with its own start and data order.
      batch_size: rows a step.
    """

    seeds: int = 5
    batch_size: int = 4096


def figures(name: str, baseline: Baseline, config: Config, dataset: CTRDataset) -> dict[str, Any]:
    """A model of every seed, trained and evaluated."""
    family, published = baseline
    model = family(dataset)
    study = Study(dataset, model, validate=ctr.validation(model, dataset))
    schedule = dataclasses.replace(study.objective.schedule, batch_size=config.batch_size)
    result = study.run(product(seed=range(config.seeds)), training=Training(schedule, progress=say(name, "AUC")))
    members = list(result.members(0))
    tests = [ctr.evaluate(model, params, dataset.test) for params in members]
    test = over_seeds([one["auc"] for one in tests])
    difference = test["mean"] - published.auc
    steps = study.objective.rows // config.batch_size
    hparams = {name: value for name, value in study.hparams._asdict().items() if name != "steps"}
    return {
        "test_auc": test,
        "test_logloss": over_seeds([one["logloss"] for one in tests]),
        "valid_auc": over_seeds(result.fitted.valid[:, 0]),
        "published": published._asdict(),
        "difference": difference,
        "bar": BAR,
        "within": difference >= -BAR,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(members[0])),
        "best_epochs": (result.fitted.best_step[:, 0] // steps).tolist(),
        "epochs": len(result.fitted.steps),
        "hyperparameters": {"dropout": 0.0, **hparams, "patience": schedule.patience, "epochs": schedule.epochs},
    }


def of_baseline(name: str, config: Config, frappe: pathlib.Path) -> dict[str, Any]:
    """The figures of a model, by its name."""
    return figures(name, BASELINES[name], config, ctr.read(frappe))


def run(config: Config, frappe: pathlib.Path, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that the JSON holds, after each model anew; what was measured before is not measured again."""
    about = provenance("python -m experiments.baselines_ctr --json experiments/results/baselines_ctr.json")
    for found in resumed(before, BASELINES, about["commit"], of_baseline, config, frappe):
        yield {
            **about,
            "config": dataclasses.asdict(config),
            "shift": sum(one["difference"] for one in found.values()) / len(found),
            "models": found,
        }


def table(record: dict[str, Any]) -> str:
    """The figures of a record as the README shows them."""
    lines = [
        "| model | published AUC | test AUC | difference | logloss | parameters | epochs | time | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in record["models"].items():
        published, sd = one["published"]["auc"], one["published"]["sd"]
        spread = "" if sd is None else f" ± {sd:.4f}"
        auc, logloss = (plus_minus(one[key]) for key in ("test_auc", "test_logloss"))
        lines.append(
            f"| {name} | {published:.4f}{spread} | {auc} | {one['difference']:+.4f} | {logloss} "
            f"| {one['parameters']:,} | {one['epochs']} | {one['seconds']:.0f} s "
            f"| {one['peak_memory_bytes'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def main(config: Config = Config(), frappe: pathlib.Path = DATA / "frappe", json: pathlib.Path | None = None) -> None:
    """Trains every model that the JSON doesn't have yet, and prints the figures beside the published ones.

    Args:
      config: how often, and on how much at once.
      frappe: the folder with ``train.libfm.gz``, ``valid.libfm.gz`` and ``test.libfm.gz``.
      json: where to write the figures too; nowhere if not given.
    """
    record = {}
    for record in run(config, frappe, measured_before(json, dataclasses.asdict(config))):
        if json is not None:
            write_json(record, json)
    print(table(record))
    print(f"mean difference: {record['shift']:+.4f}")
    for name, one in record["models"].items():
        if not one["within"]:
            print(f"{name}: more than {one['bar']} below the published AUC")


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
