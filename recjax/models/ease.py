"""EASE, the closed-form linear item-to-item model (Steck, 2019)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax import embed
from recjax.models.contract import Batch, Params, Retrieval


@dataclasses.dataclass(frozen=True)
class Ease:
    """Settings of :func:`ease`.

    Attributes:
      items: size of the catalogue.
    """

    items: int


def ease(config: Ease) -> Retrieval:
    """EASE as a retrieval model: the query is the user's history, an item is its column of weights.

    ``batch["history"]`` is ``[batch, items]``: the weight of each item in a user's history, 0 for the rest. So the
    model scores users that it was never fitted on.

    Args:
      config: see :class:`Ease`.

    Returns:
      A :class:`~recjax.models.contract.Retrieval` with ``dim = items``. ``init`` gives zero weights;
      :func:`fit_ease` gives the parameters.
    """

    def init(key: jax.Array) -> Params:
        return {"tables": {"item": jnp.zeros((config.items, config.items))}, "net": {}, "fixed": {}, "aids": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return batch["history"]

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["tables"]["item"], ids)

    def taps(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"history": batch["history"]}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return None

    return Retrieval(init, query, items, taps, touched)


def fit_ease(gram: np.ndarray, *, regularization: float) -> Params:
    r"""Parameters of :func:`ease` in closed form.

    With the Gram matrix :math:`G = X^\top X` of the histories and :math:`P = (G + \lambda I)^{-1}`, the weights are
    :math:`B_{ij} = -P_{ij} / P_{jj}` off the diagonal and 0 on it.

    Args:
      gram: ``[items, items]`` float64.
      regularization: :math:`\lambda > 0`, in the units of ``gram``.

    Returns:
      Parameters whose table ``item`` is :math:`B^\top`, ``[items, items]`` float32: row j holds what each item of a
      history adds to the score of item j.

    Examples:
      >>> import numpy as np
      >>> x = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
      >>> print(fit_ease(x.T @ x, regularization=1.0)["tables"]["item"].round(2))
      [[0.   0.67 0.  ]
       [0.67 0.   0.  ]
       [0.   0.   0.  ]]

    References:
      Steck, `Embarrassingly Shallow Autoencoders for Sparse Data <https://arxiv.org/abs/1905.03375>`_, 2019,
      equation 8.
    """
    inverse = np.linalg.inv(gram + regularization * np.eye(len(gram)))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    table = weights.T.astype(np.float32) + np.float32(0)  # -0. would be stored and counted as a weight of its own
    return {"tables": {"item": table}, "net": {}, "fixed": {}, "aids": {}}
