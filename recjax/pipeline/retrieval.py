"""What a run does its own way in the retrieval task: models, measurement, knowledge and the served artifact."""

import inspect
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from recjax import artifact, families
from recjax.artifact import Artifact
from recjax.data import Dataset
from recjax.evaluate import Scorer, Scores
from recjax.families import Model
from recjax.models import Params
from recjax.pipeline.config import K
from recjax.pipeline.job import Job
from recjax.pipeline.specs import Spec
from recjax.pipeline.training import by_seed
from recjax.study import Method
from recjax.tasks import distillation, retrieval
from recjax.tasks.distillation import METHODS
from recjax.tasks.retrieval import FAMILIES, Quality
from recjax.teacher import Knowledge

SINGLES, BATCH = 200, 256  # of the measurement of speed


class Retrieval:
    """The models of one data set, measured and served."""

    metric = f"ndcg@{K}"
    metrics = (f"ndcg@{K}", f"recall@{K}")  # of the card
    paired = metric  # what differences between stages are of
    milliseconds = "p50_ms"
    baseline = "popularity"  # the first stage
    students = ("elsa", "mf")  # those that --student auto compares

    def __init__(self, job: Job):
        assert isinstance(job.source.dataset, Dataset)
        self.dataset, self._rule = job.source.dataset, job.source.rule
        self._models: dict[str, Model] = {}

    def model(self, *specs: Spec) -> Model:
        """The model of a specification; the same one each time, so that its programs are compiled once."""
        key = repr(specs)
        if key not in self._models:
            models = [
                FAMILIES[spec.family](self.dataset, **spec.size)
                if spec.family in FAMILIES
                else families.imported(self.dataset, path=spec.family)
                for spec in specs
            ]
            self._models[key] = models[0] if len(models) == 1 else families.ensemble(models)
        return self._models[key]

    def student(self, family: str, dim: int | None) -> Spec:
        """A student of a family, with the family's own dim unless one is given."""
        default = inspect.signature(FAMILIES[family]).parameters["dim"].default
        return Spec(family, {"dim": dim or default})

    def served(self, spec: Spec, params: Params) -> Params:
        """The parameters that are compressed and stored, such as the vectors that two towers compute."""
        served = self.model(spec).served
        return params if served is None else jax.jit(served)(params)

    def served_spec(self, spec: Spec) -> Spec:
        """The model whose parameters those are."""
        model = self.model(spec)
        if model.served is None:
            return spec
        shapes = jax.eval_shape(lambda key: self.served(spec, model.init(key)), jax.random.key(0))
        return Spec("mf", {"dim": shapes["tables"]["item"].shape[1]})

    def everything(self) -> Dataset:
        """The data of a run that repeats this one on all events."""
        return self.dataset.everything()

    # -- learning ----------------------------------------------------------------------------------------------------

    def method(self, name: str, model: Model) -> Method:
        """How a student learns from a teacher."""
        return METHODS[name](self.dataset, model)

    def check(self, teacher: Spec, student: Spec, method: str) -> None:
        """Refuses a teacher that lacks what the method needs."""
        model = self.model(student)
        distillation.check_needs(self.method(method, model), self.model(teacher), method)

    def knowledge(self, teacher: Model, params: Params, student: Model, method: str) -> Knowledge:
        """What a method needs of the teacher, for the queries of a student."""
        return distillation.teach(teacher, params, self.dataset, student, method)

    def validation(self, model: Model) -> None:
        """The validation of a study: its default one."""

    # -- measuring ---------------------------------------------------------------------------------------------------

    def quality(self, scorer: Scorer | Scores, part: str) -> Quality:
        """Metrics of each evaluated user of ``valid`` or ``test``."""
        return retrieval.quality(scorer, self.dataset, getattr(self.dataset, part), k=K)

    def valid(self, model: Model, params: Params) -> float:
        """The validation metric."""
        return float(self.by_unit(model, params).mean())

    def by_unit(self, model: Model, params: Params) -> np.ndarray:
        """``[users]``, the validation NDCG by which students are compared."""
        return self.quality(model.scorer(params), "valid").ndcg

    def scorer(self, model: Model, params: Params) -> Scorer:
        """What :meth:`row` measures, of dense parameters."""
        return model.scorer(params)

    def served_scorer(self, model: Artifact) -> Scores:
        """What :meth:`row` measures, of an artifact."""
        return lambda batch: model.scores(batch["user"], batch["history"])

    def row(self, scorers: Sequence[Scorer | Scores]) -> tuple[dict[str, Any], np.ndarray]:
        """The metrics of a row of the stage table, one scorer per seed, and ``[seeds, users]`` test NDCG."""
        test, valid = ([self.quality(scorer, part) for scorer in scorers] for part in ("test", "valid"))
        users = np.stack([found.ndcg for found in test]).astype(np.float32)
        return {**_by_seed(test, ""), **_by_seed(valid, "valid_")}, users

    def speed(self, model: Artifact | None) -> dict[str, float | None]:
        """Median milliseconds of one user's list, and users per second at 256 users a call; warm, in this process."""
        if model is None:
            return {"p50_ms": None, "users_per_second": None}

        def seconds(users: np.ndarray) -> float:
            start = time.perf_counter()
            model.top_k(users, k=K, exclude=model.seen)
            return time.perf_counter() - start

        users = np.arange(self.dataset.users)
        singles = [users[i % len(users), None] for i in range(SINGLES)]
        batches = [np.resize(np.roll(users, -i * BATCH), BATCH) for i in range(10)]
        one, many = (
            statistics.median([seconds(users) for users in [calls[0], *calls]][1:]) for calls in (singles, batches)
        )
        return {"p50_ms": 1e3 * one, "users_per_second": BATCH / many}

    def about(self) -> list[str]:
        """The data in words: its size, the split, and what was left out."""
        dataset, counts = self.dataset, {name: count for name, count in self.dataset.counts.items() if count}
        users, items = len(dataset.user_ids), dataset.items
        return [
            f"{len(dataset.log.items):,} interactions of {users:,} users with {items:,} items",
            f"split {self._rule}",
            ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()),
        ]

    def sizes(self) -> dict[str, Any]:
        """The data in numbers."""
        dataset = self.dataset
        return {
            "users": len(dataset.user_ids),
            "items": dataset.items,
            "interactions": len(dataset.log.items),
            "known_users": dataset.users,
            "counts": {
                **dataset.counts,
                "users_evaluated_in_valid": len(dataset.valid.user),
                "users_evaluated_in_test": len(dataset.test.user),
            },
        }

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def _parts(self, model: Model) -> dict[str, Any]:
        return {
            "kind": model.kind,
            "history_exponent": model.history_exponent,
            "user_ids": self.dataset.user_ids.tolist(),
            "item_ids": self.dataset.item_ids.tolist(),
            "titles": [str(title) for title in self.dataset.titles],
            "seen": self.dataset.log,
            "net": model.net,
            "known_users": np.arange(self.dataset.users),
        }

    def save(self, folder: Path, stored: Params, spec: Spec, about: Mapping[str, Any]) -> dict[str, Any]:
        """Writes stored parameters as an artifact, with the whole log's histories; returns its card."""
        model = self.model(spec)
        return artifact.save(folder, model.tables(stored), about=about, **self._parts(model))

    def packed_notes(self, model: Artifact) -> dict[str, Any]:
        """What the run that repeats this one needs of an artifact: nothing."""
        return {}

    def file_size(self, spec: Spec, stored: Params) -> int:
        """Bytes of the artifact's weights."""
        return artifact.file_size(self.model(spec).tables(stored))

    def in_memory(self, specs: Sequence[Spec], params: Params) -> Artifact | None:
        """The artifact of dense parameters; None for a model that an artifact cannot serve."""
        model = self.model(*specs)
        if model.kind is None:
            return None
        tables = {name: np.asarray(table) for name, table in model.tables(params).items()}
        return artifact.build(tables, **self._parts(model))


def _by_seed(found: Sequence[Quality], prefix: str) -> dict[str, Any]:
    """Means over users, and over seeds, under the names of the stage table."""
    means = [quality.means() for quality in found]
    row = {}
    for metric in ("ndcg", "recall", "tail_recall") if not prefix else ("ndcg",):
        row |= by_seed(f"{prefix}{metric}@{K}", [one[metric] for one in means])
    return row
