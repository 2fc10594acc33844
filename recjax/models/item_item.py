"""Linear models with an item-item weight matrix."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp


class ItemItem(NamedTuple):
    """A linear item-item model, :math:`s = x W`.

    Attributes:
      weights: ``[items, items]`` float32, dense or CSR; row i is what item i of a history adds to the score of each
        item.

    Examples:
      >>> model = ItemItem(np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], np.float32))
      >>> model.scores(sp.csr_array(np.array([[1.0, 1.0, 0.0]]))).tolist()
      [[3.0, 1.0, 6.0]]
    """

    weights: np.ndarray | sp.csr_array

    def scores(self, history: sp.csr_array) -> np.ndarray:
        """``[queries, items]`` float32, the scores of all items for weighted histories ``[queries, items]`` CSR."""
        scores = sp.csr_array(history, dtype=np.float32) @ self.weights
        return scores if isinstance(scores, np.ndarray) else sp.csr_array(scores).toarray()
