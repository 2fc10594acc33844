"""The stages of a run, in order; each reads what it needs from the files of earlier ones and writes its own."""

import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from recjax import artifact, grid
from recjax.artifact import Artifact
from recjax.data import Seen, seen
from recjax.errors import InputError
from recjax.models import Ease, Retrieval, ease, fit_ease
from recjax.pipeline import lessons, measure, students
from recjax.pipeline.config import K
from recjax.pipeline.folder import Stage, Tables, draft_stage, publish_stage, read_stage
from recjax.pipeline.lessons import Hparams
from recjax.pipeline.students import Job
from recjax.teacher import Knowledge, knowledge
from recjax.train import Recipe

STAGES = ("popularity", "teacher", "student_alone", "distilled", "pruned", "quantized", "packed")
EASE_ITEMS = 8_000
TEACHER_SEEDS = 1_000  # the first seed of a teacher's ensemble
# What goes on from the distilled student: of its learning rate, and of its epochs. Longer and faster ones lost more on
# validation (MovieLens-100K) than compression itself.
FINE_TUNING_RATE, FINE_TUNING_EPOCHS = 0.1, 1 / 6
SETTLING = 0.4  # share of the training in which the sparsity rises, and before which nothing is chosen


class Made(NamedTuple):
    """What a stage made: vectors a seed, how they answer (a kind of :mod:`recjax.artifact`), and notes."""

    tables: Sequence[Tables]
    kind: str
    notes: dict[str, Any]


class Trainer(NamedTuple):
    """A student and its recipe; kept together so that grids that share them share one compiled program."""

    model: Retrieval
    recipe: Recipe


