"""LightGCN: factors that are averaged along the graph of training events."""

import dataclasses
from collections.abc import Callable

from recjax import grid
from recjax.data import Dataset
from recjax.families._model import Model, Objective, unit_length
from recjax.families.mf import by_vectors
from recjax.families.objectives import Negatives, sampled_softmax
from recjax.models import LightGcn, RetrievalModel, propagate
from recjax.models import lightgcn as graph

SCHEDULE = grid.Schedule(epochs=16, batch_size=4096)
# learn(dataset, model, flat, prepare): the model, one that scores what `prepare` has propagated, and `prepare` itself
Learn = Callable[..., Objective]


def lightgcn(
    dataset: Dataset,
    dim: int = 64,
    *,
    layers: int = 3,
    scale: float = 0.1,
    cosine: bool = False,
    learn: Learn | None = None,
) -> Model:
    """LightGCN, by default trained by a softmax over shared negatives; the propagated vectors are served.

    The batch is large, as a step goes along the whole graph whatever its batch.

    Args:
      dataset: its training events are the edges.
      dim: length of a vector.
      layers: steps along the graph.
      scale: standard deviation of the initial entries.
      cosine: scores are cosines of the propagated vectors rather than inner products.
      learn: ``learn(dataset, model, flat, prepare)`` gives the objective, where ``flat`` scores the parameters that
        ``prepare`` has propagated, so that a step propagates once.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.lightgcn`.
    """
    user, item = dataset.training_users, dataset.log.items[dataset.training_rows]
    config = LightGcn(dataset.users, dataset.items, dim, layers, scale)
    model = graph(config, user, item)
    flat = graph(dataclasses.replace(config, layers=0), user, item)
    if cosine:
        model, flat = unit_length(model), unit_length(flat)
    objective = (learn or by_softmax)(dataset, model, flat, lambda params: propagate(params, layers))
    return by_vectors(dataset, model, objective, dim=dim, bias=False)


def by_softmax(dataset: Dataset, model: RetrievalModel, flat: RetrievalModel, prepare: Callable) -> Objective:
    """The default objective: inner products, and an L2 penalty of the vectors before they are propagated."""
    negatives = Negatives(2048, SCHEDULE.batch_size)
    objective = sampled_softmax(dataset, flat, SCHEDULE, negatives=negatives, prepare=prepare)
    hparams = objective.hparams._replace(learning_rate=2e-2, l2=3e-2, loss_temperature=1.0)
    return objective._replace(hparams=hparams)
