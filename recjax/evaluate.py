"""Ranking of the whole catalog against held-out events: the one evaluator of training, reports and experiments."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from recjax import metrics
from recjax.data import Dataset, HeldOut, Histories, Queries, Seen, history_batch, uniform_negatives

EPSILON = 1e-6  # added to a standard deviation: a model may score all items of a query alike
Scores = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What published evaluations differ in. Figures of different protocols can't be compared.

    NDCG's ideal ranking has ``min(relevant, k)`` hits in all of them, and recall is divided by all relevant items.

    Attributes:
      exclude_known: leave the items of a query's history out of the ranking, as nearly all do. False ranks them too, as
        protocols for repeated consumption do.
      negatives: rank the held-out items among so many that the user has nowhere, drawn uniformly with replacement,
        rather than among the whole catalog, as He et al., *Neural Collaborative Filtering*, WWW 2017, do with 99.
        Such figures are not comparable between models (Krichene and Rendle, *On Sampled Metrics for Item
        Recommendation*, KDD 2020): for parity with published ones only.
    """

    exclude_known: bool = True
    negatives: int | None = None


class RankedLists(NamedTuple):
    """The best items of each query and which of them are relevant: what every ranking metric takes.

    Attributes:
      user: ``[queries]`` int32 positions.
      items: ``[queries, k]`` int32, best first; -1 where fewer than ``k`` items can be ranked.
      hits: ``[queries, k]`` bool.
      relevant: ``[queries]`` int32, the held-out items that can be ranked, found or not.
    """

    user: jax.Array
    items: jax.Array
    hits: jax.Array
    relevant: jax.Array


class Scorer(NamedTuple):
    """A JAX model that scores the catalog.

    Attributes:
      score: ``score(params, batch) -> [queries, items]``; a batch is that of :func:`recjax.data.history_batch`.
      params: the model's parameters.
      length: events of a history that the model reads.
    """

    score: Callable[[Any, dict[str, jax.Array]], jax.Array]
    params: Any
    length: int


