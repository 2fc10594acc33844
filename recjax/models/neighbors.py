"""Item-based and user-based nearest neighbors by cosine similarity."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from recjax.models.item_item import ItemItem

BLOCK = 512  # rows whose similarities to all other rows are in memory at once


def cosine_neighbors(rows: sp.csr_array, *, neighbors: int, shrinkage: float = 0.0) -> sp.csr_array:
    r"""The most similar other rows of each row, with their cosine similarities.

    .. math::
        w_{ij} = \frac{x_i^\top x_j}{\lVert x_i \rVert \lVert x_j \rVert + \lambda}

    for the ``neighbors`` rows j with the largest :math:`w_{ij} > 0`, :math:`j \ne i`; 0 for the others. The shrinkage
    :math:`\lambda` lowers similarities based on few common entries. Ties are broken by the lower row.

    Args:
      rows: ``[rows, columns]`` CSR.
      neighbors: maximum number per row.
      shrinkage: :math:`\lambda \ge 0`, in the units of a product of two rows.

    Returns:
      ``[rows, rows]`` CSR float64; row i holds the neighbors of row i.

    Raises:
      ValueError: if ``neighbors`` is below 1.

    Examples:
      >>> rows = sp.csr_array(np.array([[1.0, 1, 0], [1, 0, 0], [1, 1, 1]]))
      >>> print(cosine_neighbors(rows, neighbors=1).toarray().round(2))
      [[0.   0.   0.82]
       [0.71 0.   0.  ]
       [0.82 0.   0.  ]]

    References:
      Deshpande and Karypis, *Item-Based Top-N Recommendation Algorithms*, ACM TOIS 2004, sections 4.1 and 4.2.
    """
    rows = sp.csr_array(rows, dtype=np.float64)
    return _nearest(rows, rows, np.arange(_count(rows)), neighbors, shrinkage)


def fit_item_knn(history: sp.csr_array, *, neighbors: int, shrinkage: float = 0.0) -> ItemItem:
    r"""Item-based nearest neighbors; arguments and errors as for :func:`cosine_neighbors` of the transposed history.

    .. math:: s_j = \sum_{i \in h} w_{ij}

    with the similarities :math:`w` of :func:`cosine_neighbors` over the items i of a history h.

    Examples:
      >>> history = sp.csr_array(np.array([[1.0, 1, 0], [1, 1, 0], [0, 1, 1]]))
      >>> print(fit_item_knn(history, neighbors=1).scores(history[:1]).round(2))
      [[0.82 0.82 0.  ]]
    """
    near = cosine_neighbors(sp.csr_array(history.T), neighbors=neighbors, shrinkage=shrinkage)
    return ItemItem(sp.csr_array(near, dtype=np.float32))


class UserKnn(NamedTuple):
    r"""User-based nearest neighbors, :math:`s_{qi} = \sum_v w_{qv} x_{vi}` over the users v most similar to q.

    Attributes:
      history: ``[users, items]`` CSR, the weight of each item for each user.
      neighbors: maximum number per query.
      shrinkage: see :func:`cosine_neighbors`.

    Examples:
      >>> history = sp.csr_array(np.array([[1.0, 1, 0], [1, 0, 1], [0, 0, 1]]))
      >>> model = UserKnn(history, neighbors=1)
      >>> print(model.scores(history, own=np.arange(3)).round(2))
      [[0.5  0.   0.5 ]
       [0.   0.   0.71]
       [0.71 0.   0.71]]

    References:
      Resnick et al., *GroupLens: An Open Architecture for Collaborative Filtering of Netnews*, CSCW 1994; with the
      cosine in place of the correlation.
    """

    history: sp.csr_array
    neighbors: int
    shrinkage: float = 0.0

    def scores(self, history: sp.csr_array, own: np.ndarray | None = None) -> np.ndarray:
        """``[queries, items]`` float32, the scores of all items.

        Args:
          history: ``[queries, items]`` CSR, the weight of each item in each history.
          own: ``[queries]`` int, the row of ``self.history`` of each query's user, excluded from its neighbors; -1, or
            None for all, for new users.
        """
        own = np.full(_count(history), -1) if own is None else own
        near = _nearest(history, self.history, own, self.neighbors, self.shrinkage)
        return ItemItem(sp.csr_array(self.history, dtype=np.float32)).scores(near)


def _nearest(
    queries: sp.csr_array, rows: sp.csr_array, own: np.ndarray, neighbors: int, shrinkage: float
) -> sp.csr_array:
    """``[queries, rows]`` CSR float64, the nearest rows of each query but its own."""
    if neighbors < 1:
        raise ValueError(f"neighbors: expected at least 1, got {neighbors}")
    queries, rows = (sp.csr_array(x, dtype=np.float64, copy=True) for x in (queries, rows))
    for x in (queries, rows):
        x.eliminate_zeros()  # a row of zeros has no cosine
    query_norms, row_norms = (np.sqrt(np.asarray(x.multiply(x).sum(axis=1))) for x in (queries, rows))
    columns, blocks = sp.csr_array(rows.T), []
    for first in range(0, len(query_norms), BLOCK):
        norms = query_norms[first : first + BLOCK]
        near = sp.csr_array(queries[first : first + BLOCK] @ columns)
        row = np.repeat(np.arange(len(norms)), np.diff(near.indptr))
        near.data /= norms[row] * row_norms[near.indices] + shrinkage
        near.data[near.indices == own[first + row]] = 0
        kept = near.data > 0
        for start, end in zip(near.indptr[:-1], near.indptr[1:], strict=True):
            if end - start > neighbors:
                values = near.data[start:end]
                kept[start:end] &= values >= np.partition(values, -neighbors)[-neighbors]
        row, column, values = row[kept], near.indices[kept], near.data[kept]
        order = np.lexsort((column, -values, row))  # ties are broken by the lower row
        row, column, values = row[order], column[order], values[order]
        best = np.arange(len(row)) - np.searchsorted(row, row) < neighbors
        shape = (len(norms), len(row_norms))
        blocks.append(sp.csr_array((values[best], (row[best], column[best])), shape=shape))
    return sp.csr_array(sp.vstack(blocks))


def _count(rows: sp.csr_array) -> int:
    return len(rows.indptr) - 1
