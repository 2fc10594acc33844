"""Interfaces of models: NamedTuples of pure functions over a nested dict of parameters.

``params`` has four parts: ``tables`` (embeddings, dense or compressed) and ``net`` (everything else) are trained;
``fixed`` (features, graphs) is not, and is an argument so that it is not compiled in as a constant; ``auxiliary`` is
trained but not part of the packed model. A batch is a dict of arrays. ``batch["history"]`` is ``[batch, length]`` item
positions in order of time, left-padded with -1.

Any two models with the same interface can be teacher and student of each other.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]


class RetrievalModel(NamedTuple):
    """A retrieval model, which scores items by inner products of query and item vectors.

    Attributes:
      init: ``init(key) -> params``.
      query: ``query(params, batch, key=None) -> [batch, dim]``; ``batch["user"]`` holds user positions. Models with
        dropout also take the keyword ``dropout``, its rate; without a ``key`` nothing is dropped.
      items: ``items(params, ids=None) -> [items or ids, dim]``; the whole catalog without ``ids``.
      hidden_activations: ``hidden_activations(params, batch) -> {name: [batch, width]}``.
      touched: ``touched(batch) -> {table: ids}``, the rows that a step reads, or None for all rows.
      queries: ``queries(params, batch, key=None) -> [batch, length, dim]``, the query after each item of
        ``batch["history"]``; the last one equals ``query``. None for models that are not sequential.
    """

    init: Callable[[jax.Array], Params]
    query: Callable[..., jax.Array]
    items: Callable[..., jax.Array]
    hidden_activations: Callable[[Params, Batch], dict[str, jax.Array]]
    touched: Callable[[Batch], dict[str, jax.Array] | None]
    queries: Callable[..., jax.Array] | None = None


class CTRModel(NamedTuple):
    """A CTR model, which computes logits for the rows of a batch.

    Attributes:
      init: ``init(key) -> params``.
      logit: ``logit(params, batch, key=None) -> [batch, outputs]``; one output for click prediction. Dropout as for
        :class:`RetrievalModel`.
      hidden_activations: ``hidden_activations(params, batch) -> {name: [batch, width]}``.
      touched: as for :class:`RetrievalModel`.
    """

    init: Callable[[jax.Array], Params]
    logit: Callable[..., jax.Array]
    hidden_activations: Callable[[Params, Batch], dict[str, jax.Array]]
    touched: Callable[[Batch], dict[str, jax.Array] | None]
