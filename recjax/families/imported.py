"""A teacher from files: scores, ranked lists or embeddings that another system wrote."""

import jax
import jax.numpy as jnp

from recjax.data import Dataset
from recjax.families._model import Batch, Model
from recjax.models import Params
from recjax.teacher import read_teacher


def imported(dataset: Dataset, *, path: str) -> Model:
    """A model whose scores are read from files; see :func:`recjax.teacher.read_teacher` for what they may be.

    A user for whom the files have nothing has the same score for every item. Outside a user's list all items have one
    score, below that of the list's last item.

    Args:
      dataset: its users and items are meant.
      path: a table of scores or lists, or a folder of embeddings.

    Returns:
      A :class:`~recjax.families.Model` that ignores histories.

    Raises:
      InputError: for files that are none of these.
    """
    found = read_teacher(path, dataset.user_ids, dataset.item_ids)

    def init(key: jax.Array) -> Params:
        return {"tables": {}, "net": {}, "fixed": jax.tree.map(jnp.asarray, found.arrays), "auxiliary": {}}

    def score(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        arrays, user = params["fixed"], batch["user"]
        if "vectors" in arrays:
            scores = arrays["vectors"]["user"][user] @ arrays["vectors"]["item"].T
        else:
            items, values = arrays["lists"]["items"][user], arrays["lists"]["scores"][user]
            outside = jnp.min(values, axis=1, where=items >= 0, initial=jnp.inf) - MARGIN
            outside = jnp.where(jnp.isfinite(outside), outside, 0)
            scores = jnp.broadcast_to(outside[:, None], (len(user), dataset.items))
            places = jnp.arange(len(user))[:, None], jnp.where(items >= 0, items, dataset.items)
            scores = scores.at[places].set(values, mode="drop")
        return scores if candidates is None else jnp.take_along_axis(scores, candidates, axis=1)

    return Model(init, score, 0, dataset.last)


MARGIN = 1e-3  # between a list's last item and the items outside it
