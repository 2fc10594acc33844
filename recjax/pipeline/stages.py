"""The stages of a run, in order; each reads what it needs from the files of earlier ones and writes its own."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax import artifact, grid
from recjax.data import CTRDataset, Dataset
from recjax.errors import InputError
from recjax.pipeline.config import DIMS, budget_bytes
from recjax.pipeline.ctr import CTR, CTRTeachers
from recjax.pipeline.folder import Stage, draft_stage, publish_stage, read_stage, stored_params
from recjax.pipeline.job import Job, Listener, Made
from recjax.pipeline.retrieval import Retrieval
from recjax.pipeline.source import Source
from recjax.pipeline.specs import Spec
from recjax.pipeline.teachers import Teachers
from recjax.pipeline.training import Trainer, cheapest_within_one_error, for_epochs, standard_error, told
from recjax.report import label
from recjax.study import NOTHING, Study
from recjax.summary import summary
from recjax.tasks import compression
from recjax.teacher import Knowledge

# What goes on from the distilled student: of its learning rate, and of its epochs. Longer and faster ones lost more on
# validation (MovieLens-100K) than compression itself.
FINE_TUNING_RATE, FINE_TUNING_EPOCHS = 0.1, 1 / 6
SETTLING = 0.4  # share of the training in which the sparsity rises, and before which nothing is chosen
ORDER = ("teacher", "distilled", "student_alone", "pruned", "quantized", "packed")
REFIT = ("teacher", "distilled", "pruned", "quantized", "packed")


class Stages:
    """The stages of one job, with what several of them need made once."""

    def __init__(self, job: Job):
        self.job = job
        self.notes: dict[str, dict[str, Any]] = {}  # of the finished stages; their weights stay on disk
        if job.config.task == "ctr":
            self.task = CTR(job)
            self.trainer = Trainer(job, self.task.metric)
            self.teachers = CTRTeachers(job, self.task, self.trainer)
        else:
            self.task = Retrieval(job)
            self.trainer = Trainer(job, self.task.metric)
            self.teachers = Teachers(job, self.task, self.trainer)
        self._known: dict[tuple[str, str], Knowledge] = {}
        if job.chosen is None:
            for name in self.teachers.names():
                self.task.model(Spec(name, {}))  # refuses a log that lacks what the family reads
            for student in map(self.sized, self._families()):
                self.task.model(student)
                for method in job.config.distill if len(self.teachers.names()) == 1 else ():
                    self.task.check(Spec(self.teachers.names()[0], {}), student, method)

    @property
    def dataset(self) -> Dataset | CTRDataset:
        """The data of the run."""
        return self.job.source.dataset

    def go(self, names: Sequence[str] | None = None) -> None:
        """Runs every stage that isn't finished."""
        makers = {
            self.task.baseline: self.teachers.baseline,
            "teacher": self.teachers.best,
            "student_alone": self._alone,
            "distilled": self._distilled,
            "pruned": self._pruned,
            "quantized": self._quantized,
            "packed": self._packed,
        }
        for name in names or (self.task.baseline, *ORDER):
            stage = read_stage(self._folder(name))
            if stage is None:
                self.job.listener.begin(name)
                start = time.monotonic()
                made = makers[name]()
                stage = self._finish(name, made, time.monotonic() - start)
            self.notes[name] = stage.notes
            self.job.listener.end(name, stage.notes["row"])

    def refit(self) -> "Stages":
        """The chosen teacher and student once more, on all events; nothing is left to choose or to measure."""
        config = dataclasses.replace(self.job.config, seeds=1)
        listener = _Within(self.job.listener, "refit")
        job = Job(config, self._all_rows, self.job.folder / "refit", listener, {**self.notes})
        self.job.listener.begin("refit")
        again = Stages(job)
        again.go(REFIT)
        seconds = sum(notes["row"]["seconds"] for notes in again.notes.values())
        row = {"stage": "refit", "bytes": again.notes["packed"]["row"]["bytes"], "seconds": seconds}
        self.job.listener.end("refit", row)
        return again

    def _folder(self, name: str) -> Path:
        return self.job.folder / "stages" / name

    def stage(self, name: str) -> Stage:
        """A finished stage."""
        stage = read_stage(self._folder(name))
        if stage is None:
            raise InputError(f"{self._folder(name)}: expected a finished stage, got none")
        return stage

    def users(self, name: str) -> np.ndarray:
        """``[seeds, users]``, the test NDCG of each evaluated user in a finished stage; ctr: log loss, of each row."""
        return np.load(self._folder(name) / "users.npy", allow_pickle=False)

    def save_artifact(self, folder: Path, seed: int, about: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a packed student as an artifact; returns its card."""
        (spec,) = _specs(self.notes["packed"])
        return self.task.save(folder, stored_params(self._folder("packed"), seed), spec, about)

    def _finish(self, name: str, made: Made, seconds: float) -> Stage:
        """Writes a stage's weights, measures what was written, and lets the stage appear."""
        draft = draft_stage(self._folder(name), made.stored)
        about = {**made.notes, "specs": [list(spec) for spec in made.specs]}
        row = {"stage": name, "hyperparameters": made.notes.get("hyperparameters", {}), "seconds": seconds}
        if self.job.chosen is not None:
            row["bytes"] = draft.sizes[0]
            return publish_stage(self._folder(name), draft, np.zeros((1, 0), np.float32), {**about, "row": row})
        task: Any = self.task  # its scorers are its own
        scorers = [task.scorer(task.model(*made.specs), params) for params in draft.params]
        if name == "packed":  # what is measured is what will be served: written and loaded
            served = []
            for seed, stored in enumerate(made.stored):
                folder = self.job.folder / "checkpoints" / f"artifact-{seed}"
                task.save(folder, stored, made.specs[0], {})
                served.append(artifact.load(folder))
            scorers = [task.served_scorer(model) for model in served]
            draft = draft._replace(sizes=[model.card["bytes"] for model in served])
            fast = served[0]
            about |= task.packed_notes(fast)
        else:
            fast = task.in_memory(made.specs, draft.params[0])
        metrics, users = task.row(scorers)
        row |= {
            **metrics,
            "parameters": round(summary([compression.non_zero(params) for params in draft.params])[0]),
            "bytes": round(summary(draft.sizes)[0]),
            "bytes_by_seed": draft.sizes,
            **task.speed(fast),
            "seeds": list(range(len(scorers))),
        }
        return publish_stage(self._folder(name), draft, users, {**about, "row": row})

    # -- students ----------------------------------------------------------------------------------------------------

    def _families(self) -> Sequence[str]:
        """The families of students that are compared."""
        student = self.job.config.student
        return self.task.students if student == "auto" else (student,)

    def sized(self, family: str) -> Spec:
        """A student: of the configured dim, or the largest that meets the budget half pruned and at 4 bits or fewer."""
        config, budget = self.job.config, budget_bytes(self.job.config.budget)
        if budget is None:
            return self.task.student(family, config.dim)
        bits = min((bits for bits in config.bits if bits >= 4), default=max(config.bits))
        sparsity = max((share for share in config.sparsity if share <= 0.5), default=min(config.sparsity))
        for dim in DIMS:
            spec = self.task.student(family, dim)
            size = self._predicted(spec, bits, sparsity)
            if size <= budget:
                return spec
        raise InputError(f"option --budget: expected at least {size} bytes for this log, got {config.budget}")

    def _predicted(self, spec: Spec, bits: int, sparsity: float) -> int:
        """Bytes of ``weights.safetensors``."""
        task = self._refitted if self.job.config.refit and self.job.chosen is None else self.task
        model = task.model(spec)
        shapes = jax.eval_shape(lambda key: task.served(spec, model.init(key)), jax.random.key(0))
        stored = compression.predicted(shapes, bits=bits, sparsity=sparsity)
        return task.file_size(task.served_spec(spec), stored)

    @functools.cached_property
    def _refitted(self) -> Retrieval | CTR:
        """The task on all rows: users without a row in train take bytes too in the artifact that is served."""
        return type(self.task)(dataclasses.replace(self.job, source=self._all_rows))

    @functools.cached_property
    def _all_rows(self) -> Source:
        """The data with all rows in train."""
        return self.job.source._replace(dataset=self.task.everything())

    @property
    def _student(self) -> Spec:
        """The student that the distilled stage chose."""
        return Spec(*self.notes["distilled"]["student"])

    def _knowledge(self, spec: Spec, method: str) -> Knowledge:
        """What a method needs of the teacher, for the queries of a student."""
        key = spec.family, method
        if key not in self._known:
            stage = self.stage("teacher")
            teacher, student = self.task.model(*_specs(stage.notes)), self.task.model(spec)
            self._known[key] = self.task.knowledge(teacher, stage.params[0], student, method)
        return self._known[key]

    def _taught(self, spec: Spec, method: str) -> Study:
        """Students that a teacher teaches, or that learn from the labels alone."""
        model = self.task.model(spec)
        make = lambda: (self.task.method(method, model), NOTHING)  # noqa: E731
        return self.trainer.study(f"{spec} {method}", self.dataset, model, make, self.task.validation(model))

    def _students(self, stage: str, spec: Spec, study: Study, knowledge: Knowledge | None, candidate: str = "") -> Made:
        """A grid of students from fresh parameters, and those of its best setting; one seed for a candidate."""
        axes = self._axes(study, "alone" if knowledge is None else "distilled")
        settings, seeds = self.trainer.settings(stage, axes), range(1 if candidate else self.job.config.seeds)
        training = self.trainer.training(stage, study.model, candidate)
        if self.job.chosen is not None:
            before = self.job.chosen[stage]
            training = for_epochs(training, before["epochs"], before["curve"][f"valid_{self.task.metric}"])
        fixed = {} if knowledge is None else self._decay
        result = study.run(grid.product(settings, seed=seeds), knowledge, fixed=fixed, training=training)
        parts = [compression.packed(self.task.served(spec, params), None) for params in result.members(result.best)]
        grid_name = f"{stage} {candidate}".strip().replace(" ", "_")
        notes = told(grid_name, result, settings, result.best, training, self.task.metric)
        return Made(parts, [self.task.served_spec(spec)], notes)

    def _alone(self) -> Made:
        study = self._taught(self._student, self.notes["distilled"]["method"])
        return self._students("student_alone", self._student, study, None)

    def _distilled(self) -> Made:
        """The students of the chosen family and method."""
        if self.job.chosen is not None:
            family, method = Spec(*self.job.chosen["distilled"]["student"]), self.job.chosen["distilled"]["method"]
            members = []
        else:
            family, method, members = self._candidate()
        study, knowledge = self._taught(family, method), self._knowledge(family, method)
        made = self._students("distilled", family, study, knowledge)
        about = {"student": list(family), "method": method, "members": members + made.notes["members"]}
        return made._replace(notes={**made.notes, **about})

    def _candidate(self) -> tuple[Spec, str, list[dict[str, Any]]]:
        """The smallest student within one standard error, over users or rows, of the best; each is tried with one seed.

        Returns:
          Its family, its method, and the members of the grids that were tried.
        """
        specs, methods = [self.sized(family) for family in self._families()], self.job.config.distill
        pairs = [(spec, method) for spec in specs for method in methods]
        if len(pairs) == 1:
            return *pairs[0], []
        tried, members = [], []
        for spec, method in pairs:
            study, knowledge = self._taught(spec, method), self._knowledge(spec, method)
            name = " ".join([spec.family] * (len(specs) > 1) + [method] * (len(methods) > 1))
            made = self._students("distilled", spec, study, knowledge, name)
            model = self.task.model(*made.specs)
            users = self.task.by_unit(model, compression.dense(made.stored[0]))
            tried.append((self._predicted(spec, max(self.job.config.bits), 0.0), users))
            members += [{**member, "chosen": False} for member in made.notes["members"]]
        best = max((users for _, users in tried), key=np.mean)
        near = [
            (size, -users.mean(), place)
            for place, (size, users) in enumerate(tried)
            if (best - users).mean() <= standard_error(best - users)
        ]
        return *pairs[min(near)[2]], members

    @property
    def _decay(self) -> dict[str, float]:
        """The weight decay of students that a teacher regularizes too, where it is given."""
        decay = self.job.config.distill_weight_decay
        return {} if decay is None else {"weight_decay": decay}

    def _axes(self, study: Study, name: str) -> Mapping[str, Sequence[float]]:
        """The values that a stage tries: those of the family, or those of the options."""
        axes: dict[str, Sequence[float]] = dict(study.objective.alone if name == "alone" else study.objective.distilled)
        for axis in axes:
            given = getattr(self.job.config, axis, None)
            if given is not None:
                axes[axis] = given
        known = {axis: values for axis, values in axes.items() if axis in study.hparams._fields}
        return known or {"learning_rate": (float(study.objective.hparams.learning_rate),)}

    # -- compression -------------------------------------------------------------------------------------------------

    @property
    def _compressor(self) -> Study:
        spec, method = self.task.served_spec(self._student), self.notes["distilled"]["method"]
        model = self.task.model(spec)
        make = lambda: (self.task.method(method, model), compression.pruned_and_quantized(model))  # noqa: E731
        validate = self.task.validation(model)
        return self.trainer.study(f"compressed {spec} {method}", self.dataset, model, make, validate)

    def _compress(
        self, name: str, before: str, axes: Mapping[str, Sequence[float]], cost: np.ndarray, **fixed: float
    ) -> Made:
        """A grid that goes on from an earlier stage's parameters, and its cheapest setting that keeps the quality."""
        spec, seeds, study = self.task.served_spec(self._student), range(self.job.config.seeds), self._compressor
        settings = self.trainer.settings(name, axes)
        params = self.stage(before).params
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        training = self.trainer.training(name, study.model)
        assert training.schedule is not None
        schedule = dataclasses.replace(training.schedule, adapt=grid.Schedule.adapt)  # pruning is no plateau
        training = training._replace(schedule=schedule)
        if self.job.chosen is None:
            epochs = max(1, round(FINE_TUNING_EPOCHS * schedule.epochs))
            training = training._replace(schedule=dataclasses.replace(schedule, epochs=epochs), settling=SETTLING)
        else:
            training = for_epochs(training, self.job.chosen[name]["epochs"])
        result = study.run(
            grid.product(settings, seed=seeds),
            self._knowledge(self._student, self.notes["distilled"]["method"]),
            fixed={**self._going_on(study), **fixed},
            starts={**starts, "fixed": params[0]["fixed"]},
            training=training,
        )
        chosen = 0
        if self.job.chosen is None:
            allowed = self._within_budget(settings, fixed.get("sparsity", 0.0))
            chosen = cheapest_within_one_error(result.fitted, cost, allowed)
        stored = [compression.packed(params, None) for params in result.members(chosen)]
        return Made(stored, [spec], told(name, result, settings, chosen, training, self.task.metric))

    def _within_budget(self, settings: Mapping[str, np.ndarray], sparsity: float) -> np.ndarray:
        """``[settings]`` bool: which sparsities (at the fewest bits) or which bits meet the budget."""
        count, budget = len(next(iter(settings.values()))), budget_bytes(self.job.config.budget)
        if budget is None:
            return np.ones(count, bool)
        bits = np.broadcast_to(settings.get("bits", min(self.job.config.bits)), count)
        share = np.broadcast_to(settings.get("sparsity", sparsity), count)
        sizes = [self._predicted(self._student, int(b), float(s)) for b, s in zip(bits, share, strict=True)]
        allowed = np.array(sizes) <= budget
        if not allowed.any():
            raise InputError(f"option --budget: expected at least {min(sizes)} bytes, got {self.job.config.budget}")
        return allowed

    def _going_on(self, study: Study) -> dict[str, float]:
        """The hyperparameters of the distilled student, with which compression goes on."""
        chosen = self.notes["distilled"]["hyperparameters"]
        swept = {name: value for name, value in chosen.items() if name in study.hparams._fields}
        swept.pop("steps", None)
        swept |= self._decay
        return {**swept, "learning_rate": FINE_TUNING_RATE * chosen["learning_rate"]}

    def _tried(self, name: str, otherwise: float) -> Sequence[float]:
        """The values of an option of compression; another one for a model without a matrix, such as lr."""
        model = self.task.model(self.task.served_spec(self._student))
        tables, kernels = compression.matrices(jax.eval_shape(model.init, jax.random.key(0)))
        return getattr(self.job.config, name) if tables or kernels else (otherwise,)

    def _pruned(self) -> Made:
        axes = {"sparsity": self._tried("sparsity", 0.0)}
        return self._compress("pruned", "distilled", axes, -np.array(axes["sparsity"]), ramp=SETTLING)

    def _quantized(self) -> Made:
        axes = {"bits": self._tried("bits", 16)}
        sparsity = self.notes["pruned"]["hyperparameters"]["sparsity"]
        return self._compress("quantized", "pruned", axes, np.array(axes["bits"]), sparsity=sparsity)

    def _packed(self) -> Made:
        stage, bits = self.stage("quantized"), int(self.compression()["bits"])
        stored = [compression.packed(params, bits) for params in stage.params]
        return Made(stored, _specs(stage.notes), {"hyperparameters": self.compression()})

    def compression(self) -> dict[str, float]:
        """The chosen sparsity and bits."""
        sparsity = self.notes["pruned"]["hyperparameters"]["sparsity"]
        return {"sparsity": sparsity, "bits": int(self.notes["quantized"]["hyperparameters"]["bits"])}


class _Within:
    """Follows stages that are part of a larger one."""

    def __init__(self, listener: Listener, stage: str):
        self.listener, self.stage = listener, stage

    def begin(self, stage: str) -> None: ...

    def advance(self, stage: str, done: int, total: int, detail: str) -> None:
        self.listener.advance(self.stage, done, total, label(stage).lower())

    def end(self, stage: str, row: Mapping[str, Any]) -> None: ...

    def say(self, text: str) -> None:
        self.listener.say(text)


def _specs(notes: Mapping[str, Any]) -> list[Spec]:
    """The model of a finished stage."""
    return [Spec(*spec) for spec in notes["specs"]]
