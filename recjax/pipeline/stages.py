"""The stages of a run, in order; each reads what it needs from the files of earlier ones and writes its own."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from recjax import artifact, grid
from recjax.artifact import Artifact
from recjax.data import Dataset, Seen
from recjax.errors import InputError
from recjax.evaluate import Scorer, Scores
from recjax.families import Model
from recjax.models import Params
from recjax.pipeline.config import DIMS, Config, K, budget_bytes
from recjax.pipeline.folder import Stage, draft_stage, publish_stage, read_stage, stored_params
from recjax.pipeline.source import Source
from recjax.report import STAGES
from recjax.study import NOTHING, Compression, Result, Study, Training
from recjax.summary import summary
from recjax.tasks import compression, retrieval
from recjax.tasks.retrieval import FAMILIES, Quality
from recjax.teacher import Knowledge

CLOSED_ROWS = 8_000  # of the matrix that EASE inverts, at most
TEACHER_SEEDS = 1_000  # the first seed of a teacher's ensemble
# What goes on from the distilled student: of its learning rate, and of its epochs. Longer and faster ones lost more on
# validation (MovieLens-100K) than compression itself.
FINE_TUNING_RATE, FINE_TUNING_EPOCHS = 0.1, 1 / 6
SETTLING = 0.4  # share of the training in which the sparsity rises, and before which nothing is chosen
CHUNK_STEPS = 10  # about so many steps between two validations
SINGLES, BATCH = 200, 256  # of the measurement of speed


class Listener(Protocol):
    """Follows a run; the command line draws it."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def advance(self, stage: str, done: int, total: int, detail: str) -> None:
        """So much of a stage is done."""

    def end(self, stage: str, row: Mapping[str, Any]) -> None:
        """A stage is done; its row of the table."""

    def say(self, text: str) -> None:
        """A line for the reader."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage of one run shares."""

    config: Config
    source: Source
    folder: Path
    listener: Listener


class Spec(NamedTuple):
    """A family and its sizes, as JSON holds them: what a model is built from again."""

    family: str
    size: dict[str, Any]


class Made(NamedTuple):
    """What a stage made.

    Attributes:
      stored: the parameters of each seed, in the form in which they are stored.
      spec: the model whose parameters they are.
      notes: chosen hyperparameters, grid members, curves.
    """

    stored: Sequence[Params]
    spec: Spec
    notes: dict[str, Any]


