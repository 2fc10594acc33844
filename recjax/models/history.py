"""Histories of items as sets, and the parts that sequential models share."""

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
      history: ``[..., length]`` int item positions in order of time; positions outside ``0 .. items - 1`` are padding.
      items: size of the catalog.
      weight: ``[..., length]`` float; of a repeated item, the latest weight counts. None is 1 for all.

    Returns:
      ``[..., length]`` positions in ascending order, padding as ``items`` at the end, and ``[..., length]`` weights, 0
      for padding and for all but one occurrence of an item.

    Examples:
      >>> ids, weight = distinct(jnp.array([-1, 3, 0, 3]), 5, jnp.array([9.0, 1.0, 2.0, 4.0]))
      >>> ids.tolist(), weight.tolist()
      ([0, 3, 3, 5], [2.0, 0.0, 4.0, 0.0])
    """
    history = jnp.asarray(history)
    weight = jnp.ones(history.shape) if weight is None else jnp.asarray(weight)
    ids = jnp.where((history >= 0) & (history < items), history, items)
    ids, weight = jax.lax.sort((ids, weight), num_keys=1)  # stable: the latest of equal items is last
    last = jnp.diff(ids, append=jnp.full((*ids.shape[:-1], 1), -1, ids.dtype)) != 0
    return ids, jnp.where(last & (ids < items), weight, 0)


def multi_hot(history: jax.Array, items: int, weight: jax.Array | None = None) -> jax.Array:
    """A history as a vector over the catalog, ``[..., items]``; arguments as for :func:`distinct`.

    Examples:
      >>> multi_hot(jnp.array([[-1, 3, 0, 3], [-1, -1, -1, 1]]), 5).tolist()
      [[1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]
    """
    if weight is None:  # setting entries needs no sort, which takes 30 times as long on a CPU
        mark = jnp.vectorize(lambda x, ids: x.at[ids].set(1.0, mode="drop"), signature="(i),(l)->(i)")
        history = jnp.asarray(history)
        ids = jnp.where((history >= 0) & (history < items), history, items)
        return mark(jnp.zeros((*ids.shape[:-1], items)), ids)
    ids, weight = distinct(history, items, weight)
    add = jnp.vectorize(lambda x, ids, weight: x.at[ids].add(weight, mode="drop"), signature="(i),(l),(l)->(i)")
    return add(jnp.zeros((*ids.shape[:-1], items), weight.dtype), ids, weight)


def _is_long(history: jax.Array, items: int) -> bool:
    """Whether one product with a vector over the catalog is faster than lookups."""
    return 16 * history.shape[-1] >= items


def set_size(history: jax.Array, items: int, weight: jax.Array | None = None) -> jax.Array:
    """The sum of a history's weights, each item once, ``[...]``; arguments as for :func:`distinct`."""
    of = multi_hot(history, items, weight) if _is_long(history, items) else distinct(history, items, weight)[1]
    return jnp.sum(of, axis=-1)


def sum_rows(
    rows: Callable[[jax.Array | None], jax.Array], history: jax.Array, items: int, weight: jax.Array | None = None
) -> jax.Array:
    """The weighted sum of the table rows of a history, ``[..., dim]``; arguments as for :func:`distinct`.

    ``rows(ids) -> [..., dim]`` looks up the table; ``rows(None) -> [items, dim]`` is all of it.
    """
    if _is_long(history, items):
        return multi_hot(history, items, weight) @ rows(None)
    ids, weight = distinct(history, items, weight)
    known = ids < items
    x = jnp.where(known[..., None], rows(_within(ids, known)), 0)
    return jnp.einsum("...l,...ld->...d", weight, x)


def _within(ids: jax.Array, known: jax.Array) -> jax.Array:
    """Positions with padding replaced by one that the batch has anyway.

    A lookup of padding gives NaN, and its gradient, zero times NaN, would reach the shared parts of a compressed table.
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
            raise ValueError(f"heads: expected a divisor of dim={self.dim}, got {self.heads}")


def retrieval(config: History, net: nn.Module) -> RetrievalModel:
    """A sequential retrieval model from a network; input and output embeddings are tied.

    Args:
      config: sizes.
      net: ``net(x, known, age, key, dropout) -> (queries, hidden)`` with item vectors ``x [batch, length, dim]``, 0
        where ``known [batch, length]`` is False, and ``age`` of the batch or None. ``queries`` is ``[batch, length,
        dim]``; ``hidden`` is a dict of ``[batch, length, width]``.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the table ``item [items, dim]``. A batch has ``history
      [batch, length]``, item positions, the latest last, left-padded with :data:`recjax.data.PADDING` or any position
      outside the table; the query after padding is 0. A history may be shorter than ``config.length``, with the same
      result as padding. ``query`` and ``queries`` take a rate of ``dropout`` in [0, 1), which may be traced and is not
      checked. Its functions raise ValueError if the history is not ``[batch, 1 to config.length]``.
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
        # the return type of apply allows for mutable variables, which these nets don't have
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
        if "item" not in batch:  # scored against the whole catalog
            return None
        return {"item": jnp.concatenate([jnp.ravel(batch[part]) for part in ("history", "item")])}

    return RetrievalModel(init, query, items, hidden_activations, touched, queries)


def check_history(history: jax.Array, config: History) -> None:
    """Raises ValueError unless a history is ``[batch, 1 to config.length]``."""
    if history.ndim != 2 or not 1 <= history.shape[1] <= config.length:
        raise ValueError(f"history: expected shape [batch, 1 to {config.length}], got {history.shape}")


def causal(known: jax.Array) -> jax.Array:
    """``[batch, length, length]`` bool, the items (last axis) that each position attends to: known ones up to it."""
    places = jnp.arange(known.shape[1])
    return known[:, None] & (places[None] <= places[:, None])[None]


def flat(x: jax.Array) -> jax.Array:
    """``[batch, length, ...]`` as ``[batch * length, ...]``, the input of dense layers and normalizations.

    XLA on a CPU computes the gradients of their weights much faster as sums over one axis than over two.
    """
    return x.reshape(-1, *x.shape[2:])


def split(x: jax.Array, length: int, heads: int) -> jax.Array:
    """``[batch * length, dim]`` as ``[batch, length, heads, dim / heads]``."""
    return x.reshape(-1, length, heads, x.shape[-1] // heads)


def merged(x: jax.Array) -> jax.Array:
    """The inverse of :func:`split`."""
    return x.reshape(x.shape[0] * x.shape[1], -1)
