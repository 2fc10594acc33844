"""Nearest neighbors by the cosine: of items, and of users (Deshpande and Karypis, 2004; Resnick et al., 1994)."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from recjax import embed
from recjax.models.contract import Batch, Params, Retrieval

BLOCK = 4096  # rows whose products with all others are held at once, as far as they are not 0


def cosine_neighbors(rows: sp.csr_array, *, neighbors: int, shrinkage: float = 0.0) -> sp.csr_array:
    r"""The most similar other rows of every row, with their similarity.

    .. math::
        w_{ij} = \frac{x_i^\top x_j}{\lVert x_i \rVert \lVert x_j \rVert + \lambda}

    for the ``neighbors`` rows j with the largest :math:`w_{ij} > 0`, itself left out; 0 for the others. The shrinkage
    :math:`\lambda` takes weight from similarities that rest on few common entries. Of equal similarities the lower
    row counts as nearer.

    Args:
      rows: ``[rows, columns]``, sparse.
      neighbors: at most so many a row.
      shrinkage: :math:`\lambda \ge 0`, in the units of a product of two rows.

    Returns:
      ``[rows, rows]`` float64, sparse; row i holds what row i is near to. Memory is bounded by its size and
      by the products of a few thousand rows with all others.

    Raises:
      ValueError: if ``neighbors`` is below 1.

    Examples:
      >>> import numpy as np
      >>> import scipy.sparse as sp
      >>> rows = sp.csr_array(np.array([[1.0, 1, 0], [1, 0, 0], [1, 1, 1]]))
      >>> print(cosine_neighbors(rows, neighbors=1).toarray().round(2))
      [[0.   0.   0.82]
       [0.71 0.   0.  ]
       [0.82 0.   0.  ]]

    References:
      Deshpande and Karypis, *Item-Based Top-N Recommendation Algorithms*, ACM TOIS 2004, sections 4.1 and 4.2.
    """
    if neighbors < 1:
        raise ValueError(f"expected at least 1 neighbor, got {neighbors}")
    rows = sp.csr_array(rows, dtype=np.float64)
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)))
    count = len(norms)
    blocks = []
    for first in range(0, count, BLOCK):
        products = (rows[first : first + BLOCK] @ rows.T).tocoo()
        row, column = products.row, products.col
        near = products.data / (norms[first + row] * norms[column] + shrinkage)
        other = (column != first + row) & (near > 0)
        row, column, near = row[other], column[other], near[other]
        order = np.lexsort((column, -near, row))
        row, column, near = row[order], column[order], near[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < neighbors
        shape = (min(BLOCK, count - first), count)
        blocks.append(sp.csr_array((near[kept], (row[kept], column[kept])), shape=shape))
    return sp.csr_array(sp.vstack(blocks))


def fit_item_knn(history: sp.csr_array, *, neighbors: int, shrinkage: float = 0.0) -> Params:
    r"""Item neighbors as parameters of :func:`recjax.models.ease`, the model that is linear in a user's history.

    An item's score is the sum of its similarities to those items of the history that count it among their
    ``neighbors`` nearest: :math:`s_j = \sum_{i \in h} w_{ij}`, see :func:`cosine_neighbors`.

    Args:
      history: ``[users, items]``, sparse; the weight of each item for each user.
      neighbors: of an item, at most.
      shrinkage: see :func:`cosine_neighbors`.

    Returns:
      Parameters whose table ``item`` is :math:`W^\top`, ``[items, items]`` float32: row j holds what each item of a
      history adds to the score of item j.

    Examples:
      >>> import numpy as np
      >>> import scipy.sparse as sp
      >>> history = sp.csr_array(np.array([[1.0, 1, 0], [1, 1, 0], [0, 1, 1]]))
      >>> print(fit_item_knn(history, neighbors=1)["tables"]["item"].round(2))
      [[0.   0.82 0.  ]
       [0.82 0.   0.58]
       [0.   0.   0.  ]]
    """
    near = cosine_neighbors(sp.csr_array(history.T), neighbors=neighbors, shrinkage=shrinkage)
    return {"tables": {"item": near.T.toarray().astype(np.float32)}, "net": {}, "fixed": {}, "aids": {}}


def user_knn(history: sp.csr_array) -> Retrieval:
    r"""User neighbors, :math:`s_{ui} = \sum_v w_{uv} x_{vi}`: what similar users have, by how similar they are.

    Args:
      history: ``[users, items]``, sparse; becomes ``params["fixed"]["item"] [items, users]``, float32 and dense.

    Returns:
      A :class:`~recjax.models.contract.Retrieval` with ``dim = users``: the table ``user [users, users]`` holds the
      similarities. ``init`` gives zeros for them; :func:`fit_user_knn` gives the parameters.

    References:
      Resnick et al., *GroupLens: An Open Architecture for Collaborative Filtering of Netnews*, CSCW 1994.
    """
    users = len(history.indptr) - 1

    def init(key: jax.Array) -> Params:
        tables, fixed = {"user": jnp.zeros((users, users))}, {"item": jnp.asarray(_of_items(history))}
        return {"tables": tables, "net": {}, "fixed": fixed, "aids": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["tables"]["user"], batch["user"])

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["fixed"]["item"], ids)

    def taps(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"neighbors": query(params, batch)}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return {"user": batch["user"]} if "item" in batch else None

    return Retrieval(init, query, items, taps, touched)


def fit_user_knn(history: sp.csr_array, *, neighbors: int, shrinkage: float = 0.0) -> Params:
    """Parameters of :func:`user_knn`.

    Args:
      history: ``[users, items]``, sparse.
      neighbors: of a user, at most.
      shrinkage: see :func:`cosine_neighbors`.

    Returns:
      The similarities as the table ``user``, ``[users, users]``, and the histories as ``fixed["item"]``, ``[items,
      users]``, both float32 and dense.

    Examples:
      >>> import numpy as np
      >>> import scipy.sparse as sp
      >>> params = fit_user_knn(sp.csr_array(np.array([[1.0, 1, 0], [1, 0, 1], [0, 0, 1]])), neighbors=1)
      >>> print((params["tables"]["user"] @ params["fixed"]["item"].T).round(2))
      [[0.5  0.   0.5 ]
       [0.   0.   0.71]
       [0.71 0.   0.71]]

    References:
      Resnick et al., *GroupLens: An Open Architecture for Collaborative Filtering of Netnews*, CSCW 1994; with the
      cosine in place of the correlation.
    """
    near = cosine_neighbors(history, neighbors=neighbors, shrinkage=shrinkage)
    tables = {"user": near.toarray().astype(np.float32)}
    return {"tables": tables, "net": {}, "fixed": {"item": _of_items(history)}, "aids": {}}


def _of_items(history: sp.csr_array) -> np.ndarray:
    """``[items, users]``, dense."""
    return history.T.toarray().astype(np.float32)