class Stages:
    """The stages of one job, with what several of them need made once."""

    def __init__(self, job: Job):
        self.job = job
        self.notes: dict[str, dict[str, Any]] = {}  # of the finished stages; their weights stay on disk
        self._models: dict[str, Model] = {}
        rows = min(self.dataset.users, self.dataset.items)
        if job.config.teacher == "ease" and rows > CLOSED_ROWS:
            expected = f"another family where both users and items are above {CLOSED_ROWS:,}"
            raise InputError(f"option --teacher: expected {expected}, got ease for {rows:,}")
        for name in {job.config.teacher, job.config.student} - {"auto"}:
            self.model(Spec(name, {}))  # refuses a log that lacks what the family reads
        self.dim = self._student_dim()

    @property
    def dataset(self) -> Dataset:
        """The data of the run."""
        return self.job.source.dataset

    def model(self, spec: Spec) -> Model:
        """The model of a specification; the same one each time, so that its programs are compiled once."""
        key = repr(spec)
        if key not in self._models:
            self._models[key] = FAMILIES[spec.family](self.dataset, **spec.size)
        return self._models[key]

    def go(self) -> None:
        """Runs every stage that isn't finished."""
        makers = {
            "popularity": self._popularity,
            "teacher": self._teacher,
            "student_alone": self._alone,
            "distilled": self._distilled,
            "pruned": self._pruned,
            "quantized": self._quantized,
            "packed": self._packed,
        }
        for name in STAGES:
            stage = read_stage(self._folder(name))
            if stage is None:
                self.job.listener.begin(name)
                start = time.monotonic()
                made = makers[name]()
                stage = self._finish(name, made, time.monotonic() - start)
            self.notes[name] = stage.notes
            self.job.listener.end(name, stage.notes["row"])

    def _folder(self, name: str) -> Path:
        return self.job.folder / "stages" / name

    def stage(self, name: str) -> Stage:
        """A finished stage."""
        stage = read_stage(self._folder(name))
        if stage is None:
            raise InputError(f"{self._folder(name)}: expected a finished stage, got none")
        return stage

    def users(self, name: str) -> np.ndarray:
        """``[seeds, users]``, the test NDCG of each evaluated user in a finished stage."""
        return np.load(self._folder(name) / "users.npy", allow_pickle=False)

    # -- measuring ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _seen(self) -> Seen:
        """The items that each user has in the whole log."""
        log = self.dataset.log
        owner = np.repeat(np.arange(len(log.offsets) - 1, dtype=np.int64), np.diff(log.offsets))
        pairs = np.unique(owner * self.dataset.items + log.items)
        owner, item = np.divmod(pairs, self.dataset.items)
        counts = np.bincount(owner, minlength=len(log.offsets) - 1)
        return Seen(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), item.astype(np.int32))

    def _artifact_parts(self, model: Model) -> dict[str, Any]:
        return {
            "kind": model.kind,
            "history_exponent": model.history_exponent,
            "user_ids": self.dataset.user_ids.tolist(),
            "item_ids": self.dataset.item_ids.tolist(),
            "titles": [str(title) for title in self.dataset.titles],
            "seen": self._seen,
            "known_users": np.arange(self.dataset.users),
        }

    def save_artifact(self, folder: Path, seed: int, about: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a packed student as an artifact, with the whole log's histories; returns its card."""
        stored = stored_params(self._folder("packed"), seed)
        return self._save(folder, stored, Spec(*self.notes["packed"]["spec"]), about)

    def _save(self, folder: Path, stored: Params, spec: Spec, about: Mapping[str, Any]) -> dict[str, Any]:
        model = self.model(spec)
        return artifact.save(folder, model.tables(stored), about=about, **self._artifact_parts(model))

    def _finish(self, name: str, made: Made, seconds: float) -> Stage:
        """Writes a stage's weights, measures what was written, and lets the stage appear."""
        draft = draft_stage(self._folder(name), made.stored)
        model, speed = self.model(made.spec), (None, None)
        scorers: list[Scorer | Scores] = [model.scorer(params) for params in draft.params]
        if name == "packed":  # what is measured is what will be served: written and loaded
            served = []
            for seed, stored in enumerate(made.stored):
                folder = self.job.folder / "checkpoints" / f"artifact-{seed}"
                self._save(folder, stored, made.spec, {})
                served.append(artifact.load(folder))
            scorers = [functools.partial(_scores, model) for model in served]
            draft = draft._replace(sizes=[model.card["bytes"] for model in served])
            speed = self._speed(served[0])
        elif model.kind is not None:
            tables = {name: np.asarray(table) for name, table in model.tables(draft.params[0]).items()}
            speed = self._speed(artifact.build(tables, **self._artifact_parts(model)))
        test, valid = ([self._quality(scorer, held) for scorer in scorers] for held in ("test", "valid"))
        row = {
            "stage": name,
            **_by_seed(test, ""),
            **_by_seed(valid, "valid_"),
            "parameters": round(statistics.mean(map(compression.non_zero, draft.params))),
            "bytes": round(statistics.mean(draft.sizes)),
            "bytes_by_seed": draft.sizes,
            "p50_ms": speed[0],
            "users_per_second": speed[1],
            "seeds": list(range(len(scorers))),
            "hyperparameters": made.notes.get("hyperparameters", {}),
            "seconds": seconds,
        }
        users = np.stack([found.ndcg for found in test]).astype(np.float32)
        return publish_stage(self._folder(name), draft, users, {**made.notes, "spec": list(made.spec), "row": row})

    def _quality(self, scorer: Scorer | Scores, part: str) -> Quality:
        return retrieval.quality(scorer, self.dataset, getattr(self.dataset, part), k=K)

    def _speed(self, model: Artifact) -> tuple[float, float]:
        """Median milliseconds of one user's list, and users per second at 256 users a call; warm, in this process."""

        def seconds(users: np.ndarray) -> float:
            start = time.perf_counter()
            model.top_k(users, k=K, exclude=self._seen)
            return time.perf_counter() - start

        users = np.arange(self.dataset.users)
        singles = [users[i % len(users), None] for i in range(SINGLES)]
        batches = [np.resize(np.roll(users, -i * BATCH), BATCH) for i in range(10)]
        one, many = (
            statistics.median([seconds(users) for users in [calls[0], *calls]][1:]) for calls in (singles, batches)
        )
        return 1e3 * one, BATCH / many

    def _valid(self, model: Model, params: Params) -> float:
        return float(self._quality(model.scorer(params), "valid").ndcg.mean())

    # -- teachers ----------------------------------------------------------------------------------------------------

    def _popularity(self) -> Made:
        spec = Spec("popularity", {})
        return Made([self.model(spec).init(jax.random.key(0))], spec, {})

    def _teacher(self) -> Made:
        """The better of the teachers that the config allows, by validation."""
        name = self.job.config.teacher
        names = (["ease"] if self._ease_fits else []) + ["mf"] if name == "auto" else [name]
        tried = [self._candidate(one) for one in names]
        _, best = max(tried, key=lambda pair: pair[0])
        members = [member for _, made in tried for member in made.notes["members"]]
        return best._replace(notes={**best.notes, "members": members})

    @property
    def _ease_fits(self) -> bool:
        return min(self.dataset.users, self.dataset.items) <= CLOSED_ROWS

    def _candidate(self, family: str) -> tuple[float, Made]:
        """A teacher of a family, after what it reaches on validation."""
        if self.model(Spec(family, {})).objective is None:
            axes = {"ease": {"regularization": self.job.config.regularization}}
            knn = {"neighbors": (20, 100), "shrinkage": (0.0, 10.0)}
            return self._closed(family, axes.get(family, knn if family.endswith("knn") else {}))
        return self._trained(family)

    def _closed(self, family: str, axes: Mapping[str, Sequence[float]]) -> tuple[float, Made]:
        """A closed form with its best settings."""
        columns = grid.product(**axes) if axes else {}
        count = len(next(iter(columns.values()))) if axes else 1
        kinds = {name: type(values[0]) for name, values in axes.items()}
        settings = [{name: kinds[name](column[i]) for name, column in columns.items()} for i in range(count)]
        best: tuple[float, Params, dict[str, Any]] | None = None
        members = []
        for number, setting in enumerate(settings):
            model = FAMILIES[family](self.dataset, **setting)
            params = model.init(jax.random.key(0))
            valid = self._valid(model, params)
            if best is None or valid > best[0]:
                best = valid, params, setting
            told = {"member": number, "grid": f"teacher_{family}", "seed": 0, **setting}
            members.append({**told, f"valid_ndcg@{K}": valid})
            text = " ".join(f"{value:g}" for value in setting.values())
            self.job.listener.advance("teacher", number + 1, count, f"{family} {text}, valid NDCG@{K} {valid:.4f}")
        assert best is not None
        chosen = settings.index(best[2])
        members = [{**member, "chosen": member["member"] == chosen} for member in members]
        notes = {"hyperparameters": {"model": family, **best[2]}, "members": members}
        return best[0], Made([best[1]], Spec(family, best[2]), notes)

    def _trained(self, family: str) -> tuple[float, Made]:
        """A teacher that is trained: of models that know users by their vectors an ensemble, the sum of their scores.

        Comes after what it reaches on validation. The setting is chosen by what the ensemble reaches on validation,
        which is not what its members reach. Its seeds are none of the students', or a student would be taught by what
        it became on its own.
        """
        config = self.job.config
        spec = Spec(family, {"dim": config.teacher_dim} if family in ("mf", "two-tower") else {})
        model = self.model(spec)
        assert model.objective is not None
        swept = {}
        if "weight_decay" in model.objective.alone:
            decays = config.weight_decay or model.objective.alone["weight_decay"]
            swept = {"learning_rate": (config.teacher_learning_rate,), "weight_decay": decays}
        if not swept:
            swept = {"learning_rate": (float(model.objective.hparams.learning_rate),)}
        seeds = range(
            TEACHER_SEEDS, TEACHER_SEEDS + (config.teacher_members if model.served_by or family == "mf" else 1)
        )
        settings = self._axes(swept)
        result = self._study(spec, taught=False).run(
            grid.product(settings, seed=seeds), training=self._training("teacher", spec)
        )
        tried = []
        for setting in range(len(next(iter(settings.values())))):
            parts = [self._served(spec, params) for params in result.members(setting)]
            made, params = self._served_spec(spec), parts[0]
            if len(parts) > 1:
                params = {**params, "tables": _side_by_side([part["tables"] for part in parts])}
                made = Spec("mf", {"dim": params["tables"]["user"].shape[1]})
            valid = self._valid(self.model(made), params)
            notes = told(f"teacher_{family}", result, settings, setting)
            about = {"model": f"{len(seeds)} x {family}", **spec.size, **notes["hyperparameters"]}
            stored = compression.packed(params, None)
            tried.append((valid, Made([stored], made, {**notes, "hyperparameters": about})))
        return max(tried, key=lambda pair: pair[0])

    # -- students ----------------------------------------------------------------------------------------------------

    @property
    def _student(self) -> Spec:
        return Spec(self.job.config.student, {"dim": self.dim})

    def _student_dim(self) -> int:
        """The student's dim: as configured, or the largest that meets the budget half pruned and at 4 bits or fewer."""
        config, budget = self.job.config, budget_bytes(self.job.config.budget)
        if budget is None:
            return config.dim
        bits = min((bits for bits in config.bits if bits >= 4), default=max(config.bits))
        sparsity = max((share for share in config.sparsity if share <= 0.5), default=min(config.sparsity))
        for dim in DIMS:
            size = self._predicted(dim, bits, sparsity)
            if size <= budget:
                return dim
        raise InputError(f"option --budget: expected at least {size} bytes for this log, got {config.budget}")

    def _predicted(self, dim: int, bits: int, sparsity: float) -> int:
        """Bytes of ``weights.safetensors``."""
        spec = Spec(self.job.config.student, {"dim": dim})
        shapes = jax.eval_shape(lambda key: self._served(spec, self.model(spec).init(key)), jax.random.key(0))
        stored = compression.predicted(shapes, bits=bits, sparsity=sparsity)
        return artifact.file_size(self.model(self._served_spec(spec)).tables(stored))

    def _served(self, spec: Spec, params: Params) -> Params:
        served = self.model(spec).served
        return params if served is None else jax.jit(served)(params)

    def _served_spec(self, spec: Spec) -> Spec:
        """What the served parameters of a model are those of."""
        model = self.model(spec)
        if model.served is None:
            return spec
        shapes = jax.eval_shape(lambda key: self._served(spec, model.init(key)), jax.random.key(0))
        return Spec("mf", {"dim": shapes["tables"]["item"].shape[1]})

    @functools.cached_property
    def _knowledge(self) -> Knowledge:
        """The teacher's scores for the queries of the student."""
        stage = self.stage("teacher")
        scorer = self.model(Spec(*stage.notes["spec"])).scorer(stage.params[0])
        return retrieval.teach(scorer, self.dataset, self.model(self._student).queries)

    def _study(self, spec: Spec, *, taught: bool, small: Compression = NOTHING) -> Study:
        model = self.model(spec)
        method = retrieval.soft_targets(self.dataset, model.queries) if taught else None
        return Study(self.dataset, model, method, small)

    def _axes(self, axes: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        return grid.product(**{name: tuple(values) for name, values in axes.items()})

    def _training(self, stage: str, spec: Spec) -> Training:
        """How a grid of a stage is trained: its schedule, folder and progress."""
        config, objective = self.job.config, self.model(spec).objective
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
                self.job.listener.say(
                    f"{stage}: {count} settings need {need:.1f} of {have:.1f} GB, in {len(plan.waves)} waves"
                )

        def progress(done: int, total: int, best: float | None) -> None:
            detail = "" if best is None else f"best valid NDCG@{K} {best:.4f}"
            self.job.listener.advance(stage, done, total, detail)

        folder = self.job.folder / "checkpoints" / stage
        return Training(schedule, folder=folder, progress=progress, planned=planned)

    def _students(self, stage: str, name: str, knowledge: Knowledge | None, fixed: Mapping[str, float]) -> Made:
        """A grid of students from fresh parameters, and its best setting."""
        spec, seeds = self._student, range(self.job.config.seeds)
        settings = self._axes(self._grid(name))
        study = self._student_study
        training = self._training(stage, spec)
        result = study.run(grid.product(settings, seed=seeds), knowledge, fixed=fixed, training=training)
        parts = [compression.packed(self._served(spec, params), None) for params in result.members(result.best)]
        return Made(parts, self._served_spec(spec), told(stage, result, settings, result.best))

    @functools.cached_property
    def _student_study(self) -> Study:
        return self._study(self._student, taught=True)

    def _alone(self) -> Made:
        return self._students("student_alone", "alone", None, {})

    def _distilled(self) -> Made:
        return self._students("distilled", "distilled", self._knowledge, self._decay)

    @property
    def _decay(self) -> dict[str, float]:
        """The weight decay of students that a teacher regularizes too, where it is given."""
        decay = self.job.config.distill_weight_decay
        return {} if decay is None else {"weight_decay": decay}

    def _grid(self, name: str) -> Mapping[str, Sequence[float]]:
        """The values that a stage tries: those of the family, or those of the options."""
        objective = self._student_study.objective
        axes = dict(objective.alone if name == "alone" else objective.distilled)
        for axis in axes:
            given = getattr(self.job.config, axis, None)
            if given is not None:
                axes[axis] = given
        return axes

    # -- compression -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _compressor(self) -> Study:
        spec = self._served_spec(self._student)
        return self._study(spec, taught=True, small=compression.pruned_and_quantized(self.model(spec)))

    def _compress(
        self, name: str, before: str, axes: Mapping[str, Sequence[float]], cost: np.ndarray, **fixed: float
    ) -> Made:
        """A grid that goes on from an earlier stage's parameters, and its cheapest setting that keeps the quality."""
        spec, settings, seeds = self._served_spec(self._student), self._axes(axes), range(self.job.config.seeds)
        allowed = self._within_budget(settings, fixed.get("sparsity", 0.0))
        params = self.stage(before).params
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        training = self._training(name, spec)
        assert training.schedule is not None
        epochs = max(1, round(FINE_TUNING_EPOCHS * training.schedule.epochs))
        result = self._compressor.run(
            grid.product(settings, seed=seeds),
            self._knowledge,
            fixed={**self._taught, **fixed},
            starts={**starts, "fixed": params[0]["fixed"]},
            training=training._replace(
                schedule=dataclasses.replace(training.schedule, epochs=epochs), settling=SETTLING
            ),
        )
        chosen = cheapest_within_one_error(result.fitted, cost, allowed)
        stored = [compression.packed(params, None) for params in result.members(chosen)]
        return Made(stored, spec, told(name, result, settings, chosen))

    def _within_budget(self, settings: Mapping[str, np.ndarray], sparsity: float) -> np.ndarray:
        """``[settings]`` bool: which sparsities (at the fewest bits) or which bits meet the budget."""
        count, budget = len(next(iter(settings.values()))), budget_bytes(self.job.config.budget)
        if budget is None:
            return np.ones(count, bool)
        bits = np.broadcast_to(settings.get("bits", min(self.job.config.bits)), count)
        share = np.broadcast_to(settings.get("sparsity", sparsity), count)
        sizes = [self._predicted(self.dim, int(b), float(s)) for b, s in zip(bits, share, strict=True)]
        allowed = np.array(sizes) <= budget
        if not allowed.any():
            raise InputError(f"option --budget: expected at least {min(sizes)} bytes, got {self.job.config.budget}")
        return allowed

    @property
    def _taught(self) -> dict[str, float]:
        """The hyperparameters of the distilled student, with which compression goes on."""
        chosen = self.notes["distilled"]["hyperparameters"]
        swept = {name: value for name, value in chosen.items() if name in self._compressor.hparams._fields}
        swept.pop("steps", None)
        swept |= self._decay
        return {**swept, "learning_rate": FINE_TUNING_RATE * chosen["learning_rate"]}

    def _pruned(self) -> Made:
        axes = {"sparsity": self.job.config.sparsity}
        return self._compress("pruned", "distilled", axes, -np.array(axes["sparsity"]), ramp=SETTLING)

    def _quantized(self) -> Made:
        axes = {"bits": self.job.config.bits}
        sparsity = self.notes["pruned"]["hyperparameters"]["sparsity"]
        return self._compress("quantized", "pruned", axes, np.array(axes["bits"]), sparsity=sparsity)

    def _packed(self) -> Made:
        stage, bits = self.stage("quantized"), int(self.compression()["bits"])
        stored = [compression.packed(params, bits) for params in stage.params]
        return Made(stored, Spec(*stage.notes["spec"]), {"hyperparameters": self.compression()})

    def compression(self) -> dict[str, float]:
        """The chosen sparsity and bits."""
        sparsity = self.notes["pruned"]["hyperparameters"]["sparsity"]
        return {"sparsity": sparsity, "bits": int(self.notes["quantized"]["hyperparameters"]["bits"])}


def _scores(model: Artifact, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The scores of an artifact for a batch."""
    rows, places = np.nonzero(batch["history"] >= 0)
    pairs = np.unique(np.stack([rows, batch["history"][rows, places]], axis=1), axis=0)
    offsets = np.searchsorted(pairs[:, 0], np.arange(len(batch["user"]) + 1))
    return model.scores(batch["user"], Seen(offsets.astype(np.int32), pairs[:, 1].astype(np.int32)))


def _side_by_side(tables: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Factorizations as one whose scores are the sum of theirs."""
    vectors = {name: jnp.concatenate([part[name] for part in tables], axis=1) for name in ("user", "item")}
    return {**vectors, "item_bias": sum((part["item_bias"] for part in tables), start=jnp.zeros(()))}


def _by_seed(found: Sequence[Quality], prefix: str) -> dict[str, Any]:
    """Means over users, and over seeds, under the names of the stage table."""
    means = [quality.means() for quality in found]
    row = {}
    for metric in ("ndcg", "recall", "tail_recall") if not prefix else ("ndcg",):
        values = [one[metric] for one in means]
        name = f"{prefix}{metric}@{K}"
        mean, sd = summary(values)
        row |= {name: mean, f"{name}_sd": sd, f"{name}_by_seed": values}
    return row


def told(stage: str, result: Result, settings: Mapping[str, np.ndarray], chosen: int) -> dict[str, Any]:
    """What the results say of a grid: the chosen hyperparameters, every member, the chosen setting's curve."""
    fitted, seeds = result.fitted, result.population.seeds.tolist()
    swept = {name: [_short(value) for value in values.tolist()] for name, values in settings.items()}
    best = {name: values[chosen] for name, values in swept.items()}
    members = [
        {
            "member": row * fitted.valid.shape[1] + i,
            "grid": stage,
            "seed": seed,
            **{name: values[i] for name, values in swept.items()},
            f"valid_ndcg@{K}": float(fitted.valid[row, i]),
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
        f"valid_ndcg@{K}": valid.mean(axis=1).tolist(),
        f"valid_ndcg@{K}_by_seed": valid.T.tolist(),
        "hyperparameters": best,
    }
    hyperparameters = {**best, "steps": int(fitted.best_step[0, chosen])}
    return {"hyperparameters": hyperparameters, "members": members, "curve": curve}


def _short(value: float) -> float:
    """A float32 as it was typed: 0.01 and not 0.009999999776."""
    return float(f"{value:.6g}")


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
    seeds = fitted.valid.shape[0]
    error = fitted.valid[:, top].std(ddof=1) / seeds**0.5 if seeds > 1 else 0.0
    return int(np.where(means >= means[top] - error, cost, np.inf).argmin())
