"""Studies: a grid of models of one family, alone or taught by any teacher, trained as one compiled program."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import compress, data, embed, evaluate, grid, train
from recjax.data import Dataset, Stream
from recjax.families import Model, Objective
from recjax.models import Params
from recjax.teacher import Knowledge

NO_HPARAMS = collections.namedtuple("NO_HPARAMS", "")()


class Needs(NamedTuple):
    """What a method needs of a teacher.

    Attributes:
      length: items of a list; None for scores of the whole catalog.
      masked: whether a list leaves out the items of the query's history.
      vectors: whether the teacher's hidden activations are needed; see :attr:`recjax.families.Model.vectors`.
    """

    length: int | None = None
    masked: bool = False
    vectors: bool = False


def no_parameters(key: jax.Array, knowledge: Knowledge) -> dict[str, Any]:
    """No auxiliary parameters."""
    return {}


class Method(NamedTuple):
    """A way to learn from a teacher.

    Attributes:
      gather: ``gather(data, ids, key) -> taught``, of :class:`Taught` data: a dict of what a step learns from the
        teacher about some queries. Members of one seed share it. Queries that the teacher has nothing for are marked by
        ``taught["covered"] [queries]`` bool: they are learned from the labels alone, at full weight.
      loss: ``loss(score, params, taught, hparams) -> [queries]``, with the ``score`` of the student. Finite where a
        query isn't covered.
      hparams: a NamedTuple of the method's numbers, each of which may be swept.
      needs: what is computed of a teacher.
      init: ``init(key, knowledge) -> auxiliary``, parameters such as projections that join ``params["auxiliary"]``:
        they train with the student, by its optimizer, and are dropped when it is packed.
    """

    gather: Callable[[Any, jax.Array, jax.Array], Any]
    loss: Callable[..., jax.Array]
    hparams: Any
    needs: Needs = Needs()
    init: Callable[[jax.Array, Knowledge], dict[str, Any]] = no_parameters


class Taught(NamedTuple):
    """What a method gathers from.

    Attributes:
      log: the log of the data set; None of a CTR task.
      queries: those of the student.
      knowledge: the teacher's scores for them, a row a query.
    """

    log: Any
    queries: Any
    knowledge: Knowledge


class Compression(NamedTuple):
    """A transform and its hyperparameters, each of which may be swept.

    Attributes:
      transform: of the parameters, inside the step.
      hparams: a NamedTuple of numbers.
    """

    transform: compress.Transform
    hparams: Any


def silent(*_: Any) -> None:
    """A progress that is not shown."""


class Training(NamedTuple):
    """For how long a grid trains, and where it leaves its checkpoints.

    Attributes:
      schedule: for how long; None for that of the model's objective.
      settling: share of the steps before which a validation doesn't count.
      folder: see :func:`recjax.grid.fit`.
      progress: see there.
      planned: see there.
    """

    schedule: grid.Schedule | None = None
    settling: float = 0.0
    folder: Path | None = None
    progress: Callable[[int, int, float | None], None] = silent
    planned: Callable[[grid.Plan], None] = silent


PLAIN = Training()
NOTHING = Compression(compress.chain(), NO_HPARAMS)


@functools.cache
def _hparams_type(fields: tuple[str, ...]) -> type:
    return collections.namedtuple("Hparams", fields)


def merged(*records: Any) -> Any:
    """The fields of several NamedTuples in one.

    Raises:
      ValueError: if two of them have a field of the same name.

    Examples:
      >>> from typing import NamedTuple
      >>> class One(NamedTuple):
      ...     alpha: float = 0.5
      >>> class Other(NamedTuple):
      ...     bits: int = 4
      >>> merged(One(), Other())
      Hparams(alpha=0.5, bits=4)
    """
    names = [name for record in records for name in record._fields]
    if len(set(names)) < len(names):
        raise ValueError(f"expected every hyperparameter once, got {names}")
    return _hparams_type(tuple(names))(*(value for record in records for value in record))


class _Share(NamedTuple):
    alpha: Any = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """Models of one family on one data set: what their compiled programs depend on.

    The teacher and the grid are arguments of :meth:`run`: a second teacher and other values compile nothing.

    Attributes:
      dataset: what is learned from and validated on.
      model: what is trained; see :mod:`recjax.families`.
      method: how it learns from a teacher; None for models that learn from the labels alone.
      compression: what happens to the parameters inside the step.
      validate: ``validate(params, held_out) -> scalar``, higher is better, and its ``held_out``.
      taught: queries a step, where they are drawn apart from the examples.
    """

    dataset: Any
    model: Model
    method: Method | None = None
    compression: Compression = NOTHING
    validate: tuple[Callable[[Any, Any], jax.Array], Any] | None = None
    taught: int = 64

    @functools.cached_property
    def hparams(self) -> Any:
        """The hyperparameters with their defaults: those of the objective, of the method and of the compression."""
        share = () if self.method is None else (_Share(), self.method.hparams)
        return merged(self.objective.hparams, *share, self.compression.hparams)

    @property
    def objective(self) -> Objective:
        """How the model learns on its own."""
        if self.model.objective is None:
            raise ValueError("expected a model that is trained, got one in closed form")
        return self.model.objective

    @functools.cached_property
    def recipe(self) -> train.Recipe:
        """The step of a member."""
        return train.Recipe(
            loss=self._loss,
            optimizer=self.objective.optimizer,
            transform=self.compression.transform,
            gather=self._gather,
            compiler_options=self.objective.compiler_options,
        )

    def _gather(self, arrays: Any, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        examples, taught = arrays
        mine, others, teachers = (jax.random.fold_in(key, number) for number in range(3))
        batch = {"examples": self.objective.gather(examples, ids, mine)}
        if taught is None or self.method is None:
            return batch
        if not self.objective.by_query:
            ids = jax.random.randint(others, (self.taught,), 0, len(jax.tree.leaves(taught.queries)[0]))
            queries, length = jax.tree.map(lambda x: jnp.asarray(x)[ids], taught.queries), self.model.length
            queries = queries if length is None else data.history_batch(taught.log, queries, length)
        else:
            queries = batch["examples"]  # of the same users, so that the compiler scores them once
        return {**batch, "taught": {"batch": queries, **self.method.gather(taught, ids, teachers)}}

    def _loss(self, params: Params, batch: dict[str, Any], hparams: Any, key: jax.Array) -> jax.Array:
        alone = self.objective.loss(params, batch["examples"], hparams, key)
        if "taught" not in batch or self.method is None:
            return alone.mean()
        distilled = self.method.loss(self.model.score, params, batch["taught"], hparams)
        alpha = hparams.alpha * batch["taught"].get("covered", True)
        return ((1 - alpha) * alone + alpha * distilled).mean()

    def run(
        self,
        settings: Mapping[str, np.ndarray],
        knowledge: Knowledge | None = None,
        *,
        fixed: Mapping[str, float] = {},
        starts: Params | None = None,
        training: Training = PLAIN,
    ) -> "Result":
        """Trains a grid of members.

        Args:
          settings: values of any of :attr:`hparams`, and of ``seed``; see :func:`recjax.grid.product`.
          knowledge: the teacher's scores for the queries of the model; None trains on the labels alone.
          fixed: hyperparameters that are not swept, in place of their defaults.
          starts: parameters, trained leaves ``[seeds, ...]``; None initializes each seed.
          training: for how long; see :class:`Training`.

        Returns:
          The :class:`Result`.
        """
        schedule = training.schedule or self.objective.schedule
        objective, seeds = self.objective, np.unique(settings.get("seed", np.zeros(1, np.int64)))
        windows = objective.data.windows if isinstance(objective.data, Stream) else 1
        per_epoch = windows * (objective.rows // min(schedule.batch_size, objective.rows))
        steps = float(schedule.epochs * per_epoch)
        if training.settling:
            schedule = dataclasses.replace(schedule, count_from=math.ceil(training.settling * steps))
        defaults = self.hparams._replace(**fixed)
        if "steps" in self.hparams._fields:
            defaults = defaults._replace(steps=steps)
        population = grid.population(defaults, settings)
        starts = initial(self.model, seeds) if starts is None else starts
        if self.method is not None and knowledge is not None:
            starts = _with_auxiliary(starts, self.method, knowledge, seeds)
        log = self.dataset.log if isinstance(self.dataset, Dataset) else None
        taught = None if knowledge is None else Taught(log, self.model.queries, knowledge)
        validate, held_out = self.validate or self.default_validation(len(next(iter(settings.values()))))
        fitted = grid.fit(
            self.recipe,
            starts,
            population,
            data=objective.data if isinstance(objective.data, Stream) else (objective.data, taught),
            rows=jnp.arange(objective.rows, dtype=jnp.int32),
            validate=validate,
            held_out=held_out,
            schedule=schedule,
            folder=training.folder,
            progress=training.progress,
            planned=training.planned,
        )
        return Result(self, settings, population, fitted, starts["fixed"])

    def default_validation(self, members: int) -> tuple[Callable[[Any, Any], jax.Array], Any]:
        """NDCG@10 of the validation events, in blocks that so many members fit into memory with."""
        block = max(1, min(256, 2**26 // (members * self.dataset.items)))
        return evaluate.validation(self.model.score, self.dataset, length=self.model.length or 0, k=10, block=block)


def initial(model: Model, seeds: np.ndarray) -> Params:
    """Fresh parameters, trained leaves ``[seeds, ...]``."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 7))(jnp.asarray(seeds))
    params = jax.jit(jax.vmap(model.init))(keys)
    return {**params, "fixed": jax.tree.map(lambda leaf: leaf[0], params["fixed"])}