class Stages:
    """The stages of one job, with what several of them need made once."""

    def __init__(self, job: Job):
        self.job = job
        self.notes: dict[str, dict[str, Any]] = {}  # of the finished stages; their weights stay on disk
        self.dim = students.student_dim(job)
        self.sampled = not lessons.fits_whole(job.source)
        if job.config.teacher == "ease" and job.source.split.items > EASE_ITEMS:
            found = f"ease for {job.source.split.items} items"
            raise InputError(f"option --teacher: found {found}, expected mf above {EASE_ITEMS} items")

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
            stage = read_stage(self.job.folder / "stages" / name)
            if stage is None:
                self.job.listener.begin(name)
                start = time.monotonic()
                made = makers[name]()
                stage = self._finish(name, made, time.monotonic() - start)
            self.notes[name] = stage.notes
            self.job.listener.end(name, stage.notes["row"])

    def stage(self, name: str) -> Stage:
        """A finished stage."""
        stage = read_stage(self.job.folder / "stages" / name)
        if stage is None:
            raise InputError(f"{self.job.folder / 'stages' / name}: found nothing, expected a finished stage")
        return stage

    @functools.cached_property
    def before_valid(self) -> Seen:
        """What a list of validation leaves out."""
        return seen(self.job.source.split.train)

    @functools.cached_property
    def before_test(self) -> Seen:
        """What a list of the test leaves out."""
        return seen(self.job.source.split.train, self.job.source.split.valid)

    @functools.cached_property
    def titles(self) -> list[str]:
        """One title an item."""
        titles = self.job.source.split.train.titles
        return [""] * self.job.source.split.items if titles is None else [str(title) for title in titles]

    def _answering(self, kind: str, tables: dict[str, np.ndarray]) -> Artifact:
        """Tables as something that answers, without an artifact on disk."""
        train, source = self.job.source.split.train, self.job.source
        answering = {"item_item": tables["item"].T} if kind == "history" else tables
        return artifact.build(
            answering,
            kind="item_item" if kind == "history" else kind,
            user_ids=train.user_ids.tolist(),
            item_ids=train.item_ids.tolist(),
            titles=self.titles,
            seen=source.everything,
            known_users=np.arange(source.known),
        )

    def save_artifact(self, folder: Any, tables: Tables, about: Mapping[str, Any]) -> dict[str, Any]:
        """Writes vectors as an artifact, with the whole log's histories; returns its card."""
        train, source = self.job.source.split.train, self.job.source
        return artifact.save(
            folder,
            tables,
            kind="vectors",
            user_ids=train.user_ids.tolist(),
            item_ids=train.item_ids.tolist(),
            titles=self.titles,
            seen=source.everything,
            known_users=np.arange(source.known),
            about=about,
        )

    def _finish(self, name: str, made: Made, seconds: float) -> Stage:
        """Writes a stage's weights, measures what was written, and lets the stage appear."""
        source = self.job.source
        folder = self.job.folder / "stages" / name
        draft = draft_stage(folder, made.tables)
        if name == "packed":  # what answers is what will be deployed: written, loaded, asked
            models = []
            for seed, tables in enumerate(made.tables):
                trial = self.job.folder / "checkpoints" / f"artifact-{seed}"
                self.save_artifact(trial, tables, {})
                models.append(artifact.load(trial))
        else:
            models = [self._answering(made.kind, tables) for tables in draft.tables]
        test = [measure.quality(m, source, source.split.test, self.before_test, k=K) for m in models]
        valid = [measure.quality(m, source, source.split.valid, self.before_valid, k=K) for m in models]
        p50, rate = measure.speed(models[0], source, self.before_test, k=K)
        row = {
            "stage": name,
            **_summary(f"ndcg@{K}", [found.ndcg for found in test]),
            **_summary(f"recall@{K}", [found.recall for found in test]),
            **_summary(f"tail_recall@{K}", [found.tail_recall for found in test]),
            **_summary(f"valid_ndcg@{K}", [found.ndcg for found in valid]),
            "parameters": round(statistics.mean(sum(map(np.count_nonzero, t.values())) for t in draft.tables)),
            "bytes": round(statistics.mean(draft.sizes)),
            "bytes_by_seed": draft.sizes,
            "p50_ms": p50,
            "users_per_second": rate,
            "seeds": list(range(len(models))),
            "hyperparameters": made.notes.get("hyperparameters", {}),
            "seconds": seconds,
        }
        return publish_stage(folder, draft, {**made.notes, "kind": made.kind, "row": row})

    def _popularity(self) -> Made:
        train = self.job.source.split.train
        counts = np.bincount(train.item, minlength=train.items).astype(np.float32)
        return Made([{"item_bias": counts[:, None]}], "popularity", {})

    def _teacher(self) -> Made:
        """The better of the teachers that the config allows, by validation."""
        family, items = self.job.config.teacher, self.job.source.split.items
        tried = []
        if family == "ease" or (family == "auto" and items <= EASE_ITEMS):
            tried.append(self._ease())
        if family != "ease":
            tried.append(self._ensemble("two-tower" if family == "two-tower" else "mf"))
        _, best = max(tried, key=lambda pair: pair[0])
        members = [member for _, made in tried for member in made.notes["members"]]
        return best._replace(notes={**best.notes, "members": members})

    def _valid(self, model: Artifact) -> float:
        return measure.quality(model, self.job.source, self.job.source.split.valid, self.before_valid, k=K).ndcg

    def _ease(self) -> tuple[float, Made]:
        """EASE with its best regularization, after what it reaches on validation."""
        source, ladder = self.job.source, self.job.config.regularization
        gram = _gram(source.split.train.user, source.split.train.item, source.weight, source.split.items)
        tables, valid = [], []
        for number, regularization in enumerate(ladder):
            tables.append(fit_ease(gram, regularization=regularization)["tables"])
            valid.append(self._valid(self._answering("history", tables[-1])))
            detail = f"EASE {regularization:g}, valid NDCG@{K} {valid[-1]:.4f}"
            self.job.listener.advance("teacher", number + 1, len(ladder), detail)
        best = int(np.argmax(valid))
        members = [
            {
                "member": number,
                "grid": "teacher_ease",
                "seed": 0,
                "regularization": regularization,
                f"valid_ndcg@{K}": valid[number],
                "chosen": number == best,
            }
            for number, regularization in enumerate(ladder)
        ]
        hyperparameters = {"model": "ease", "regularization": ladder[best]}
        notes = {"hyperparameters": hyperparameters, "members": members}
        return valid[best], Made([tables[best]], "history", notes)

    def _ensemble(self, family: str) -> tuple[float, Made]:
        """Several models that learn from the labels alone, side by side in one: the sum of their scores.

        Comes after what it reaches on validation.
        The setting is chosen by what the ensemble reaches on validation, which is not what its members reach. Their
        seeds are none of the students', or a student would be taught by what it became on its own.
        """
        config, source = self.job.config, self.job.source
        model = students.build(self.job, family, config.teacher_dim)
        trainer = Trainer(model, lessons.recipe(model, source.split.items, sampled=self.sampled, compressed=False))
        shape = (source.known, lessons.LIST_LENGTH if self.sampled else source.split.items)
        nobody = Knowledge(jnp.zeros(shape), jnp.zeros(shape, jnp.int32) if self.sampled else None)
        lesson = lessons.material(source, nobody)
        seeds = range(TEACHER_SEEDS, TEACHER_SEEDS + config.teacher_members)
        settings = grid.product(weight_decay=config.weight_decay)
        fixed = Hparams(learning_rate=config.teacher_learning_rate, weight_decay=0.0)
        starts = students.initial(model, seeds)
        fitted = students.fit_grid(self.job, "teacher", *trainer, starts, lesson, settings, fixed, seeds=seeds)
        tried = []
        for setting in range(len(config.weight_decay)):
            parts, notes = students.pick(f"teacher_{family}", *trainer, starts, fitted, settings, fixed, setting, seeds)
            tables: Tables = {
                "user": np.concatenate([part["user"] for part in parts], axis=1),
                "item": np.concatenate([part["item"] for part in parts], axis=1),
                "item_bias": np.sum([part["item_bias"] for part in parts], axis=0),
            }
            valid = self._valid(self._answering("vectors", dict(tables)))
            about = {"model": f"{len(seeds)} x {family}", "dim": config.teacher_dim, **notes["hyperparameters"]}
            tried.append((valid, Made([tables], "vectors", {**notes, "hyperparameters": about})))
        return max(tried, key=lambda pair: pair[0])

    @functools.cached_property
    def _lesson(self) -> lessons.Whole | lessons.Sampled:
        """The labels and what the teacher thinks."""
        stage, source = self.stage("teacher"), self.job.source
        tables = {name: jnp.asarray(table) for name, table in stage.tables[0].items()}
        if stage.notes["kind"] == "history":
            model = ease(Ease(source.split.items))
        else:
            model = students.build(self.job, "mf", tables["user"].shape[1])
        asked = knowledge(
            model,
            {"tables": tables, "net": {}, "fixed": {}, "aids": {}},
            source.histories,
            items=source.split.items,
            length=min(lessons.LIST_LENGTH, source.split.items) if self.sampled else None,
        )
        return lessons.material(source, asked)

    @functools.cached_property
    def _student(self) -> Trainer:
        model = students.build(self.job, self.job.config.student, self.dim)
        items = self.job.source.split.items
        return Trainer(model, lessons.recipe(model, items, sampled=self.sampled, compressed=False))

    @functools.cached_property
    def _compressor(self) -> Trainer:
        model = students.build(self.job, "mf", self.dim)
        items = self.job.source.split.items
        return Trainer(model, lessons.recipe(model, items, sampled=self.sampled, compressed=True))

    def _best(self, name: str, settings: dict[str, np.ndarray], fixed: Hparams) -> Made:
        """A grid of students from fresh parameters, and its best setting."""
        seeds = range(self.job.config.seeds)
        starts = students.initial(self._student.model, seeds)
        fitted = students.fit_grid(self.job, name, *self._student, starts, self._lesson, settings, fixed, seeds=seeds)
        chosen = students.best(fitted)
        tables, notes = students.pick(name, *self._student, starts, fitted, settings, fixed, chosen, seeds)
        return Made(tables, "vectors", notes)

    def _alone(self) -> Made:
        config = self.job.config
        settings = grid.product(learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        return self._best("student_alone", settings, Hparams(learning_rate=0.0, weight_decay=0.0))

    def _distilled(self) -> Made:
        config = self.job.config
        settings = grid.product(temperature=config.temperature, alpha=config.alpha, learning_rate=config.learning_rate)
        return self._best("distilled", settings, Hparams(learning_rate=0.0, weight_decay=config.distill_weight_decay))

    def _compress(
        self, name: str, before: str, settings: dict[str, np.ndarray], fixed: Hparams, cost: np.ndarray
    ) -> Made:
        """A grid that goes on from an earlier stage's vectors, and its cheapest setting that keeps the quality."""
        starts = students.from_tables(self.stage(before).tables)
        allowed = students.within_budget(self.job, self.dim, settings, fixed)
        seeds = range(self.job.config.seeds)
        fitted = students.fit_grid(
            self.job,
            name,
            *self._compressor,
            starts,
            self._lesson,
            settings,
            fixed,
            seeds=seeds,
            epochs=max(1, round(FINE_TUNING_EPOCHS * self.job.config.epochs)),
            settling=SETTLING,
        )
        chosen = students.cheapest_within_one_error(fitted, cost, allowed)
        tables, notes = students.pick(name, *self._compressor, starts, fitted, settings, fixed, chosen, seeds)
        return Made(tables, "vectors", notes)

    @property
    def _taught(self) -> Hparams:
        """The hyperparameters of the distilled student, with which compression goes on."""
        chosen = self.notes["distilled"]["hyperparameters"]
        return Hparams(
            learning_rate=FINE_TUNING_RATE * chosen["learning_rate"],
            weight_decay=self.job.config.distill_weight_decay,
            temperature=chosen["temperature"],
            alpha=chosen["alpha"],
        )

    def _pruned(self) -> Made:
        settings = grid.product(sparsity=self.job.config.sparsity)
        return self._compress(
            "pruned", "distilled", settings, self._taught._replace(ramp=SETTLING), -settings["sparsity"]
        )

    def _quantized(self) -> Made:
        settings = grid.product(bits=self.job.config.bits)
        sparsity = self.notes["pruned"]["hyperparameters"]["sparsity"]
        fixed = self._taught._replace(sparsity=sparsity)
        return self._compress("quantized", "pruned", settings, fixed, settings["bits"])

    def _packed(self) -> Made:
        return Made(self.packed_tables(), "vectors", {"hyperparameters": self.compression()})

    def compression(self) -> dict[str, float]:
        """The chosen sparsity and bits."""
        sparsity = self.notes["pruned"]["hyperparameters"]["sparsity"]
        return {"sparsity": sparsity, "bits": int(self.notes["quantized"]["hyperparameters"]["bits"])}

    def packed_tables(self) -> list[dict[str, Any]]:
        """The quantized vectors as they are stored, one set a seed."""
        bits = int(self.compression()["bits"])
        return [students.pack(tables, bits) for tables in self.stage("quantized").tables]


def _gram(user: np.ndarray, item: np.ndarray, weight: np.ndarray, items: int, block: int = 1024) -> np.ndarray:
    """``X^T X`` of the weighted log, ``[items, items]`` float64, from blocks of users."""
    gram = np.zeros((items, items))
    order = np.argsort(user, kind="stable")
    user, item, weight = user[order], item[order], weight[order]
    for start in range(0, int(user[-1]) + 1, block):
        rows = slice(*np.searchsorted(user, [start, start + block]))
        x = np.zeros((block, items), np.float32)
        x[user[rows] - start, item[rows]] = weight[rows]
        gram += x.T @ x
    return gram


def _summary(name: str, values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {name: statistics.mean(values), f"{name}_sd": sd, f"{name}_by_seed": values}
