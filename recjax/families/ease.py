"""EASE: a linear model of histories in closed form, by an inverse of items or of users, whichever are fewer."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import Dataset
from recjax.families._model import Batch, Model, closed_form, multi_hot
from recjax.families.content import longest
from recjax.families.neighbors import columns, sparse_product
from recjax.models import Params, fit_ease


def ease(dataset: Dataset, *, regularization: float = 300.0) -> Model:
    r"""EASE on the weighted training events.

    Where users are fewer than items, no item-item table is made: with the histories :math:`X`, the kernel
    :math:`M = (X X^\top + \lambda I)^{-1}` and :math:`P = (I - X^\top M X) / \lambda`, the scores of a history
    :math:`x` are :math:`x - x P / \mathrm{diag} P`.

    Args:
      dataset: its training events are fitted.
      regularization: :math:`\lambda > 0`.

    Returns:
      A :class:`~recjax.families.Model`.

    References:
      Steck, `Embarrassingly Shallow Autoencoders for Sparse Data <https://arxiv.org/abs/1905.03375>`_, 2019.
    """
    history = dataset.matrix(weighted=True)
    if dataset.items <= dataset.users:
        gram = (history.T @ history).toarray().astype(np.float64)
        params = fit_ease(gram, regularization=regularization)

        def by_items(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
            scores = multi_hot(batch["history"], dataset.items) @ params["tables"]["item"].T
            return scores if candidates is None else jnp.take_along_axis(scores, candidates, axis=1)

        return closed_form(dataset, params, by_items, length=longest(dataset), kind="item_item")
    kernel = (history @ history.T).toarray().astype(np.float64)
    kernel[np.diag_indices(len(kernel))] += regularization
    inverse = np.linalg.inv(kernel)
    half = history.T.astype(np.float64) @ inverse  # [items, users]
    diagonal = (1 - np.asarray(history.T.multiply(half).sum(axis=1)).ravel()) / regularization
    fixed = {
        "items": columns(history),  # [users, items]: sums over the items of a history
        "users": columns(history.T.tocsr()),
        "inverse": jnp.asarray(inverse, jnp.float32),
        "diagonal": jnp.asarray(diagonal, jnp.float32),
    }
    params = {"tables": {}, "net": {}, "fixed": fixed, "aids": {}}

    def by_users(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        fixed, x = params["fixed"], multi_hot(batch["history"], dataset.items).T
        overlap = sparse_product(fixed["items"], x)  # [users, queries]
        back = sparse_product(fixed["users"], fixed["inverse"] @ overlap)  # [items, queries]
        scores = (x - (x - back) / (regularization * fixed["diagonal"][:, None])).T
        return scores if candidates is None else jnp.take_along_axis(scores, candidates, axis=1)

    return closed_form(dataset, params, by_users, length=longest(dataset), kind="")._replace(kind=None)
