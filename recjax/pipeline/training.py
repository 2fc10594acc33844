"""Grids of one run: their settings, schedules, folders, progress, and what the results say of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from recjax import grid
from recjax.families import Model
from recjax.pipeline.job import Job
from recjax.study import Compression, Method, Result, Study, Training
from recjax.summary import summary

Validation = tuple[Callable[[Any, Any], Any], Any]  # see recjax.study.Study
CHUNK_STEPS = 10  # about so many steps between two validations


class Trainer:
    """Trains the grids of a job.

    Attributes:
      job: the job.
      metric: the name of its validation metric.
    """

    def __init__(self, job: Job, metric: str):
        self.job, self.metric = job, metric
        self._studies: dict[str, Study] = {}

    def study(
        self,
        key: str,
        dataset: Any,
        model: Model,
        make: Callable[[], tuple[Method | None, Compression]],
        validate: Validation | None,
    ) -> Study:
        """A study by its key; the same one each time, so that its programs are compiled once."""
        if key not in self._studies:
            method, compression = make()
            validate = validate if self.job.chosen is None else (_nothing, ())
            self._studies[key] = Study(dataset, model, method, compression, validate)
        return self._studies[key]

    def settings(self, stage: str, axes: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        """The grid of a stage: the product of its axes, or what the run that is repeated chose of them."""
        if self.job.chosen is not None:
            picked = self.job.chosen[stage]["hyperparameters"]
            axes = {name: (picked[name],) for name in axes}
        return grid.product(**{name: tuple(values) for name, values in axes.items()})

    def training(self, stage: str, model: Model, candidate: str = "") -> Training:
        """How a grid of a stage is trained: its schedule, folder and progress; ``candidate`` if there are several."""
        config, objective, listener, metric = self.job.config, model.objective, self.job.listener, self.metric.upper()
        assert objective is not None
        schedule = objective.schedule
        given = {"epochs": config.epochs, "batch_size": config.batch_size, "patience": config.patience}
        schedule = dataclasses.replace(schedule, **{name: n for name, n in given.items() if n is not None})
        if objective.by_query:  # an epoch is few steps
            steps = objective.rows // min(schedule.batch_size, objective.rows)
            schedule = dataclasses.replace(schedule, chunk_epochs=max(1, round(CHUNK_STEPS / steps)))

        def planned(plan: grid.Plan) -> None:
            if len(plan.waves) > 1:
                count = sum(plan.waves)
                need, have = ((plan.shared + count * plan.setting) / 1e9, plan.memory / 1e9)
                listener.say(f"{stage}: {count} settings need {need:.1f} of {have:.1f} GB, in {len(plan.waves)} waves")

        def progress(done: int, total: int, best: float | None) -> None:
            detail = "" if best is None or self.job.chosen is not None else f"best valid {metric} {best:.4f}"
            listener.advance(stage, done, total, f"{candidate} {detail}".strip())

        folder = self.job.folder / "checkpoints" / f"{stage} {candidate}".strip().replace(" ", "-")
        return Training(schedule, folder=folder, progress=progress, planned=planned)


def for_epochs(training: Training, epochs: int, valid: Sequence[float] = ()) -> Training:
    """The training of a run that repeats another: so many epochs, and nothing but their end to choose from.

    Args:
      training: of the run that is repeated.
      epochs: the number.
      valid: the validation metrics of that run, by which its hyperparameters changed, where ``adapt`` does that.

    Returns:
      The :class:`Training`.
    """
    assert training.schedule is not None
    schedule = dataclasses.replace(training.schedule, epochs=epochs)
    if schedule.adapt is not grid.Schedule.adapt:
        adapt, score = schedule.adapt, np.asarray(valid, np.float32)[:, None, None]

        def as_before(hparams: Any, past: grid.History) -> Any:
            known = score[: len(past.steps)]
            return adapt(hparams, past._replace(valid=known, score=known))

        schedule = dataclasses.replace(schedule, adapt=as_before)
    return training._replace(schedule=schedule, settling=1.0)


def _nothing(params: Any, held_out: Any) -> Any:
    """The validation metric of a run that has no events left to validate on."""
    return jnp.float32(0)


def told(
    stage: str, result: Result, settings: Mapping[str, np.ndarray], chosen: int, training: Training, metric: str
) -> dict[str, Any]:
    """What the results say of a grid: the chosen hyperparameters and epochs, every member, the chosen curve."""
    fitted, seeds = result.fitted, result.population.seeds.tolist()
    swept = {name: [_short(value) for value in values.tolist()] for name, values in settings.items()}
    best = {name: values[chosen] for name, values in swept.items()}
    members = [
        {
            "member": row * fitted.valid.shape[1] + i,
            "grid": stage,
            "seed": seed,
            **{name: values[i] for name, values in swept.items()},
            f"valid_{metric}": float(fitted.valid[row, i]),
            "best_step": int(fitted.best_step[row, i]),
            "chosen": i == chosen,
        }
        for row, seed in enumerate(seeds)
        for i in range(fitted.valid.shape[1])
    ]
    reached = np.isfinite(fitted.valid_curve[:, :, chosen]).all(axis=1)  # a wave may have ended before another
    loss, valid = (curve[reached][:, :, chosen] for curve in (fitted.loss_curve, fitted.valid_curve))
    curve = {
        "curve": stage,
        "step": fitted.steps[reached].tolist(),
        "loss": loss.mean(axis=1).tolist(),
        f"valid_{metric}": valid.mean(axis=1).tolist(),
        f"valid_{metric}_by_seed": valid.T.tolist(),
        "hyperparameters": best,
    }
    objective, schedule = result.study.objective, training.schedule
    assert schedule is not None
    per_epoch = objective.rows // min(schedule.batch_size, objective.rows)
    steps = int(fitted.best_step[0, chosen])
    epochs = max(1, -(-int(np.median(fitted.best_step[:, chosen])) // per_epoch))
    hyperparameters = {**best, "steps": steps}
    return {"hyperparameters": hyperparameters, "epochs": epochs, "members": members, "curve": curve}


def by_seed(name: str, values: Sequence[float]) -> dict[str, Any]:
    """A metric in a row of the stage table: its mean over seeds, its standard deviation, and each seed's."""
    mean, sd = summary(values)
    return {name: mean, f"{name}_sd": sd, f"{name}_by_seed": list(values)}


def _short(value: float) -> float:
    """A float32 as it was typed: 0.01 and not 0.009999999776."""
    return float(f"{value:.6g}")


def standard_error(valid: np.ndarray) -> float:
    """The standard error of a mean over seeds; 0 for one seed."""
    return float(valid.std(ddof=1) / len(valid) ** 0.5) if len(valid) > 1 else 0.0


def cheapest_within_one_error(fitted: grid.Fitted, cost: np.ndarray, allowed: np.ndarray) -> int:
    """The cheapest setting whose mean validation metric is within one standard error of the best's.

    The rule of Breiman et al., *Classification and Regression Trees*, 1984, section 3.4.3: what a smaller model loses
    there can't be told from the noise of the seeds.

    Args:
      fitted: the grid.
      cost: ``[settings]``.
      allowed: ``[settings]`` bool, the settings to choose from; at least one.

    Returns:
      A position.
    """
    means = np.where(allowed, fitted.valid.mean(axis=0), -np.inf)
    top = int(means.argmax())
    return int(np.where(means >= means[top] - standard_error(fitted.valid[:, top]), cost, np.inf).argmin())
