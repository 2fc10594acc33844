"""EASE: a linear model of histories in closed form, by an inverse of items or of users, whichever are fewer."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

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
    if dataset.items <= dataset.users:
        return closed_form(
            dataset, lambda: _by_items(dataset, regularization), _item_score, length=longest(dataset), kind="item_item"
        )

    def score(params: Params, batch: Batch) -> jax.Array:
        fixed, x = params["fixed"], multi_hot(batch["history"], dataset.items).T
        overlap = sparse_product(fixed["histories"], x)  # [users, queries]
        back = sparse_product(fixed["owners"], fixed["inverse"] @ overlap)  # [items, queries]
        return (x - (x - back) / (regularization * fixed["diagonal"][:, None])).T

    return closed_form(dataset, lambda: _by_users(dataset, regularization), score, length=longest(dataset), kind=None)


def _item_score(params: Params, batch: Batch) -> jax.Array:
    table = params["tables"]["item_item"]
    return multi_hot(batch["history"], len(table)) @ table


def _by_items(dataset: Dataset, regularization: float) -> Params:
    history = dataset.matrix(weighted=True)
    gram = (history.T @ history).toarray().astype(np.float64)
    table = fit_ease(gram, regularization=regularization)["tables"]["item"].T
    return {"tables": {"item_item": jnp.asarray(table)}, "net": {}, "fixed": {}, "aids": {}}


def _by_users(dataset: Dataset, regularization: float) -> Params:
    history = dataset.matrix(weighted=True)
    kernel = (history @ history.T).toarray().astype(np.float64)
    kernel[np.diag_indices(len(kernel))] += regularization
    inverse = np.linalg.inv(kernel)
    owners = sp.csr_array(history.T)
    diagonal = (
        1 - np.asarray(owners.multiply(owners.astype(np.float64) @ inverse).sum(axis=1)).ravel()
    ) / regularization
    fixed = {
        "histories": columns(history),
        "owners": columns(owners),
        "inverse": jnp.asarray(inverse, jnp.float32),
        "diagonal": jnp.asarray(diagonal, jnp.float32),
    }
    return {"tables": {}, "net": {}, "fixed": fixed, "aids": {}}
