"""EASE: a linear model of histories in closed form, by an inverse of items or of users, whichever are fewer."""

import jax
import jax.numpy as jnp
import scipy.sparse as sp

from recjax import models
from recjax.data import Dataset
from recjax.families._model import Batch, Model, closed_form
from recjax.families.content import longest
from recjax.families.neighbors import columns, sparse_product
from recjax.models import Params
from recjax.models.history import multi_hot


def ease(dataset: Dataset, *, regularization: float = 300.0) -> Model:
    r"""EASE on the weighted training events; where users are fewer than items, no item-item table is made.

    Args:
      dataset: its training events are fitted.
      regularization: :math:`\lambda > 0`.

    Returns:
      A :class:`~recjax.families.Model`.

    References:
      Steck, `Embarrassingly Shallow Autoencoders for Sparse Data <https://arxiv.org/abs/1905.03375>`_, 2019.
    """
    by_items = dataset.items <= dataset.users

    def fit() -> Params:
        fitted = models.fit_ease(dataset.matrix(weighted=True), regularization=regularization)
        params = {"tables": {}, "net": {}, "fixed": {}, "auxiliary": {}}
        if isinstance(fitted, models.ItemItem):
            return {**params, "tables": {"item_item": jnp.asarray(fitted.weights)}}
        fixed = {
            "histories": columns(fitted.history),
            "owners": columns(sp.csr_array(fitted.history.T)),
            "inverse": jnp.asarray(fitted.inverse, jnp.float32),
            "scale": jnp.asarray(fitted.scale, jnp.float32),
        }
        return {**params, "fixed": fixed}

    def score(params: Params, batch: Batch) -> jax.Array:
        x, fixed = multi_hot(batch["history"], dataset.items), params["fixed"]
        if by_items:
            return x @ params["tables"]["item_item"]
        overlap = sparse_product(fixed["histories"], x.T)  # [users, queries]
        back = sparse_product(fixed["owners"], fixed["inverse"] @ overlap).T
        return x + fixed["scale"] * (back - x)

    return closed_form(dataset, fit, score, length=longest(dataset), kind="item_item" if by_items else None)
