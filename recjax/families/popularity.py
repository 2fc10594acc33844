"""Popularity: the items that most users have."""

import jax
import jax.numpy as jnp

from recjax.data import Dataset
from recjax.families._model import Batch, Model, closed_form
from recjax.models import Params


def popularity(dataset: Dataset) -> Model:
    """The number of training events of every item, the same scores for every query.

    Args:
      dataset: its training events are counted.

    Returns:
      A :class:`~recjax.families.Model` with the table ``item_bias [items, 1]``.
    """

    def fit() -> Params:
        counts = jnp.asarray(dataset.popularity()[:, None], jnp.float32)
        return {"tables": {"item_bias": counts}, "net": {}, "fixed": {}, "auxiliary": {}}

    def score(params: Params, batch: Batch) -> jax.Array:
        return jnp.broadcast_to(params["tables"]["item_bias"][:, 0], (len(batch["user"]), dataset.items))

    return closed_form(dataset, fit, score, length=0, kind="popularity")
