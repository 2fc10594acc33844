"""The teacher of a run: candidates in closed form, trained or from files, and their ensemble, by validation."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import evaluate, families, grid
from recjax.errors import InputError
from recjax.models import Params
from recjax.pipeline.config import K, is_file
from recjax.pipeline.job import Job, Made
from recjax.pipeline.retrieval import Retrieval
from recjax.pipeline.specs import Spec
from recjax.pipeline.training import Trainer, for_epochs, told
from recjax.study import NOTHING
from recjax.tasks import compression
from recjax.teacher import read_teacher

CLOSED_ROWS = 8_000  # of the matrix that EASE inverts, at most
SEEDS = 1_000  # the first seed of a teacher's ensemble: none of the students', who would be taught by what they became
SHARES = 4  # an ensemble's weights are multiples of one over this
DIM = ("mf", "two-tower")  # families whose dim is --teacher-dim


class Candidate(NamedTuple):
    """A teacher and what it reaches.

    Attributes:
      spec: the model.
      params: its parameters, as they are stored.
      valid: its validation metric.
      notes: its hyperparameters, and the members of its grid.
    """

    spec: Spec
    params: Params
    valid: float
    notes: dict[str, Any]


class Teachers:
    """Finds the teacher of a job."""

    def __init__(self, job: Job, task: Retrieval, trainer: Trainer):
        self.job, self.task, self.trainer = job, task, trainer

    def baseline(self) -> Made:
        """The most popular items."""
        spec = Spec("popularity", {})
        return Made([self.task.model(spec).init(jax.random.key(0))], [spec], {})

    def names(self) -> list[str]:
        """The candidates; refuses one that the log is too large for, or whose files are not readable."""
        dataset, names = self.task.dataset, list(self.job.config.teacher)
        rows = min(dataset.users, dataset.items)
        if names == ["auto"]:
            return ["ease", "mf"] if rows <= CLOSED_ROWS else ["mf"]
        if "ease" in names and rows > CLOSED_ROWS:
            expected = f"another family where both users and items are above {CLOSED_ROWS:,}"
            raise InputError(f"option --teacher: expected {expected}, got ease for {rows:,}")
        return names

    def about(self) -> Iterator[str]:
        """What the files of teachers lack."""
        for name in filter(is_file, self.names()):
            counts = read_teacher(name, self.task.dataset.user_ids, self.task.dataset.item_ids).counts
            yield f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {count:,}" for key, count in counts.items())

    def best(self) -> Made:
        """The best weighted sum of the candidates on validation, a single one included."""
        chosen = self.job.chosen
        names = self.names() if chosen is None else [part["family"] for part in chosen["teacher"]["parts"]]
        found = [self._candidate(name) for name in names]
        if len(found) == 1:
            weights = np.ones(1)
        elif chosen is None:
            weights = self._weights(found)
        else:
            weights = np.array([part["weight"] for part in chosen["teacher"]["parts"]])
        parts = [
            {"family": name, "weight": float(weight), **{key: one.notes[key] for key in ("hyperparameters", "epochs")}}
            for name, weight, one in zip(names, weights, found, strict=True)
        ]
        kept = np.flatnonzero(weights)
        members = [member for one in found for member in one.notes["members"]]
        notes = {"parts": [parts[i] for i in kept], "members": members}
        if len(kept) == 1:
            one = found[kept[0]]
            return Made([one.params], [one.spec], {**one.notes, **notes})
        params: Params = {str(number): found[i].params for number, i in enumerate(kept)}
        about = {"model": " + ".join(f"{weights[i]:g} {names[i]}" for i in kept)}
        about |= {
            name: value for i in kept for name, value in found[i].notes["hyperparameters"].items() if name != "model"
        }
        shares = jnp.asarray(weights[kept], jnp.float32)
        return Made([{**params, "weights": shares}], [found[i].spec for i in kept], {**notes, "hyperparameters": about})

    def _weights(self, found: Sequence[Candidate]) -> np.ndarray:
        """``[candidates]``, the shares of the ensemble that validates best; of equals the one of the fewest members."""
        shares = [share for share in itertools.product(range(SHARES + 1), repeat=len(found)) if sum(share) == SHARES]
        shares = np.array(sorted(shares, key=np.count_nonzero)) / SHARES
        model = families.ensemble([self.task.model(one.spec) for one in found])
        params = {str(number): compression.dense(one.params) for number, one in enumerate(found)}
        dataset, length = self.task.dataset, model.length or 0
        ndcg, held_out = evaluate.validation(model.score, dataset, length=length, k=K, block=64)
        axes = {name: 0 if name == "weights" else None for name in (*params, "weights")}
        several = jax.jit(jax.vmap(ndcg, in_axes=(axes, None)))
        reached = np.asarray(several({**params, "weights": jnp.asarray(shares, jnp.float32)}, held_out))
        best = int(reached.argmax())
        text = " + ".join(
            f"{share:g} {one.spec.family}" for share, one in zip(shares[best], found, strict=True) if share
        )
        self.job.listener.advance("teacher", 1, 1, f"ensemble {text}, valid NDCG@{K} {reached[best]:.4f}")
        return shares[best]

    def _chosen(self, family: str) -> dict[str, Any] | None:
        """What the run that is repeated chose for a family."""
        if self.job.chosen is None:
            return None
        return next(part for part in self.job.chosen["teacher"]["parts"] if part["family"] == family)

    def _candidate(self, name: str) -> Candidate:
        spec = Spec(name, {})
        if is_file(name):
            model = self.task.model(spec)
            params = model.init(jax.random.key(0))
            notes = {"hyperparameters": {"model": name}, "members": [], "epochs": 0}
            return Candidate(spec, params, self._valid(spec, params), notes)
        if self.task.model(spec).objective is None:
            axes = {"ease": {"regularization": self.job.config.regularization}}
            knn = {"neighbors": (20, 100), "shrinkage": (0.0, 10.0)}
            return self._closed(name, axes.get(name, knn if name.endswith("knn") else {}))
        return self._trained(name)

    def _valid(self, spec: Spec, params: Params) -> float:
        return 0.0 if self.job.chosen is not None else self.task.valid(self.task.model(spec), params)

    def _closed(self, family: str, axes: Mapping[str, Sequence[float]]) -> Candidate:
        """A closed form with its best settings."""
        chosen = self._chosen(family)
        kinds = {name: type(values[0]) for name, values in axes.items()}
        if chosen is not None:
            axes = {name: (chosen["hyperparameters"][name],) for name in axes}
        columns = grid.product(**axes) if axes else {}
        count = len(next(iter(columns.values()))) if axes else 1
        settings = [{name: kinds[name](column[i]) for name, column in columns.items()} for i in range(count)]
        best: tuple[float, Params, dict[str, Any]] | None = None
        members = []
        for number, setting in enumerate(settings):
            spec = Spec(family, setting)
            params = self.task.model(spec).init(jax.random.key(0))
            valid = self._valid(spec, params)
            if best is None or valid > best[0]:
                best = valid, params, setting
            told = {"member": number, "grid": f"teacher_{family}", "seed": 0, **setting}
            members.append({**told, f"valid_ndcg@{K}": valid})
            text = " ".join(f"{value:g}" for value in setting.values())
            self.job.listener.advance("teacher", number + 1, count, f"{family} {text}, valid NDCG@{K} {valid:.4f}")
        assert best is not None
        place = settings.index(best[2])
        members = [{**member, "chosen": member["member"] == place} for member in members]
        notes = {"hyperparameters": {"model": family, **best[2]}, "members": members, "epochs": 0}
        return Candidate(Spec(family, best[2]), best[1], best[0], notes)

    def _trained(self, family: str) -> Candidate:
        """A teacher that is trained; of models with user vectors an ensemble of seeds, the sum of their scores.

        The setting is chosen by what the ensemble reaches on validation, which is not what its members reach.
        """
        config, chosen = self.job.config, self._chosen(family)
        spec = Spec(family, {"dim": config.teacher_dim} if family in DIM else {})
        model = self.task.model(spec)
        assert model.objective is not None
        if "weight_decay" in model.objective.alone:
            decays = config.weight_decay or model.objective.alone["weight_decay"]
            swept = {"learning_rate": (config.teacher_learning_rate,), "weight_decay": decays}
        else:
            swept = {"learning_rate": (float(model.objective.hparams.learning_rate),)}
        training = self.trainer.training("teacher", model)
        if chosen is not None:
            swept = {name: (chosen["hyperparameters"][name],) for name in swept}
            training = for_epochs(training, chosen["epochs"])
        settings = grid.product(**swept)
        members = config.teacher_members if model.served_by or family == "mf" else 1
        study = self.trainer.study(repr(spec), self.task.dataset, model, lambda: (None, NOTHING), None)
        result = study.run(grid.product(settings, seed=range(SEEDS, SEEDS + members)), training=training)
        tried = []
        for setting in range(len(next(iter(settings.values())))):
            parts = [self.task.served(spec, params) for params in result.members(setting)]
            made, params = self.task.served_spec(spec), parts[0]
            if len(parts) > 1:
                params = {**params, "tables": _side_by_side([part["tables"] for part in parts])}
                made = Spec("mf", {"dim": params["tables"]["user"].shape[1]})
            valid = self._valid(made, params)
            notes = told(f"teacher_{family}", result, settings, setting, training, self.task.metric)
            about = {"model": f"{members} x {family}", **spec.size, **notes["hyperparameters"]}
            tried.append(Candidate(made, compression.packed(params, None), valid, {**notes, "hyperparameters": about}))
        return max(tried, key=lambda one: one.valid)


def _side_by_side(tables: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Factorizations as one whose scores are the sum of theirs."""
    vectors = {name: jnp.concatenate([part[name] for part in tables], axis=1) for name in ("user", "item")}
    return {**vectors, "item_bias": sum((part["item_bias"] for part in tables), start=jnp.zeros(()))}
