"""What every family is: a function from a data set to a model, with all that it takes to learn and to serve it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax import grid
from recjax.data import Dataset, Queries
from recjax.evaluate import Scorer
from recjax.models import Params, RetrievalModel
from recjax.models.simplex import unit

Batch = dict[str, jax.Array]


class Objective(NamedTuple):
    """How a model learns from the labels of a data set.

    Attributes:
      data: a pytree of arrays, or a :class:`recjax.data.Stream`, what examples are gathered from.
      rows: how many examples there are.
      gather: ``gather(data, ids, key) -> examples``; negatives are drawn here. Members of one seed share it.
      loss: ``loss(params, examples, hparams, key) -> scalar``, or ``[examples]`` where ``by_query``, so that those
        that no teacher covers keep the full weight of their labels.
      hparams: a NamedTuple of numbers, ``learning_rate`` and ``steps`` among them, each of which may be swept.
      optimizer: ``optimizer(hparams) -> optax.GradientTransformation``.
      schedule: for how long, and how many examples a step.
      by_query: whether example ``i`` is query ``i`` of the model. Labels and teacher are then of the same users in a
        step; otherwise the queries are drawn apart from the examples.
      alone: values of hyperparameters to try where the model learns from the labels alone.
      distilled: values to try where it learns from a teacher too; ``alpha`` is the teacher's share in the loss.
      compiler_options: see :attr:`recjax.train.Recipe.compiler_options`.
    """

    data: Any
    rows: int
    gather: Callable[[Any, jax.Array, jax.Array], Any]
    loss: Callable[[Params, Any, Any, jax.Array], jax.Array]
    hparams: Any
    optimizer: Callable[[Any], optax.GradientTransformation]
    schedule: grid.Schedule
    by_query: bool = False
    alone: Mapping[str, tuple[float, ...]] = {}
    distilled: Mapping[str, tuple[float, ...]] = {}
    compiler_options: tuple[tuple[str, str], ...] = ()


def _own_tables(stored: Params) -> dict[str, Any]:
    return stored["tables"]


class Model(NamedTuple):
    """A model on a data set.

    Attributes:
      init: ``init(key) -> params``; the fitted ones of a closed form.
      score: ``score(params, batch, candidates=None) -> [queries, items]``, or ``[queries, candidates]`` where
        ``candidates [queries, candidates]`` are given. A batch is that of :func:`recjax.data.history_batch`, or
        the rows of a log of clicks.
      length: events of a history that the model reads; 0 for one that knows its users by their vectors, None where
        queries are batches as they are.
      queries: what a teacher's scores are computed for.
      objective: how the model learns on its own; None for a closed form.
      kind: how served parameters are scored, a kind of :mod:`recjax.artifact`; None where they can't be served yet.
      served: ``served(params) -> params``, what is compressed and stored, such as the vectors that two towers
        compute; None where it is the parameters themselves.
      served_by: the model whose parameters those are; None where it is the model itself.
      tables: ``tables(stored) -> {name: table}``, the tables of an artifact of that kind, from parameters as they are
        stored.
      history_exponent: see :func:`recjax.artifact.save`.
      net: of kind ``sequence``, what the card says of the net; see :func:`recjax.artifact.save`.
      vectors: ``vectors(params, batch, items=None) -> ([queries, dim], [items, dim])``, the hidden activations whose
        inner products are the scores, of the whole catalog or of ``items [n]``; None where there are none.
    """

    init: Callable[[jax.Array], Params]
    score: Callable[..., jax.Array]
    length: int | None
    queries: Any
    objective: Objective | None = None
    kind: str | None = None
    served: Callable[[Params], Params] | None = None
    served_by: "Model | None" = None
    tables: Callable[[Params], dict[str, Any]] = _own_tables
    history_exponent: float = 0.0
    net: Mapping[str, Any] = {}
    vectors: Callable[..., tuple[jax.Array, jax.Array]] | None = None

    def scorer(self, params: Params) -> Scorer:
        """The model with its parameters, for :func:`recjax.evaluate.rank` and :func:`recjax.teacher.knowledge`."""
        return Scorer(self.score, params, self.length or 0)


def closed_form(
    dataset: Dataset, fit: Callable[[], Params], score: Callable[..., jax.Array], *, length: int, kind: str | None
) -> Model:
    """A model that is fitted without steps, when its ``init`` is called; its ``score`` needs no fit.

    Args:
      dataset: what it is fitted on.
      fit: ``fit() -> params``.
      score: ``score(params, batch) -> [queries, items]``.
      length: see :class:`Model`.
      kind: see :class:`Model`.

    Returns:
      The :class:`Model`.
    """

    def of_candidates(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        scores = score(params, batch)
        return scores if candidates is None else jnp.take_along_axis(scores, candidates, axis=1)

    return Model(lambda key: fit(), of_candidates, length, dataset.last, kind=kind)


def inner_product(model: RetrievalModel) -> Callable[..., jax.Array]:
    """The ``score`` of a model of :mod:`recjax.models`."""

    def score(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        query = model.query(params, batch)
        if candidates is None:
            return query @ model.items(params).T
        return jnp.einsum("qd,qcd->qc", query, model.items(params, candidates))

    return score


def inner_vectors(model: RetrievalModel) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The ``vectors`` of a model of :mod:`recjax.models`."""
    return lambda params, batch, items=None: (model.query(params, batch), model.items(params, items))


def unit_length(model: RetrievalModel) -> RetrievalModel:
    """The model with cosines in place of inner products: its queries and items have length 1."""
    return model._replace(query=lambda *of: unit(model.query(*of)), items=lambda *of: unit(model.items(*of)))


def moments(dataset: Dataset, count: int) -> Queries:
    """Some moments of every user's training events, evenly spread; the last one is after all of them.

    Args:
      dataset: its training events.
      count: moments of a user.

    Returns:
      ``[count * users]`` queries, all users in turn.
    """
    begin, end = dataset.log.offsets[: dataset.users], dataset.train_end[: dataset.users]
    ends = end - (end - begin) * np.arange(count)[:, None] // count
    return Queries(np.tile(np.arange(dataset.users, dtype=np.int32), count), ends.ravel().astype(np.int32))
