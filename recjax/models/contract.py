"""What every model is: a NamedTuple of pure functions over one nested dict of parameters.

``params = {"tables": ..., "net": ..., "fixed": ..., "aids": ...}``: ``tables`` (embeddings, or records that stand for
one) and ``net`` (everything else) are trained; ``fixed`` (features, histories) is not and travels as an argument, never
as a constant; ``aids`` are trained but dropped when the model is packed. A batch is a dict of arrays.

Two models with the same contract can be teacher and student of each other, whatever their sizes and families.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]


class Retrieval(NamedTuple):
    """A model that scores an item for a user by an inner product.

    Attributes:
      init: ``init(key) -> params``.
      query: ``query(params, batch, key=None) -> [batch, dim]``; ``batch["user"]`` holds user positions. With a ``key``,
        models that have dropout use it, at the rate of their further keyword ``dropout``.
      items: ``items(params, ids=None) -> [items or ids, dim]``; the whole catalogue without ``ids``.
      taps: ``taps(params, batch) -> {name: [batch, width]}``, the hidden activations that a hint can be taken from.
      touched: ``touched(batch) -> {table: ids}``, the rows that a step reads, or None where it reads all of them.
      queries: ``queries(params, batch, key=None) -> [batch, length, dim]``, the query after each item of
        ``batch["history"]``, which is ``[batch, length]`` item positions; the last one is that of ``query``. What
        models of sequences train on; None where a user is no sequence.
    """

    init: Callable[[jax.Array], Params]
    query: Callable[..., jax.Array]
    items: Callable[..., jax.Array]
    taps: Callable[[Params, Batch], dict[str, jax.Array]]
    touched: Callable[[Batch], dict[str, jax.Array] | None]
    queries: Callable[..., jax.Array] | None = None


class Ranking(NamedTuple):
    """A model that gives logits for the rows of a batch.

    Attributes:
      init: ``init(key) -> params``.
      logit: ``logit(params, batch, key=None) -> [batch, outputs]``; one output where a click is predicted. With a
        ``key``, models that have dropout use it, at the rate of their further keyword ``dropout``.
      taps: ``taps(params, batch) -> {name: [batch, width]}``, the hidden activations.
      touched: as for :class:`Retrieval`.
    """

    init: Callable[[jax.Array], Params]
    logit: Callable[..., jax.Array]
    taps: Callable[[Params, Batch], dict[str, jax.Array]]
    touched: Callable[[Batch], dict[str, jax.Array] | None]
