"""Frappe: the models of clicks that people use, each beside its published figure.

Command:   python -m experiments.baselines_ctr --json experiments/results/baselines_ctr.json
Hardware:  two CPU cores, no accelerator
Wall time: two and a half hours on one core; the JSON states it model by model
Expected:  every model within .002 AUC of the published figure, or above it

The published figures are those of BARS (Frappe_x1): the mean of five runs where it gives five, with batch normalization
in the deep ones, which these models don't have. Valid and test are the published ones; the train negatives of this copy
were drawn anew, so the figures of all models may be shifted alike: the mean difference is in the JSON as ``shift``.

Five seeds a model, in one grid: each starts, shuffles and drops out on its own, and is judged on test where its own
validation AUC was best. Adam, batches of 4,096, a tenth of the learning rate after a validation that was no better, and
an end after two of them; an L2 penalty on the tables. A model trains in a process of its own, so that its memory and
time are its own.

What differs from BARS in the shallow models, the DNN and FinalMLP was settled on the validation AUC of seed 0; wide and
deep, DeepFM and DCN-V2 have what was settled for the DNN. The shallow models take ten times the learning rate, and 30
epochs at most. FinalMLP has streams of 400-400-400 and of 400 units, and gates of 64: with the published 400, 100 and
400 it reached .968 on validation.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import clicks
from experiments.real import DATA
from experiments.record import measured_before, over_seeds, plus_minus, resumed
from recjax import data, grid, metrics, models, train
from recjax.files import write_json
from recjax.provenance import provenance

BAR = 0.002  # how far below the published AUC a model may be
USER, ITEM = 0, 1  # the first two fields


class Hparams(NamedTuple):
    """What was settled on validation."""

    learning_rate: jax.typing.ArrayLike = 1e-3
    l2: jax.typing.ArrayLike = 0.05
    dropout: jax.typing.ArrayLike = 0.0


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


class Baseline(NamedTuple):
    """A model, how it is trained, and what it should reach.

    Attributes:
      make: gives the model of some fields.
      hparams: see :class:`Hparams`.
      published: what it should reach.
      epochs: at most.
      patience: validations without a better one before the end.
      drops: whether the model has dropout.
    """

    make: Callable[[models.Fields], models.Ranking]
    hparams: Hparams
    published: Published
    epochs: int = 30
    patience: int = 2
    drops: bool = True


FINALMLP = models.FinalMlp(hidden=((400, 400, 400), (400,)), gate=(64,), context=((USER,), (ITEM,)), heads=5)
SHALLOW = Hparams(learning_rate=1e-2, l2=1e-5)
BASELINES = {
    "logistic regression": Baseline(models.logistic_regression, SHALLOW, Published(0.935584, 0.307643), drops=False),
    "factorization machine": Baseline(
        models.factorization_machine, SHALLOW, Published(0.967108, 0.206515), drops=False
    ),
    "DNN": Baseline(models.dnn, Hparams(dropout=0.2), Published(0.984045, 0.158370, 0.00051)),
    "wide and deep": Baseline(models.wide_and_deep, Hparams(dropout=0.2), Published(0.983073, 0.153978, 0.00079)),
    "DeepFM": Baseline(models.deepfm, Hparams(dropout=0.2), Published(0.983947, 0.149462, 0.00016)),
    "DCN-V2": Baseline(
        lambda fields: models.dcn_v2(fields, crosses=4), Hparams(dropout=0.2), Published(0.983824, 0.152036, 0.00043)
    ),
    "FinalMLP": Baseline(
        lambda fields: models.finalmlp(fields, FINALMLP), Hparams(dropout=0.2), Published(0.986072, 0.148415)
    ),
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


def adam(hparams: Hparams) -> optax.GradientTransformation:
    """The optimizer."""
    return optax.adam(hparams.learning_rate)


def recipe(model: models.Ranking, drops: bool) -> train.Recipe:
    """How a model is trained."""

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        rate = {"dropout": hparams.dropout} if drops else {}
        logit = model.logit(params, batch, key, **rate)
        return clicks.loss(logit, params["tables"], batch["label"], hparams.l2)

    return clicks.recipe(loss, adam)


def figures(name: str, baseline: Baseline, config: Config, rows: dict[str, data.Rows]) -> dict[str, Any]:
    """A model of every seed, trained and judged."""
    model = baseline.make(models.Fields(features=clicks.FEATURES, fields=clicks.FIELDS, dim=10, scale=0.1))
    starts = jax.jit(jax.vmap(model.init))(jax.vmap(jax.random.key)(jnp.arange(config.seeds)))
    axes = grid.product(learning_rate=[baseline.hparams.learning_rate], seed=range(config.seeds))
    schedule = grid.Schedule(
        epochs=baseline.epochs,
        batch_size=config.batch_size,
        patience=baseline.patience,
        by_seed=True,
        adapt=clicks.falling,
    )
    validate = functools.partial(clicks.auc, model)
    population = grid.population(baseline.hparams, axes)
    fitted = clicks.fit(name, recipe(model, baseline.drops), starts, population, schedule, rows, validate)

    @jax.jit
    def judge(params: Any, rows: data.Rows) -> tuple[jax.Array, jax.Array]:
        logits = clicks.predict(model, params, rows.fields)
        return metrics.auc(logits, rows.label), metrics.logloss(logits, rows.label)

    params = clicks.members(fitted.params)
    found = {part: [[float(x) for x in judge(p, rows[part])] for p in params] for part in ("valid", "test")}
    (valid_auc, _), (test_auc, test_logloss) = (zip(*found[part], strict=True) for part in ("valid", "test"))
    test = over_seeds(list(test_auc))
    difference = test["mean"] - baseline.published.auc
    steps = len(rows["train"].label) // config.batch_size
    return {
        "test_auc": test,
        "test_logloss": over_seeds(list(test_logloss)),
        "valid_auc": over_seeds(list(valid_auc)),
        "published": baseline.published._asdict(),
        "difference": difference,
        "bar": BAR,
        "within": difference >= -BAR,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params[0])),
        "best_epochs": (fitted.best_step[:, 0] // steps).tolist(),
        "epochs": len(fitted.steps),
        "hyperparameters": baseline.hparams._asdict() | {"patience": baseline.patience, "epochs": baseline.epochs},
    }


def of_baseline(name: str, config: Config, frappe: pathlib.Path) -> dict[str, Any]:
    """The figures of a model, by its name."""
    return figures(name, BASELINES[name], config, clicks.read(frappe))


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
