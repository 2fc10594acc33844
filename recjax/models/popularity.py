"""Popularity, the non-personalized baseline."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel


def popularity(items: int) -> RetrievalModel:
    """Popularity as a retrieval model with one dimension: the query is 1, an item vector is its count.

    The table is ``item [items, 1]``, which ``init`` sets to 0 and :func:`fit_popularity` computes.
    """

    def init(key: jax.Array) -> Params:
        return {"tables": {"item": jnp.zeros((items, 1))}, "net": {}, "fixed": {}, "auxiliary": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return jnp.ones((*jnp.shape(batch["user"]), 1))

    def all_or_some(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["tables"]["item"], ids)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return {"item": batch["item"]} if "item" in batch else None

    return RetrievalModel(init, query, all_or_some, hidden_activations, touched)


def fit_popularity(item: np.ndarray, *, items: int) -> Params:
    """Parameters of :func:`popularity` from ``item [rows]``, the item of each row of a log.

    Examples:
      >>> fit_popularity(np.array([2, 0, 2]), items=4)["tables"]["item"].ravel().tolist()
      [1.0, 0.0, 2.0, 0.0]
    """
    counts = np.bincount(item, minlength=items).astype(np.float32)
    return {"tables": {"item": counts[:, None]}, "net": {}, "fixed": {}, "auxiliary": {}}
