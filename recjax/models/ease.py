"""EASE, the closed-form linear item-item model (Steck, 2019)."""

import dataclasses
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse as sp

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel
from recjax.models.history import multi_hot
from recjax.models.item_item import ItemItem

BLOCK = 1024  # rows of a matrix that are computed at once


@dataclasses.dataclass(frozen=True)
class Ease:
    """Size of :func:`ease`: ``items`` of the catalog."""

    items: int


def ease(config: Ease) -> RetrievalModel:
    """A linear item-item model as a retrieval model: queries are multi-hot histories, items are columns of weights.

    ``batch["history"]`` is ``[batch, length]`` item positions, padded with -1; ``batch["weight"]``, of the same shape,
    has their weights, 1 by default.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with ``dim = items``. Its table ``item`` is the transposed
      ``weights`` of an :class:`~recjax.models.item_item.ItemItem`; ``init`` sets it to 0.
    """

    def init(key: jax.Array) -> Params:
        return {"tables": {"item": jnp.zeros((config.items, config.items))}, "net": {}, "fixed": {}, "auxiliary": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return multi_hot(batch["history"], config.items, batch.get("weight"))

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["tables"]["item"], ids)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"history": query(params, batch)}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return None

    return RetrievalModel(init, query, items, hidden_activations, touched)


class EaseByUsers(NamedTuple):
    r"""EASE in its user-based form, see :func:`ease_by_users`.

    Attributes:
      history: ``[users, items]`` CSR float64, the training histories.
      inverse: ``[users, users]`` float64, :math:`M`.
      scale: ``[items]`` float64, :math:`1 / (1 - x_{:j}^\top M x_{:j})`.
    """

    history: sp.csr_array
    inverse: np.ndarray
    scale: np.ndarray

    def scores(self, history: sp.csr_array) -> np.ndarray:
        """``[queries, items]`` float32, the scores of all items for weighted histories ``[queries, items]`` CSR."""
        history = sp.csr_array(history, dtype=np.float64)
        scores = (history @ sp.csr_array(self.history.T)) @ self.inverse @ self.history
        scores *= self.scale
        return np.add(scores, history.multiply(1 - self.scale).toarray()).astype(np.float32)


def fit_ease(history: sp.csr_array, *, regularization: float) -> ItemItem | EaseByUsers:
    """EASE by items, or by users if there are fewer users: the same scores from the smaller inverse.

    Arguments and errors as for :func:`ease_by_items`.

    Examples:
      >>> history = sp.csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))
      >>> model = fit_ease(history, regularization=1.0)
      >>> type(model).__name__, model.scores(sp.csr_array(np.array([[1.0, 0.0, 0.0]]))).round(2) + 0
      ('EaseByUsers', array([[0.  , 0.67, 0.  ]], dtype=float32))
    """
    users, items = cast(tuple[int, int], history.shape)
    return (ease_by_users if users < items else ease_by_items)(history, regularization=regularization)


def ease_by_items(history: sp.csr_array, *, regularization: float) -> ItemItem:
    r"""EASE from the inverse of the items' Gram matrix.

    For histories :math:`X` and :math:`P = (X^\top X + \lambda I)^{-1}`, the weights are
    :math:`B_{ij} = -P_{ij} / P_{jj}` off the diagonal and 0 on it. Computed in float64, with up to ``12 * items ** 2``
    bytes of memory.

    Args:
      history: ``[users, items]`` CSR, the weight of each item for each user.
      regularization: :math:`\lambda > 0`, in the units of :math:`X^\top X`.

    Returns:
      An :class:`~recjax.models.item_item.ItemItem` with dense weights :math:`B`.

    Raises:
      ValueError: if ``regularization`` is too small for a Cholesky decomposition.

    Examples:
      >>> history = sp.csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
      >>> print(ease_by_items(history, regularization=1.0).weights.round(2))
      [[0.   0.67 0.  ]
       [0.67 0.   0.  ]
       [0.   0.   0.  ]]

    References:
      Steck, `Embarrassingly Shallow Autoencoders for Sparse Data <https://arxiv.org/abs/1905.03375>`_, 2019,
      equation 8.
    """
    inverse = _regularized_inverse(sp.csr_array(history.T), regularization)
    weights = np.empty(inverse.shape, np.float32)
    np.divide(inverse, -inverse.diagonal(), out=weights, casting="same_kind")
    np.fill_diagonal(weights, 0)
    weights += 0  # turns -0. into 0., so that it doesn't count as a weight
    return ItemItem(weights)


def ease_by_users(history: sp.csr_array, *, regularization: float) -> EaseByUsers:
    r"""EASE from an inverse over users, without an item-item matrix; arguments and errors as for :func:`ease_by_items`.

    With :math:`M = (X X^\top + \lambda I)^{-1}` and the identity :math:`P = (I - X^\top M X) / \lambda`, the scores
    :math:`x B` of :func:`ease_by_items` for a history :math:`x` are

    .. math::
        s_j = \frac{(x X^\top M X)_j - x_j}{1 - x_{:j}^\top M x_{:j}} + x_j

    where :math:`x_{:j}` is column j of :math:`X`. Computed in float64, with ``8 * users ** 2`` bytes of memory.
    """
    history = sp.csr_array(history, dtype=np.float64)
    inverse = _regularized_inverse(history, regularization)
    columns, kept = sp.csr_array(history.T), []
    for first in range(0, len(columns.indptr) - 1, BLOCK):
        some = columns[first : first + BLOCK]
        kept.append(1 - np.asarray(some.multiply(some @ inverse).sum(axis=1)))
    return EaseByUsers(history, inverse, 1 / np.concatenate(kept))


def _regularized_inverse(rows: sp.csr_array, regularization: float) -> np.ndarray:
    """The inverse of ``rows @ rows.T`` with ``regularization`` on its diagonal, float64, in place."""
    rows = sp.csr_array(rows, dtype=np.float64)
    columns, count = sp.csr_array(rows.T), len(rows.indptr) - 1
    out = np.empty((count, count))
    for first in range(0, count, BLOCK):  # a sparse product of all rows would take more than the dense one
        (rows[first : first + BLOCK] @ columns).toarray(out=out[first : first + BLOCK])
    out.flat[:: count + 1] += regularization
    # LAPACK works in place on the Fortran-ordered transpose; its lower triangle is the upper one of `out`
    potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (out,))
    _, failed = potrf(out.T, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise ValueError(f"regularization: expected a value large enough for Cholesky, got {regularization}")
    potri(out.T, lower=1, overwrite_c=1)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        out[first:last, :first] = out[:first, first:last].T
        square = np.triu(out[first:last, first:last])
        out[first:last, first:last] = square + np.triu(square, 1).T
    return out
