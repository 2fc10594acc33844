"""Beauty: the models of sequences that people use, each beside its published figure.

Command:   python -m experiments.baselines_sequential --json experiments/results/baselines_sequential.json
Hardware:  two CPU cores, no accelerator
Wall time: half an hour a model on one core, twice that for the one of one negative; the JSON states it
Expected:  every model at its published HR@10 and NDCG@10 or above, that of one negative within 1% of them

The 5-core of Amazon Beauty as S3-Rec has it: a user's last item is test, the last but one valid; all 12,101 items but
those that the user had before are ranked. The published figures are those of S3-Rec's full ranking, which later papers
quote. They come from one negative an item; how much a softmax over many negatives adds is what the rows differ in.

The families train as they are by default, on histories of the latest 20 items (19 in 20 users have no more) and batches
of 256 windows: Adam at a rate of .003, with which SASRec got better on validation faster than with its authors' .001,
and their dropout of .5 for data as sparse. With one negative a label it learns slowly: its rate falls to zero over 120
epochs. Every second epoch is validated, the best by the mean NDCG@10 of the seeds is kept, and test is looked at once.
A model trains in a process of its own, so that its memory and time are its own.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from experiments.real import DATA
from experiments.record import measured_before, over_seeds, plus_minus, resumed, say
from recjax import data, evaluate, families, metrics
from recjax.data import Dataset
from recjax.families import Model, Objective, objectives
from recjax.families.sequential import SCHEDULE, next_item, one_negative
from recjax.files import write_json
from recjax.grid import product
from recjax.models import RetrievalModel
from recjax.provenance import provenance
from recjax.study import Study, Training

COMMAND = "python -m experiments.baselines_sequential --json experiments/results/baselines_sequential.json"
K = 10
S3_REC = "S3-Rec, full ranking (Zhou et al., CIKM 2020), as in table 1 of TIGER (Rajput et al., NeurIPS 2023)"


class Baseline(NamedTuple):
    """A family as it is trained, and what it should reach.

    Attributes:
      family: gives the model of a data set.
      published: HR@10 and NDCG@10; None where there are none.
    """

    family: Callable[[Dataset], Model]
    published: tuple[float, float] | None


def by_one_negative(dataset: Dataset, model: RetrievalModel, length: int) -> Objective:
    """One negative a label, to the last of the epochs, over which the learning rate falls to zero."""
    schedule = dataclasses.replace(SCHEDULE, epochs=120, patience=120)
    objective = next_item(dataset, model, length, contrast=one_negative, schedule=schedule)
    return objective._replace(optimizer=objectives.adam)


BASELINES = {
    "SASRec, 1,024 negatives": Baseline(families.sasrec, (0.0605, 0.0318)),
    "GRU4Rec, 1,024 negatives": Baseline(families.gru4rec, (0.0283, 0.0137)),
    "SASRec, one negative": Baseline(lambda of: families.sasrec(of, learn=by_one_negative), (0.0605, 0.0318)),
    "HSTU, 1,024 negatives": Baseline(families.hstu, None),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How long and how often.

    Attributes:
      seeds: each with its own start and data order.
      patience: validations without a better one before the end, where the learning rate stays the same.
      batch_size: windows a step.
    """

    seeds: int = 5
    patience: int = 4
    batch_size: int = 256


def figures(name: str, baseline: Baseline, config: Config, dataset: Dataset) -> dict[str, Any]:
    """A model of every seed, trained, chosen on validation and evaluated on test."""
    model = baseline.family(dataset)
    study = Study(
        dataset, model, validate=evaluate.validation(model.score, dataset, length=model.length or 0, k=K, cells=2**40)
    )
    schedule = study.objective.schedule
    patience = config.patience if schedule.patience == SCHEDULE.patience else schedule.patience
    schedule = dataclasses.replace(schedule, patience=patience, batch_size=config.batch_size)
    result = study.run(product(seed=range(config.seeds)), training=Training(schedule, progress=say(name, "NDCG@10")))
    members, steps = list(result.members(0)), study.objective.rows // config.batch_size
    ranked = [evaluate.rank(model.scorer(params), dataset, dataset.test, k=K) for params in members]
    test = {
        metric: over_seeds([float(of(one.hits, one.relevant).mean()) for one in ranked])
        for metric, of in (("hr@10", metrics.hit_rate), ("ndcg@10", metrics.ndcg))
    }
    hparams = study.hparams._asdict()
    return {
        "test": test,
        "valid_ndcg@10": over_seeds(result.fitted.valid[:, 0]),
        "hyperparameters": {key: hparams[key] for key in ("learning_rate", "dropout")},
        "published": None if baseline.published is None else dict(zip(test, baseline.published, strict=True)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(members[0])),
        "best_epoch": int(result.fitted.best_step[0, 0]) // steps,
        "epochs": int(result.fitted.steps[-1]) // steps,
        "members": config.seeds,
    }


def read(path: pathlib.Path) -> Dataset:
    """The data set, split."""
    return data.dataset(data.leave_last_out(data.read_sequences(path)))


def of_baseline(name: str, config: Config, beauty: pathlib.Path) -> dict[str, Any]:
    """The figures of a model, by its name."""
    return figures(name, BASELINES[name], config, read(beauty))


def run(config: Config, beauty: pathlib.Path, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that the JSON holds, after each model anew; what was measured before is not measured again."""
    about = provenance(COMMAND)
    for found in resumed(before, BASELINES, about["commit"], of_baseline, config, beauty):
        yield {**about, "config": dataclasses.asdict(config), "published": S3_REC, "models": found}


def table(record: dict[str, Any]) -> str:
    """The figures of a record as the README shows them."""
    lines = [
        "| model and loss | published HR@10 | HR@10 | published NDCG@10 | NDCG@10 | epochs | members | time | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in record["models"].items():
        cells = []
        for metric in ("hr@10", "ndcg@10"):
            cells += [
                "" if one["published"] is None else f"{one['published'][metric]:.4f}",
                plus_minus(one["test"][metric]),
            ]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {one['epochs']} | {one['members']} | {one['seconds']:.0f} s "
            f"| {one['peak_memory_bytes'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def main(
    config: Config = Config(),
    beauty: pathlib.Path = DATA / "beauty/sequences.txt.gz",
    json: pathlib.Path | None = None,
) -> None:
    """Trains every model that the JSON doesn't have yet, and prints the figures beside the published ones.

    Args:
      config: how long and how often.
      beauty: the file, one line a user.
      json: where to write the figures too; nowhere if not given.
    """
    record = {}
    for record in run(config, beauty, measured_before(json, dataclasses.asdict(config))):
        if json is not None:
            write_json(record, json)
    print(table(record))


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