@dataclasses.dataclass(frozen=True)
class _Select:
    """Best items, hits and relevant items of a block of scored queries. Equal where its sizes are.

    Attributes:
      k: length of a list.
      items: size of the catalog.
      known: most events of a history.
      wanted: most events to predict.
      protocol: what is ranked.
    """

    k: int
    items: int
    known: int
    wanted: int
    protocol: Protocol = Protocol()

    def __call__(
        self, scores: jax.Array, log: Histories, part: HeldOut, have: Seen | None = None, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """``[queries, k]`` items and hits, and ``[queries]`` relevant items."""
        user, end, until = part
        finite, lowest = jnp.isfinite(scores), jnp.finfo(scores.dtype).min
        ranked = jnp.where(finite, jnp.where(scores == 0, 0, scores), lowest)  # minus zero equals zero
        wanted = _marked(log, end, until, self.wanted, self.items)
        if self.protocol.exclude_known:
            known = _marked(log, log.offsets[user], end, self.known, self.items)
            ranked, wanted = jnp.where(known, -jnp.inf, ranked), wanted & ~known
        relevant = jnp.sum(wanted, axis=-1, dtype=jnp.int32)
        if key is None or have is None:
            values, best = metrics.top_k(ranked, self.k)
        else:
            key = jax.random.fold_in(key, user[0])
            wrong = uniform_negatives(key, user, have, items=self.items, count=self.protocol.negatives or 0)
            right = _items_between(log, end, until, self.wanted, -1)
            right = jnp.where(jnp.take_along_axis(wanted, jnp.maximum(right, 0), axis=1), right, -1)
            right = jnp.sort(right, axis=1)  # an item that is held out twice is one candidate
            right = right.at[:, 1:].set(jnp.where(right[:, 1:] == right[:, :-1], -1, right[:, 1:]))
            # Negatives first: of equal scores the lower place comes first, and a constant model must not be right.
            candidates = jnp.concatenate([wrong, right], axis=1)
            missing = max(0, self.k - candidates.shape[1])
            candidates = jnp.pad(candidates, ((0, 0), (0, missing)), constant_values=-1)
            of_candidates = jnp.take_along_axis(ranked, jnp.maximum(candidates, 0), axis=1)
            values, place = metrics.top_k(jnp.where(candidates >= 0, of_candidates, -jnp.inf), self.k)
            best = jnp.maximum(jnp.take_along_axis(candidates, place, axis=1), 0)
        possible = values > -jnp.inf
        hits = possible & jnp.take_along_axis(wanted & finite, best, axis=1)
        return jnp.where(possible, best, -1), hits, relevant


def standardized(scores: jax.Array) -> jax.Array:
    """Scores ``[queries, items]`` with mean 0 and standard deviation 1 per query; 0 where all are equal.

    Inner products of one model and regression weights of another then share a scale, and a query's scores do not depend
    on the other queries.
    """
    mean, deviation, low, high = (of(scores, axis=-1, keepdims=True) for of in (jnp.mean, jnp.std, jnp.min, jnp.max))
    return jnp.where(low == high, 0, (scores - mean) / (deviation + EPSILON))  # the mean of equal scores is rounded


def _selection(dataset: Dataset, held: HeldOut, k: int, protocol: Protocol = Protocol()) -> _Select:
    wanted = int((held.until - held.end).max(initial=1))
    return _Select(k, dataset.items, longest_history(dataset, held), wanted, protocol)


def longest_history(dataset: Dataset, queries: Queries | HeldOut) -> int:
    """The most events before a query, at least 1."""
    return max(1, int((queries.end - dataset.log.offsets[queries.user]).max(initial=1)))


@dataclasses.dataclass(frozen=True)
class Ndcg:
    """Mean NDCG at ``k`` of a model's parameters: what a grid validates by. Equal where its settings are.

    Made by :func:`validation`; pure, so it may be vmapped over a population.
    """

    score: Callable[[Any, dict[str, jax.Array]], jax.Array]
    length: int
    select: _Select
    block: int

    def __call__(self, params: Any, data: tuple[Histories, HeldOut]) -> jax.Array:
        """Scalar in [0, 1]."""
        log, held = data

        def block(part: HeldOut) -> jax.Array:
            scores = self.score(params, history_batch(log, part, self.length))
            _, hits, relevant = self.select(scores, log, part)
            return metrics.ndcg(hits, relevant)

        queries = len(held.user)
        return jnp.mean(jax.lax.map(block, _in_blocks(held, min(self.block, queries))).ravel()[:queries])


def validation(
    score: Callable[[Any, dict[str, jax.Array]], jax.Array],
    dataset: Dataset,
    *,
    length: int,
    k: int,
    block: int = 256,
    cells: int = 2**27,
    seed: int = 0,
) -> tuple[Ndcg, tuple[Histories, HeldOut]]:
    """What :func:`recjax.grid.fit` takes as ``validate`` and ``held_out``.

    Args:
      score: see :class:`Scorer`.
      dataset: its validation part is used.
      length: see :class:`Scorer`.
      k: ranks that count.
      block: queries that are scored at once, of each member.
      cells: at most this many queries x items are ranked; of more queries, a random sample.
      seed: draws that sample.

    Returns:
      The metric and its data.
    """
    held = dataset.valid
    if len(held.user) * dataset.items > cells:
        count = max(1, cells // dataset.items)
        kept = np.sort(np.random.default_rng(seed).choice(len(held.user), count, replace=False))
        held = HeldOut(*(part[kept] for part in held))
    data = jax.tree.map(jnp.asarray, (dataset.log, held))
    return Ndcg(score, length, _selection(dataset, held, k), block), data


def rank(
    scorer: Scorer | Scores,
    dataset: Dataset,
    held: HeldOut,
    *,
    k: int,
    protocol: Protocol = Protocol(),
    block: int = 128,
    key: jax.Array | None = None,
) -> RankedLists:
    """The ``k`` best items of every query, block by block.

    Of equal scores the lower position comes first; the readers number items without looking at the rows. A score that
    isn't finite is never a hit, so a model that diverged gets 0.

    Args:
      scorer: see :func:`scored`.
      dataset: whose catalog is ranked.
      held: the queries, ``dataset.valid`` or ``dataset.test``.
      k: length of a list, at most the number of items.
      protocol: what is ranked.
      block: queries that are scored at once.
      key: a typed key, for ``protocol.negatives`` alone.

    Returns:
      :class:`RankedLists`.

    Raises:
      ValueError: if negatives are to be drawn without a key, ``k`` is below 1 or above the catalog, or the scores of
        a block aren't ``[queries, items]``.

    Examples:
      >>> import numpy as np
      >>> from recjax import data
      >>> names = np.array(["a", "b"]), np.array(["x", "y", "z"])
      >>> parts = [data.Interactions(np.int32([0, 1]), np.int32(items), *names) for items in ([0, 1], [1, 2], [2, 0])]
      >>> dataset = data.dataset(data.Split(*parts, {}))
      >>> found = rank(lambda batch: np.array([[9, 1, 2], [9, 9, 3]]), dataset, dataset.valid, k=1)
      >>> print(found.items[:, 0], found.hits[:, 0])
      [2 0] [False False]
    """
    if protocol.negatives is not None and key is None:
        raise ValueError("expected a key to draw the negatives of the protocol with, got None")
    extra = () if protocol.negatives is None else (_everything(dataset.log, held), key)
    select = _selection(dataset, held, k, protocol)
    found = scored(select, scorer, dataset, held, extra=extra, block=block)
    return RankedLists(jnp.asarray(held.user), *found)


def scored(
    keep: Callable[..., Any],
    scorer: Scorer | Scores,
    dataset: Dataset,
    queries: Queries | HeldOut,
    *,
    extra: tuple = (),
    block: int = 128,
) -> Any:
    """A function of the scores of some queries, block by block.

    Memory is bounded by ``block`` rows of scores a device. The blocks of a JAX model are spread over all local devices.

    Args:
      keep: ``keep(scores, log, queries, *extra)``, pure, of a block: a pytree of ``[queries, ...]`` arrays. It is
        compiled, so it should compare equal from one call to the next.
      scorer: a JAX model, or any function from a batch, ``user [queries]`` and ``history [queries, most]`` with -1 in
        front, to ``[queries, items]`` scores, in NumPy or of another library.
      dataset: whose log the queries are of.
      queries: at least one.
      extra: what else ``keep`` needs, the same for all blocks.
      block: queries that are scored at once.

    Returns:
      The pytree, a row a query.

    Raises:
      ValueError: if the scores of a block aren't ``[queries, items]``.
    """
    count = len(queries.user)
    devices = jax.local_devices() if isinstance(scorer, Scorer) else jax.local_devices()[:1]
    block = max(1, min(block, -(-count // len(devices))))
    blocks = _in_blocks(queries, block, multiple=len(devices))
    if isinstance(scorer, Scorer):
        mesh = jax.make_mesh((len(devices),), ("blocks",), devices=devices, axis_types=(AxisType.Auto,))
        shared = jax.device_put((scorer.params, dataset.log, extra), NamedSharding(mesh, P()))
        blocks = jax.device_put(blocks, NamedSharding(mesh, P("blocks")))
        found = _over_devices(keep, scorer.score, scorer.length, dataset.items, mesh, shared, blocks)
    else:
        log, parts, width = jax.tree.map(jnp.asarray, dataset.log), [], longest_history(dataset, queries)
        for number in range(len(blocks.user)):
            part = type(blocks)(*(column[number] for column in blocks))
            batch = {name: np.asarray(values) for name, values in history_batch(log, part, width).items()}
            scores = jnp.asarray(scorer(batch), jnp.float32)
            _check_scores(scores, block, dataset.items)
            parts.append(_kept(keep, scores, log, part, extra))
        found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


@functools.partial(jax.jit, static_argnums=0)
def _kept(keep: Callable[..., Any], scores: jax.Array, log: Histories, part: Any, extra: tuple) -> Any:
    return keep(scores, log, part, *extra)


def _check_scores(scores: jax.Array, queries: int, items: int) -> None:
    if scores.shape != (queries, items):
        raise ValueError(f"expected scores of shape {(queries, items)}, got {scores.shape}")


@functools.partial(jax.jit, static_argnames=("keep", "score", "length", "items", "mesh"))
def _over_devices(
    keep: Callable, score: Callable, length: int, items: int, mesh: Mesh, shared: tuple, blocks: Any
) -> Any:
    """Every device its share of the blocks, one block after another."""

    def on_device(shared: tuple, blocks: Any) -> Any:
        params, log, extra = shared

        def of_block(part: Any) -> Any:
            scores = score(params, history_batch(log, part, length))
            _check_scores(scores, len(part.user), items)
            return keep(scores, log, part, *extra)

        return jax.lax.map(of_block, blocks)

    specs = {"in_specs": (P(), P("blocks")), "out_specs": P("blocks")}
    return jax.shard_map(on_device, mesh=mesh, check_vma=False, **specs)(shared, blocks)


def _in_blocks(queries: Any, block: int, multiple: int = 1) -> Any:
    """``[blocks, block]`` queries, the last ones repeated from the start."""
    count = -(-len(queries.user) // (block * multiple)) * multiple
    return type(queries)(*(jnp.resize(jnp.asarray(column), (count, block)) for column in queries))


def relevant_by_group(dataset: Dataset, held: HeldOut, group: np.ndarray, groups: int) -> np.ndarray:
    """How many items of each group there are to find for each query.

    Args:
      dataset: whose log the queries are of.
      held: the queries.
      group: ``[items]`` int, the group of each item.
      groups: how many there are.

    Returns:
      ``[queries, groups]`` int32; an item that the history has is not counted, and a repeated one counts once.
    """
    log, lengths = dataset.log, held.until - held.end
    query = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.repeat(held.end - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    before = held.end - log.offsets[held.user]
    owner = np.repeat(np.arange(len(before)), before)
    known = np.repeat(log.offsets[held.user] - (np.cumsum(before) - before), before) + np.arange(before.sum())
    wanted = np.unique(query * np.int64(dataset.items) + log.items[rows])
    wanted = np.setdiff1d(wanted, owner * np.int64(dataset.items) + log.items[known], assume_unique=False)
    query, item = np.divmod(wanted, dataset.items)
    found = np.zeros((len(lengths), groups), np.int32)
    np.add.at(found, (query, group[item]), 1)
    return found


def _everything(log: Histories, held: HeldOut) -> Seen:
    """The items that each user has before or among the held-out events."""
    ends = log.offsets[:-1].copy()
    ends[held.user] = held.until
    owner = np.repeat(np.arange(len(ends)), np.diff(log.offsets))
    kept = np.arange(len(log.items)) < ends[owner]
    pairs = np.unique(np.stack([owner[kept], log.items[kept]], axis=1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=len(ends))
    return Seen(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), pairs[:, 1].astype(np.int32))


def _marked(log: Histories, begin: jax.Array, end: jax.Array, width: int, items: int) -> jax.Array:
    """``[queries, items]`` bool, the items of the events from ``begin`` to ``end``, which are at most ``width``."""
    places = jnp.arange(len(begin))[:, None], _items_between(log, begin, end, width, items)
    return jnp.zeros((len(begin), items), bool).at[places].set(True, mode="drop")


def _items_between(log: Histories, begin: jax.Array, end: jax.Array, width: int, other: int) -> jax.Array:
    """``[queries, width]``, the items of those events; ``other`` where there are fewer."""
    rows = begin[:, None] + jnp.arange(width)[None]
    items = log.items.at[rows].get(mode="fill", fill_value=other)
    return jnp.where(rows < end[:, None], items, other)
