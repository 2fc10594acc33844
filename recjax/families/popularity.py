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
    counts = jnp.asarray(dataset.popularity()[:, None], jnp.float32)
    params = {"tables": {"item_bias": counts}, "net": {}, "fixed": {}, "aids": {}}

    def score(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        bias = params["tables"]["item_bias"][:, 0]
        if candidates is not None:
            return bias[candidates]
        return jnp.broadcast_to(bias, (len(batch["user"]), len(bias)))

    return closed_form(dataset, params, score, length=0, kind="popularity")
