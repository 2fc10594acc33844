"""Nearest neighbors of items and of users, sparse from the similarities to the scores."""

import jax
import jax.numpy as jnp
import scipy.sparse as sp

from recjax.data import Dataset
from recjax.families._model import Batch, Model, closed_form
from recjax.families.content import longest
from recjax.models import Params, cosine_neighbors
from recjax.models.history import multi_hot
from recjax.models.lightgcn import received


def columns(matrix: sp.csr_array) -> dict[str, jax.Array]:
    """A sparse matrix as the edges that :func:`sparse_product` sums along."""
    arrays = {"offsets": matrix.indptr, "from": matrix.indices}
    return {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()} | {
        "weight": jnp.asarray(matrix.data, jnp.float32)
    }


def sparse_product(matrix: dict[str, jax.Array], vectors: jax.Array) -> jax.Array:
    """``[rows, columns]`` sparse times ``[columns, dim]``.

    Examples:
      >>> import numpy as np
      >>> print(sparse_product(columns(sp.csr_array(np.array([[0.0, 2.0], [1.0, 0.0]]))), jnp.array([[3.0], [5.0]])))
      [[10.]
       [ 3.]]
    """
    return received(matrix, vectors)


def item_knn(dataset: Dataset, *, neighbors: int = 100, shrinkage: float = 0.0) -> Model:
    """An item's score is the sum of its similarities to the items of the history.

    Args:
      dataset: the similarities are of its training events.
      neighbors: nearest items that an item of a history counts for, at most.
      shrinkage: see :func:`recjax.models.cosine_neighbors`.

    Returns:
      A :class:`~recjax.families.Model`.
    """

    def fit() -> Params:
        items = sp.csr_array(dataset.matrix().T)
        near = cosine_neighbors(items, neighbors=neighbors, shrinkage=shrinkage)
        return {"tables": {}, "net": {}, "fixed": {"to_items": columns(sp.csr_array(near.T))}, "auxiliary": {}}

    def score(params: Params, batch: Batch) -> jax.Array:
        history = multi_hot(batch["history"], dataset.items)
        return sparse_product(params["fixed"]["to_items"], history.T).T

    return closed_form(dataset, fit, score, length=longest(dataset), kind=None)


def user_knn(dataset: Dataset, *, neighbors: int = 100, shrinkage: float = 0.0) -> Model:
    """An item's score is the sum of the similarities of the users who have it.

    Args:
      dataset: the similarities are of its training events.
      neighbors: nearest users of a user, at most.
      shrinkage: see :func:`recjax.models.cosine_neighbors`.

    Returns:
      A :class:`~recjax.families.Model`.
    """
    most = min(neighbors, dataset.users)

    def fit() -> Params:
        history = dataset.matrix()
        near = cosine_neighbors(history, neighbors=neighbors, shrinkage=shrinkage)
        fixed = {"near": columns(near), "histories": columns(sp.csr_array(history.T))}
        return {"tables": {}, "net": {}, "fixed": fixed, "auxiliary": {}}

    def score(params: Params, batch: Batch) -> jax.Array:
        near, user = params["fixed"]["near"], batch["user"]
        rows = near["offsets"][user][:, None] + jnp.arange(most)[None]
        inside = rows < near["offsets"][user + 1][:, None]
        rows = jnp.where(inside, rows, 0)
        places = jnp.arange(len(user))[:, None], jnp.where(inside, near["from"][rows], dataset.users)
        similar = jnp.zeros((len(user), dataset.users)).at[places].set(near["weight"][rows], mode="drop")
        return sparse_product(params["fixed"]["histories"], similar.T).T

    return closed_form(dataset, fit, score, length=0, kind=None)
