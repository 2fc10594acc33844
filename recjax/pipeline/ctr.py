"""What a run does its own way in the CTR task: models, measurement, knowledge, teachers and the served artifact."""

import dataclasses
import inspect
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax import artifact, data, grid, metrics
from recjax.artifact import Calibration, CTRArtifact, calibrate
from recjax.data import CTRDataset, Examples
from recjax.errors import InputError
from recjax.families import Model
from recjax.models import Params
from recjax.pipeline.job import Job, Made
from recjax.pipeline.specs import Spec
from recjax.pipeline.training import Trainer, by_seed, for_epochs, told
from recjax.study import NOTHING, Method
from recjax.tasks import compression, ctr
from recjax.tasks.ctr import FAMILIES
from recjax.teacher import Knowledge

Logits = Callable[[Examples], np.ndarray]
DIM, HIDDEN, LEARNING_RATE = 8, (128, 64), 3e-3  # of students
STEPS = 48  # of an epoch, at least, where the rows allow for batches of MIN_BATCH
MIN_BATCH = 64
SPEED_ROWS, SPEED_CALLS = 1000, 20
TEACHER_SEED = 1_000  # none of the students'


class CTR:
    """The models of one data set, measured and served."""

    metric = "auc"
    metrics = ("auc", "logloss", "normalized_entropy", "calibration_error")  # of the card
    paired = "logloss"  # what differences between stages are of: AUC is no mean over rows
    milliseconds = "ms_per_1000_rows"
    baseline = "logistic_regression"  # the first stage
    students = ("dnn", "lr")  # those that --student auto compares

    def __init__(self, job: Job):
        dataset = job.source.dataset
        assert isinstance(dataset, CTRDataset)
        assert dataset.encoding is not None
        self.dataset, self.encoding = dataset, dataset.encoding
        self._scratch = job.folder / "checkpoints" / "dense"
        # No rows are left to calibrate on where a run is repeated on all of them: as in the run that it repeats.
        self._calibration = None if job.chosen is None else Calibration(*job.chosen["packed"]["calibration"])
        self._models: dict[str, Model] = {}

    def model(self, *specs: Spec) -> Model:
        """The model of a specification; several are an ensemble."""
        key = repr(specs)
        if key not in self._models:
            models = [self._tuned(FAMILIES[spec.family](self.dataset, **spec.size), spec) for spec in specs]
            self._models[key] = models[0] if len(models) == 1 else mean_of_logits(models)
        return self._models[key]

    def _tuned(self, model: Model, spec: Spec) -> Model:
        """The model with batches of which a small data set has enough; a student's net with its learning rate."""
        objective, rows = model.objective, len(self.dataset.train.label)
        assert objective is not None
        batch = max(MIN_BATCH, 2 ** int(np.log2(max(1, rows // STEPS))))
        schedule = dataclasses.replace(objective.schedule, batch_size=min(objective.schedule.batch_size, batch))
        rate = {"learning_rate": (LEARNING_RATE,)} if "hidden" in spec.size else {}
        alone, distilled = {**objective.alone, **rate}, {**objective.distilled, **rate}
        return model._replace(objective=objective._replace(schedule=schedule, alone=alone, distilled=distilled))

    def student(self, family: str, dim: int | None) -> Spec:
        """A student of a family."""
        size = {"dim": dim or DIM, "hidden": list(HIDDEN)}
        return Spec(
            family, {name: size[name] for name in inspect.signature(FAMILIES[family]).parameters if name in size}
        )

    def served(self, spec: Spec, params: Params) -> Params:
        """The parameters that are compressed and stored: all."""
        return params

    def served_spec(self, spec: Spec) -> Spec:
        """The model whose parameters those are."""
        return spec

    def everything(self) -> CTRDataset:
        """The data of a run that repeats this one on all rows, encoded as they are here."""
        parts = (self.dataset.train, self.dataset.valid, self.dataset.test)
        return dataclasses.replace(self.dataset, train=jax.tree.map(lambda *of: np.concatenate(of), *parts))

    # -- learning ----------------------------------------------------------------------------------------------------

    def method(self, name: str, model: Model) -> Method:
        """How a student learns from a teacher."""
        return ctr.soft_targets()

    def check(self, teacher: Spec, student: Spec, method: str) -> None:
        """Refuses a teacher that lacks what the method needs: none does."""

    def knowledge(self, teacher: Model, params: Params, student: Model, method: str) -> Knowledge:
        """The teacher's logits of the train rows."""
        return ctr.knowledge(teacher, params, self.dataset.train)

    def validation(self, model: Model) -> tuple[Callable[[Any, Any], Any], Any]:
        """The AUC of the validation rows."""
        return ctr.validation(model, self.dataset)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def by_unit(self, model: Model, params: Params) -> np.ndarray:
        """``[rows]``, the negative log loss of validation rows by which students are compared."""
        rows = self.dataset.valid
        logits = np.asarray(ctr.logits(model.score, params, rows), np.float64)
        return rows.label * logits - np.logaddexp(0, logits)

    def scorer(self, model: Model, params: Params) -> Logits:
        """Logits of dense parameters, calibrated as those of an artifact are."""

        def logits(rows: Examples) -> np.ndarray:
            return np.asarray(ctr.logits(model.score, params, rows), np.float64)

        a, b = calibrate(logits(self.dataset.valid), self.dataset.valid.label)
        return lambda rows: a * logits(rows) + b

    def served_scorer(self, model: CTRArtifact) -> Logits:
        """The logits whose sigmoid an artifact answers with."""
        a, b = model.calibration
        return lambda rows: a * model.logits(_batch(rows)).astype(np.float64) + b

    def row(self, scorers: Sequence[Logits]) -> tuple[dict[str, Any], np.ndarray]:
        """The metrics of a row of the stage table, one scorer per seed, and ``[seeds, rows]`` test log loss."""
        test, valid = self.dataset.test, self.dataset.valid
        logits = [scorer(test) for scorer in scorers]
        rows = np.stack([np.logaddexp(0, z) - test.label * z for z in logits])
        found = [{"logloss": each.mean(), **_metrics(z, test.label)} for each, z in zip(rows, logits, strict=True)]
        row = by_seed("valid_auc", [float(_metrics(scorer(valid), valid.label)["auc"]) for scorer in scorers])
        for name in self.metrics:
            row |= by_seed(name, [float(one[name]) for one in found])
        return row, rows.astype(np.float32)

    def speed(self, model: CTRArtifact | None) -> dict[str, float | None]:
        """Median milliseconds of the probabilities of 1,000 encoded rows; warm, in this process."""
        if model is None:
            return {self.milliseconds: None}
        test = self.dataset.test
        rows = jax.tree.map(lambda x: np.resize(x, (SPEED_ROWS, *x.shape[1:])), _batch(test))

        def seconds() -> float:
            start = time.perf_counter()
            model.calibration.probability(model.logits(rows))
            return time.perf_counter() - start

        return {self.milliseconds: 1e3 * statistics.median([seconds() for _ in range(SPEED_CALLS + 1)][1:])}

    def about(self) -> list[str]:
        """The data in words: its columns and their roles, what is dropped, and its parts."""
        return data.describe_ctr(self.dataset)

    def sizes(self) -> dict[str, Any]:
        """The data in numbers."""
        dataset = self.dataset
        rows = {name: len(getattr(dataset, name).label) for name in ("train", "valid", "test")}
        return {
            "rows": sum(rows.values()),
            "fields": dataset.fields,
            "features": dataset.features,
            "label_share": float(dataset.train.label.mean()),
            "counts": {**dataset.counts, **{f"{name}_rows": count for name, count in rows.items()}},
            "dropped_columns": self.encoding.dropped,
        }

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path, stored: Params, spec: Spec, about: Mapping[str, Any]) -> dict[str, Any]:
        """Writes stored parameters as an artifact, calibrated by its own logits of the validation rows."""
        calibration, kind = self._calibration, {"kind": spec.family, "encoding": self.encoding}
        if calibration is None:
            valid = self.dataset.valid
            artifact.save_ctr(folder, stored, calibration=Calibration(), **kind)
            calibration = calibrate(artifact.load(folder).logits(_batch(valid)), valid.label)
        return artifact.save_ctr(folder, stored, calibration=calibration, about=about, **kind)

    def packed_notes(self, model: CTRArtifact) -> dict[str, Any]:
        """What the run that repeats this one needs of an artifact."""
        return {"calibration": list(model.calibration)}

    def file_size(self, spec: Spec, stored: Params) -> int:
        """Bytes of the artifact's weights."""
        return artifact.file_size({"tables": stored["tables"], "net": stored["net"]})

    def in_memory(self, specs: Sequence[Spec], params: Params) -> CTRArtifact | None:
        """The artifact of dense parameters; None for an ensemble."""
        if len(specs) > 1:
            return None
        self.save(self._scratch, params, specs[0], {})
        return artifact.load(self._scratch)


def mean_of_logits(models: Sequence[Model]) -> Model:
    """The ensemble of several CTR models, of parameters ``{"0": params, "1": params, ...}``. It is not trained."""

    def init(key: jax.Array) -> Params:
        return {str(number): model.init(key) for number, model in enumerate(models)}

    def score(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean(jnp.stack([model.score(params[str(i)], batch) for i, model in enumerate(models)]), axis=0)

    return Model(init, score, None, models[0].queries)


class CTRTeachers:
    """Trains the baseline and the teacher of a job."""

    def __init__(self, job: Job, task: CTR, trainer: Trainer):
        self.job, self.task, self.trainer = job, task, trainer

    def names(self) -> list[str]:
        """The families of the teacher."""
        names = list(self.job.config.teacher)
        fields = self.task.dataset.fields
        if "finalmlp" in names and fields < 2:
            raise InputError(f"option --teacher: expected at least two columns for finalmlp, got {fields} field")
        return ["dnn"] if names == ["auto"] else names

    def about(self) -> Sequence[str]:
        """What the reader needs to know of the teachers: nothing."""
        return ()

    def baseline(self) -> Made:
        """Logistic regression."""
        return self._trained("lr", self.task.baseline)

    def best(self) -> Made:
        """The teacher: one model of each family, the mean of their logits."""
        names = (
            self.names()
            if self.job.chosen is None
            else [part["family"] for part in self.job.chosen["teacher"]["parts"]]
        )
        found = [self._trained(name, "teacher") for name in names]
        parts = [
            {"family": name, **{key: made.notes[key] for key in ("hyperparameters", "epochs", "curve")}}
            for name, made in zip(names, found, strict=True)
        ]
        members = [member for made in found for member in made.notes["members"]]
        notes = {**found[0].notes, "members": members, "parts": parts}
        if len(found) == 1:
            return found[0]._replace(notes=notes)
        hyperparameters = {"model": f"mean of {', '.join(names)}"}
        params: Params = {str(number): made.stored[0] for number, made in enumerate(found)}
        return Made([params], [made.specs[0] for made in found], {**notes, "hyperparameters": hyperparameters})

    def _trained(self, family: str, stage: str) -> Made:
        """A model of a family by its best setting on validation."""
        spec = Spec(family, {})
        model = self.task.model(spec)
        assert model.objective is not None
        axes = dict(model.objective.alone)
        training = self.trainer.training(stage, model, family)
        if self.job.chosen is not None:
            part = next(part for part in self.job.chosen[stage]["parts"] if part["family"] == family)
            axes = {name: (part["hyperparameters"][name],) for name in axes}
            training = for_epochs(training, part["epochs"], part["curve"]["valid_auc"])
        settings = grid.product(**axes)
        make = lambda: (None, NOTHING)  # noqa: E731
        study = self.trainer.study(repr(spec), self.task.dataset, model, make, self.task.validation(model))
        result = study.run(grid.product(settings, seed=[TEACHER_SEED]), training=training)
        notes = told(f"{stage}_{family}", result, settings, result.best, training, self.task.metric)
        notes["hyperparameters"] = {"model": family, **notes["hyperparameters"]}
        return Made([compression.packed(result.params(0, result.best), None)], [spec], notes)


def _batch(rows: Examples) -> dict[str, np.ndarray]:
    """What an artifact reads of examples."""
    return {"fields": rows.fields} if rows.values is None else {"fields": rows.fields, "values": rows.values}


@jax.jit
def _metrics(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    return {
        "auc": metrics.auc(logits, label),
        "normalized_entropy": metrics.normalized_entropy(logits, label),
        "calibration_error": metrics.calibration_error(logits, label),
    }
