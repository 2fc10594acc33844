"""Histories of items: as sets, and the shared frame of sequential models."""

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel


def distinct(history: jax.Array, items: int, weight: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Each item of a history once, with its weight.

    Args:
      history: ``[..., length]`` int item positions in time order; positions outside ``0 .. items - 1`` are padding.
      items: size of the catalogue.
      weight: ``[..., length]`` float; of an item that occurs again, the latest weight counts. None is 1 for all.

    Returns:
      ``[..., length]`` positions in ascending order, padding as ``items`` behind them, and ``[..., length]`` weights,
      0 for padding and for all but one occurrence of an item.

    Examples:
      >>> import jax.numpy as jnp
      >>> ids, weight = distinct(jnp.array([-1, 3, 0, 3]), 5, jnp.array([9.0, 1.0, 2.0, 4.0]))
      >>> ids.tolist(), weight.tolist()
      ([0, 3, 3, 5], [2.0, 0.0, 4.0, 0.0])
    """
    history = jnp.asarray(history)
    weight = jnp.ones(history.shape) if weight is None else jnp.asarray(weight)
    ids = jnp.where((history >= 0) & (history < items), history, items)
    ids, weight = jax.lax.sort((ids, weight), num_keys=1)  # stable, so that the latest of equal ones is the last
    last = jnp.diff(ids, append=jnp.full((*ids.shape[:-1], 1), -1, ids.dtype)) != 0
    return ids, jnp.where(last & (ids < items), weight, 0)


def multi_hot(history: jax.Array, items: int, weight: jax.Array | None = None) -> jax.Array:
    """A history as a vector over the catalogue, ``[..., items]``; an item that occurs again counts once.

    Args:
      history: ``[..., length]``, see :func:`distinct`.
      items: size of the catalogue.
      weight: ``[..., length]``, see :func:`distinct`.

    Examples:
      >>> import jax.numpy as jnp
      >>> multi_hot(jnp.array([[-1, 3, 0, 3], [-1, -1, -1, 1]]), 5).tolist()
      [[1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]
    """
    ids, weight = distinct(history, items, weight)
    add = jnp.vectorize(lambda x, ids, weight: x.at[ids].add(weight, mode="drop"), signature="(i),(l),(l)->(i)")
    return add(jnp.zeros((*ids.shape[:-1], items), weight.dtype), ids, weight)


def sum_rows(
    rows: Callable[[jax.Array | None], jax.Array], history: jax.Array, items: int, weight: jax.Array | None = None
) -> jax.Array:
    """The weighted sum of the rows of a history's items, ``[..., dim]``; an item that occurs again counts once.

    Args:
      rows: ``rows(ids) -> [..., dim]`` of a table, ``rows(None) -> [items, dim]`` of all of it.
      history: ``[..., length]``, see :func:`distinct`.
      items: size of the catalogue.
      weight: ``[..., length]``, see :func:`distinct`.
    """
    if 16 * history.shape[-1] >= items:  # one matrix product is then faster than looking up row by row
        return multi_hot(history, items, weight) @ rows(None)
    ids, weight = distinct(history, items, weight)
    known = ids < items
    x = jnp.where(known[..., None], rows(_within(ids, known)), 0)
    return jnp.einsum("...l,...ld->...d", weight, x)


def _within(ids: jax.Array, known: jax.Array) -> jax.Array:
    """Positions with one that the batch has anyway in place of padding.

    The row of no item is NaN, and a gradient of zero times NaN would reach what all rows of a compressed table share.
    """
    return jnp.where(known, ids, jnp.max(ids, where=known, initial=0))


@dataclasses.dataclass(frozen=True)
class History:
    """Sizes of a sequential model.

    Attributes:
      items: rows of the item table.
      length: maximum length of a history.
      dim: length of a vector.
      scale: standard deviation of the table's initial entries.
    """

    items: int
    length: int
    dim: int = 64
    scale: float = 0.02


@dataclasses.dataclass(frozen=True)
class Attention(History):
    """Sizes of a sequential model with attention, beside those of :class:`History`.

    Attributes:
      blocks: number of blocks.
      heads: number of attention heads; ``dim`` is divided among them.
    """

    blocks: int = 2
    heads: int = 1

    def __post_init__(self):
        if self.heads < 1 or self.dim % self.heads:
            raise ValueError(f"expected heads that divide dim, got {self.heads} and {self.dim}")


def retrieval(config: History, net: nn.Module) -> RetrievalModel:
    """A retrieval model from a network over histories; input and output embeddings are tied.

    Args:
      config: sizes.
      net: ``net(x, known, age, key, dropout) -> (queries, hidden)``: of ``x``, ``[batch, length, dim]`` vectors, 0
        where ``known``, ``[batch, length]``, is False; ``age`` is the batch's, or None; nothing is dropped without a
        ``key``. Queries are ``[batch, length, dim]``; ``hidden`` are named, ``[batch, length, width]``.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the table ``item [items, dim]``. A batch is ``{"history":
      [batch, length]}``, item positions, the latest last. Positions outside the table are padding, such as
      :data:`recjax.data.PADDING`, and stand in front; the query after one is 0. A history may be shorter than
      ``config.length``: padding in front of it would change nothing.
    """

    def init(key: jax.Array) -> Params:
        table, dense = jax.random.split(key)
        x, known = jnp.zeros((1, config.length, config.dim)), jnp.ones((1, config.length), bool)
        params = net.init(dense, x, known, jnp.zeros((1, config.length)), None, 0.0)["params"]
        item = config.scale * jax.random.normal(table, (config.items, config.dim))
        return {"tables": {"item": item}, "net": params, "fixed": {}, "auxiliary": {}}

    def apply(
        params: Params, batch: Batch, key: jax.Array | None = None, dropout: jax.typing.ArrayLike = 0.0
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        history = batch["history"]
        check_history(history, config)
        known = (history >= 0) & (history < config.items)
        x = jnp.where(known[..., None], embed.lookup(params["tables"]["item"], _within(history, known)), 0)
        # apply can also return changed variables, which its type says and these nets have not
        queries, hidden = cast(
            tuple[jax.Array, dict[str, jax.Array]],
            net.apply({"params": params["net"]}, x, known, batch.get("age"), key, dropout),
        )
        return jnp.where(known[..., None], queries, 0), hidden

    def queries(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        return apply(params, batch, key, dropout)[0]

    def query(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        return queries(params, batch, key, dropout=dropout)[:, -1]

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["tables"]["item"], ids)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {name: hidden[:, -1] for name, hidden in apply(params, batch)[1].items()}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        if "item" not in batch:  # scored against the whole catalogue
            return None
        return {"item": jnp.concatenate([jnp.ravel(batch[part]) for part in ("history", "item")])}

    return RetrievalModel(init, query, items, hidden_activations, touched, queries)


def check_history(history: jax.Array, config: History) -> None:
    """Raises ValueError unless a history is ``[batch, 1 to config.length]``."""
    if history.ndim != 2 or not 1 <= history.shape[1] <= config.length:
        raise ValueError(f"expected a history of shape [batch, 1 to {config.length}], got {history.shape}")


def causal(known: jax.Array) -> jax.Array:
    """``[batch, length, length]`` bool: which items, the last axis, each position attends to: those up to it."""
    places = jnp.arange(known.shape[1])
    return known[:, None] & (places[None] <= places[:, None])[None]


def flat(x: jax.Array) -> jax.Array:
    """``[batch, length, ...]`` as ``[batch * length, ...]``.

    Dense layers and normalizations take their rows so, since the gradients of their weights are sums over all of them:
    over two axes, XLA on a CPU copies what it sums into another order first, or sums entry by entry.
    """
    return x.reshape(-1, *x.shape[2:])


def split(x: jax.Array, length: int, heads: int) -> jax.Array:
    """``[batch * length, dim]`` as ``[batch, length, heads, dim / heads]``."""
    return x.reshape(-1, length, heads, x.shape[-1] // heads)


def merged(x: jax.Array) -> jax.Array:
    """The inverse of :func:`split`."""
    return x.reshape(x.shape[0] * x.shape[1], -1)
