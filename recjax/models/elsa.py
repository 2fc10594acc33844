"""ELSA, a linear autoencoder with a low-rank item-item matrix (Vančura et al., 2022)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel
from recjax.models.history import distinct, multi_hot, set_size, sum_rows
from recjax.models.simplex import unit


@dataclasses.dataclass(frozen=True)
class Elsa:
    """Hyperparameters of :func:`elsa`.

    Attributes:
      items: size of the catalog.
      dim: length of an item vector.
      scale: initial value of the learned scale of the scores.
    """

    items: int
    dim: int = 64
    scale: float = 20.0


def elsa(config: Elsa) -> RetrievalModel:
    r"""ELSA: unit item vectors; a query is the sum over a history.

    With the rows of :math:`A` normalized, a learned scale :math:`c` and item biases :math:`b`, the scores of a history
    :math:`x` over the catalog are

    .. math::
        s = c\,\frac{x A A^\top - x}{\sqrt{|x|}} + b, \qquad |x| = \sum_i x_i.

    :func:`elsa_scores` computes them; ``query`` and ``items`` omit :math:`- x`, which affects the history's own items
    only. The paper has :math:`x A A^\top - x`; scale, root and biases are additions.

    ``batch["history"]`` is ``[batch, length]`` item positions, padded with -1, and ``batch["weight"]``, of the same
    shape, has their weights, 1 by default. Repeated items count once.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the tables ``item [items, dim]``, not normalized, and
      ``item_bias [items, 1]``, and ``net["scale"]``; query and item vectors are ``[..., dim + 1]``, the bias last.

    Examples:
      >>> model = elsa(Elsa(items=5, dim=4))
      >>> params = model.init(jax.random.key(0))
      >>> (model.query(params, {"history": jnp.array([[-1, 1, 4]])}) @ model.items(params).T).shape
      (1, 5)

    References:
      Vančura et al., *Scalable Linear Shallow Autoencoder for Collaborative Filtering*, RecSys 2022, section 3.
    """

    def init(key: jax.Array) -> Params:
        tables = {"item": jax.random.normal(key, (config.items, config.dim)), "item_bias": jnp.zeros((config.items, 1))}
        return {"tables": tables, "net": {"scale": jnp.float32(config.scale)}, "fixed": {}, "auxiliary": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        rows = functools.partial(_rows, params)
        history, weight = batch["history"], batch.get("weight")
        total = sum_rows(rows, history, config.items, weight) * _factor(config, params, history, weight)
        return jnp.concatenate([total, jnp.ones((*total.shape[:-1], 1))], axis=-1)

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return jnp.concatenate([_rows(params, ids), embed.lookup(params["tables"]["item_bias"], ids)], axis=-1)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"history": query(params, batch)[..., :-1]}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        if "item" not in batch:  # scored against the whole catalog
            return None
        both = jnp.concatenate([jnp.ravel(batch[part]) for part in ("history", "item")])
        return {"item": both, "item_bias": batch["item"]}

    return RetrievalModel(init, query, items, hidden_activations, touched)


def elsa_scores(config: Elsa, params: Params, batch: Batch, ids: jax.Array | None = None) -> jax.Array:
    """Scores of :func:`elsa` without self-similarity, the term :math:`- x`.

    Args:
      config: see :class:`Elsa`.
      params: of the model.
      batch: as for :func:`elsa`.
      ids: ``[batch, candidates]`` int item positions; None is the whole catalog.

    Returns:
      ``[batch, candidates or items]``.

    Examples:
      >>> item = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
      >>> tables, net = {"item": item, "item_bias": jnp.zeros((3, 1))}, {"scale": 2.0**0.5}
      >>> params = {"tables": tables, "net": net, "fixed": {}, "auxiliary": {}}
      >>> print(elsa_scores(Elsa(items=3, dim=2), params, {"history": jnp.array([[0, 1]])}).round(2))
      [[0.71 0.71 0.71]]
    """
    model, history, weight = elsa(config), batch["history"], batch.get("weight")
    query, rows = model.query(params, batch), model.items(params, ids)
    factor = _factor(config, params, history, weight)
    squares = jnp.sum(jnp.square(rows[..., :-1]), axis=-1)  # 1 except for a zero vector
    if ids is None:
        return query @ rows.T - factor * multi_hot(history, config.items, weight) * squares[None]
    owned, weights = distinct(history, config.items, weight)
    last = jnp.maximum(jax.vmap(functools.partial(jnp.searchsorted, side="right"))(owned, ids) - 1, 0)
    own = jnp.take_along_axis(owned, last, axis=1) == ids
    x = jnp.where(own, jnp.take_along_axis(weights, last, axis=1), 0)
    return jnp.einsum("bd,bcd->bc", query, rows) - factor * x * squares


def _rows(params: Params, ids: jax.Array | None) -> jax.Array:
    return unit(embed.lookup(params["tables"]["item"], ids))


def _factor(config: Elsa, params: Params, history: jax.Array, weight: jax.Array | None) -> jax.Array:
    """``[batch, 1]``, the scale divided by the square root of the size of each history."""
    size = set_size(history, config.items, weight)[..., None]
    return params["net"]["scale"] * jax.lax.rsqrt(jnp.where(size > 0, size, 1))