def _with_auxiliary(starts: Params, method: Method, knowledge: Knowledge, seeds: np.ndarray) -> Params:
    """Parameters and fresh auxiliary ones of a method, ``[seeds, ...]``."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 8))(jnp.asarray(seeds))
    fresh = jax.vmap(lambda key: method.init(key, knowledge))(keys)
    return {**starts, "auxiliary": {**starts["auxiliary"], **fresh}}


class Result(NamedTuple):
    """A trained grid.

    Attributes:
      study: what was trained.
      settings: the grid.
      population: its members.
      fitted: see :class:`recjax.grid.Fitted`.
      fixed: the parameters that are not trained.
    """

    study: Study
    settings: Mapping[str, np.ndarray]
    population: grid.Population
    fitted: grid.Fitted
    fixed: Any

    @property
    def best(self) -> int:
        """The setting with the highest mean validation metric."""
        return int(self.fitted.valid.mean(axis=0).argmax())

    def hparams(self, seed: int, setting: int) -> Any:
        """The hyperparameters of a member, by its places."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[seed, setting]), self.population.hparams)

    def params(self, seed: int, setting: int) -> Params:
        """The effective parameters of a member, by its places: as they are read, compression included."""
        parts = (self.fitted.params, self.fitted.learned, self.fitted.compression)
        params, learned, state = jax.tree.map(lambda leaf: jnp.asarray(leaf[seed, setting]), parts)
        transform = self.study.compression.transform
        whole = transform.apply({**params, "fixed": self.fixed}, learned, state, self.hparams(seed, setting))
        return {**whole, "tables": {name: embed.lookup(table) for name, table in whole["tables"].items()}}

    def members(self, setting: int) -> Iterator[Params]:
        """The effective parameters of a setting, seed by seed."""
        return (self.params(seed, setting) for seed in range(len(self.population.seeds)))
