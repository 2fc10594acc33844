"""VBPR: factors of the items beside factors of their content."""

import jax.numpy as jnp

from recjax import grid
from recjax.data import Dataset
from recjax.errors import InputError
from recjax.families._model import Model, unit_length
from recjax.families.mf import Learn, by_vectors
from recjax.families.objectives import Negatives, sampled_softmax
from recjax.models import Vbpr
from recjax.models import vbpr as content_factors

SCHEDULE = grid.Schedule(epochs=40, batch_size=1024, chunk_epochs=4, patience=3)


def vbpr(
    dataset: Dataset, dim: int = 32, *, content: int = 32, cosine: bool = False, learn: Learn | None = None
) -> Model:
    """VBPR, by default trained by a softmax over negatives that rows share; vectors with content folded in are served.

    Args:
      dataset: with side features of items.
      dim: length of the factors.
      content: length of the factors of content.
      cosine: see :func:`recjax.families.mf`.
      learn: see :func:`recjax.families.mf`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.vbpr`.

    Raises:
      InputError: if the data set has no side features of items.
    """
    features = dataset.item_features
    if features is None or not features.names:
        raise InputError("option --item-table: expected side features of items for vbpr, got none")
    config = Vbpr(dataset.users, dataset.items, features.values.shape[1], dim, content)
    model = content_factors(config, jnp.asarray(features.values))
    model = unit_length(model) if cosine else model
    objective = (learn or _by_softmax)(dataset, model)
    return by_vectors(dataset, model, objective, dim=dim + content + cosine, bias=not cosine)


def _by_softmax(dataset: Dataset, model):
    objective = sampled_softmax(dataset, model, SCHEDULE, negatives=Negatives(1000, 1024))
    return objective._replace(hparams=objective.hparams._replace(learning_rate=3e-3))
