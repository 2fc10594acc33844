"""Ranking against held-out items: one model over a whole catalogue in blocks, or a population inside a step."""

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
from recjax.data import Interactions, Seen, has, seen, uniform_negatives
from recjax.models import Retrieval


class Judged(NamedTuple):
    """Users, what they took next, and what may be ranked for them.

    Attributes:
      user: ``[users]`` int32 positions.
      labels: ``[users, items]`` bool, the held-out items.
      where: ``[users, items]`` bool, False for what the user already had.
    """

    user: jax.Array
    labels: jax.Array
    where: jax.Array


def dense(index: Seen, users: np.ndarray, items: int) -> np.ndarray:
    """Some users' lists as rows: ``[users, items]`` bool.

    Examples:
      >>> import numpy as np
      >>> index = Seen(np.array([0, 2, 2, 3]), np.array([1, 3, 0]))
      >>> dense(index, np.array([2, 0]), 4).astype(int).tolist()
      [[1, 0, 0, 0], [0, 1, 0, 1]]
    """
    out = np.zeros((len(users), items), bool)
    out[index.lists(users)] = True
    return out


def users_with_rows(log: Interactions) -> np.ndarray:
    """The users who have any row in a log, ascending: ``[users]`` int64."""
    return np.flatnonzero(np.bincount(log.user, minlength=len(log.user_ids)))


def judged_users(truth: Interactions, train: Interactions) -> np.ndarray:
    """Users of a held-out part who have a row in train: ``[users]``, ascending.

    Who was never seen before can't be told apart by a model of the past, and is not judged.
    """
    return np.intersect1d(users_with_rows(truth), users_with_rows(train))


def judge(truth: Interactions, train: Interactions, *, cells: int = 2**27, seed: int = 0) -> Judged:
    """The users of a held-out part as arrays for :func:`ndcg`.

    Args:
      truth: the held-out rows.
      train: the rows that are left out of the ranking; see :func:`judged_users` for who is judged.
      cells: at most this many users x items are judged; of more users, a random sample.
      seed: draws that sample.

    Returns:
      A :class:`Judged`.
    """
    users = judged_users(truth, train)
    if len(users) * truth.items > cells:
        users = np.sort(np.random.default_rng(seed).choice(users, max(1, cells // truth.items), replace=False))
    return Judged(
        user=jnp.asarray(users, jnp.int32),
        labels=jnp.asarray(dense(seen(truth), users, truth.items)),
        where=jnp.asarray(~dense(seen(train), users, truth.items)),
    )


def ndcg(model: Retrieval, params: dict[str, Any], judged: Judged, *, k: int, block: int = 256) -> jax.Array:
    """Mean NDCG at ``k`` over the judged users, ranking the whole catalogue.

    Pure, so it may be vmapped over a population. Memory is bounded by ``block`` users at a time.

    Args:
      model: whose query needs ``batch["user"]`` alone.
      params: its parameters, records included.
      judged: see :func:`judge`.
      k: ranks that count.
      block: users that are scored at once.

    Returns:
      Scalar in [0, 1].
    """
    items = model.items(params)

    def of_user(row: Judged) -> jax.Array:
        query = model.query(params, {"user": row.user[None]})[0]
        hits, relevant = metrics.top_hits(items @ query, row.labels, k=k, where=row.where)
        return metrics.ndcg(hits, relevant)

    return jnp.mean(jax.lax.map(of_user, judged, batch_size=min(block, len(judged.user))))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What published evaluations differ in. Figures of different protocols can't be compared.

    NDCG's ideal ranking has ``min(relevant, k)`` hits in all of them, and recall is divided by all relevant items.

    Attributes:
      exclude_train: leave what a user already has out of the ranking, as nearly all do. False ranks it too, as
        protocols for repeated consumption do.
      count_empty: judge users who have a train row but nothing held out: they count as 0 in every mean. Otherwise they
        are left out, as nearly all do.
      negatives: rank the held-out items among so many that the user has nowhere, drawn uniformly with replacement,
        rather than among the whole catalogue, as He et al., *Neural Collaborative Filtering*, WWW 2017, do with 99.
        Such figures are not comparable between models (Krichene and Rendle, *On Sampled Metrics for Item
        Recommendation*, KDD 2020): for parity with published ones only.
    """

    exclude_train: bool = True
    count_empty: bool = False
    negatives: int | None = None


class Ranking(NamedTuple):
    """Each judged user's best items and which of them are right: what every ranking metric takes.

    Attributes:
      user: ``[users]`` int32 positions.
      items: ``[users, k]`` int32, best first; -1 where fewer than ``k`` could be ranked.
      hits: ``[users, k]`` bool.
      relevant: ``[users]`` int32, held-out items that took part, found or not.
    """

    user: jax.Array
    items: jax.Array
    hits: jax.Array
    relevant: jax.Array


def rank(
    queries: jax.Array,
    vectors: jax.Array,
    truth: Interactions,
    train: Interactions,
    *,
    k: int,
    protocol: Protocol = Protocol(),
    block: int = 128,
    key: jax.Array | None = None,
) -> Ranking:
    """The ``k`` best items of every judged user by inner product, block by block.

    Memory is bounded by ``block`` rows of scores a device, and a list is selected in two stages
    (:func:`recjax.metrics.top_k`). Blocks are spread over all local devices; of a CPU, JAX makes one device a core if
    ``jax_num_cpu_devices`` says so, which keeps the cores busy while a list is selected.

    Args:
      queries: ``[users, dim]`` float, one row a user of the vocabulary.
      vectors: ``[items, dim]`` float. A query or a vector that isn't finite is never a hit, so a model that diverged
        gets 0 and not the luck of the item order.
      truth: the held-out rows.
      train: what the model learned from; decides who is judged (see :class:`Protocol`) and what isn't ranked.
      k: length of a list, at most the number of items.
      protocol: who is judged and what is ranked.
      block: users that are scored at once.
      key: a typed key, for ``protocol.negatives`` alone.

    Returns:
      A :class:`Ranking`, on the device.

    Raises:
      ValueError: if the arrays don't belong to the logs or ``k`` to the catalogue, or if negatives are asked for
        without a key.

    Examples:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> names = np.array(["a", "b"]), np.array(["x", "y", "z"])
      >>> train = Interactions(np.int32([0, 1]), np.int32([0, 1]), *names)
      >>> test = Interactions(np.int32([0, 1]), np.int32([1, 2]), *names)
      >>> found = rank(jnp.eye(2), jnp.array([[9.0, 9.0], [1.0, 9.0], [2.0, 3.0]]), test, train, k=1)
      >>> print(found.items[:, 0], found.hits[:, 0])
      [2 0] [False False]
      >>> print(metrics.recall(*rank(jnp.eye(2), jnp.eye(3, 2), test, train, k=2)[2:]))
      [1. 1.]
    """
    queries, vectors = jnp.asarray(queries), jnp.asarray(vectors)
    shapes, expected = (queries.shape[:1], vectors.shape[:1]), ((truth.users,), (truth.items,))
    if shapes != expected or queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        found = f"{queries.shape} and {vectors.shape}"
        raise ValueError(f"expected queries [{truth.users}, dim] and vectors [{truth.items}, dim], found {found}")
    users = users_with_rows(train) if protocol.count_empty else judged_users(truth, train)
    had, answers = seen(train), seen(truth)
    if protocol.exclude_train:
        answers = _without(answers, had, truth.items)
    relevant = np.diff(answers.offsets)[users]

    devices = jax.local_devices()
    block = max(1, min(block, -(-len(users) // len(devices))))
    count = -(-len(users) // (block * len(devices))) * len(devices)  # as many blocks for every device
    places = np.resize(users, count * block)
    blocks = places.reshape(count, block).astype(np.int32)
    if protocol.negatives is None:
        pairs = _pairs(had, places, block) if protocol.exclude_train else (np.zeros((count, 0), np.int32),) * 2
        work, sizes = _rank_all, _Sizes(k)
        shared, per_block = (answers,), (blocks, *pairs)
    elif key is None:
        raise ValueError("expected a key to draw the negatives of the protocol with, found None")
    else:
        work, sizes = _rank_sampled, _Sizes(k, width=int(relevant.max(initial=1)), negatives=protocol.negatives)
        shared, per_block = (answers, seen(truth, train)), (blocks, jax.random.split(key, count))
    mesh = jax.make_mesh((len(devices),), ("blocks",), devices=devices, axis_types=(AxisType.Auto,))
    (queries, users_sound), (vectors, items_sound) = _finite(queries), _finite(vectors)
    model = _Model(queries, users_sound, vectors, items_sound)
    shared = jax.device_put((model, *shared), NamedSharding(mesh, P()))
    per_block = jax.device_put(per_block, NamedSharding(mesh, P("blocks")))
    items, hits = _over_devices(work, mesh, sizes, shared, per_block)
    items, hits = (x.reshape(-1, k)[: len(users)] for x in (items, hits))
    return Ranking(jnp.asarray(users, jnp.int32), items, hits, jnp.asarray(relevant, jnp.int32))


def _without(index: Seen, other: Seen, items: int) -> Seen:
    """What is in one index and not in the other."""
    owners = [np.repeat(np.arange(len(i.offsets) - 1, dtype=np.int64), np.diff(i.offsets)) for i in (index, other)]
    pairs = [owner * items + i.items for owner, i in zip(owners, (index, other), strict=True)]
    left = ~np.isin(*pairs, assume_unique=True)
    counts = np.bincount(owners[0][left], minlength=len(index.offsets) - 1)
    return Seen(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), index.items[left])


def _pairs(index: Seen, places: np.ndarray, block: int) -> tuple[jax.Array, jax.Array]:
    """The lists of every block's users as rows and items, ``[blocks, pairs]`` each; a row past the block is padding."""
    rows, items = index.lists(places)
    owner, row = np.divmod(rows, block)
    counts = np.bincount(owner, minlength=len(places) // block)
    shape = (len(counts), int(counts.max(initial=0)))
    padded = np.full(shape, block, np.int32), np.zeros(shape, np.int32)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    for array, values in zip(padded, (row, items), strict=True):
        array[owner, within] = values
    return jnp.asarray(padded[0]), jnp.asarray(padded[1])


class _Model(NamedTuple):
    """Queries and vectors without what isn't finite, and which rows were."""

    queries: jax.Array
    users_sound: jax.Array
    vectors: jax.Array
    items_sound: jax.Array


def _finite(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    sound = jnp.isfinite(rows).all(axis=-1)
    return jnp.where(sound[:, None], rows, 0), sound


class _Sizes(NamedTuple):
    """What a program's shapes depend on, beside its arguments."""

    k: int
    width: int = 0
    negatives: int = 0


@functools.partial(jax.jit, static_argnames=("work", "mesh", "sizes"))
def _over_devices(work: Callable, mesh: Mesh, sizes: _Sizes, shared: tuple, per_block: tuple) -> tuple:
    """Every device its share of the blocks, one block after another."""

    def on_device(shared: tuple, per_block: tuple) -> tuple:
        return jax.lax.map(functools.partial(work, sizes, *shared), per_block)

    specs = {"in_specs": (P(), P("blocks")), "out_specs": P("blocks")}
    return jax.shard_map(on_device, mesh=mesh, check_vma=False, **specs)(shared, per_block)


def _rank_all(
    sizes: _Sizes, model: _Model, answers: Seen, block: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Best items and hits, ``[users, k]``, of the whole catalogue less the pairs of rows and items."""
    users, rows, items = block
    scores = (model.queries[users] @ model.vectors.T).at[rows, items].set(-jnp.inf, mode="drop")
    values, best = metrics.top_k(scores, sizes.k)
    ranked = values > -jnp.inf
    sound = model.items_sound[best] & model.users_sound[users][:, None]
    right = has(jnp.broadcast_to(users[:, None], best.shape), best, answers)
    return jnp.where(ranked, best, -1), ranked & sound & right


def _rank_sampled(
    sizes: _Sizes, model: _Model, answers: Seen, known: Seen, block: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The same of the held-out items and some that a user has nowhere."""
    users, key = block
    starts, ends = (answers.offsets[users + i][:, None] for i in (0, 1))
    places = starts + jnp.arange(sizes.width, dtype=jnp.int32)[None]
    right = jnp.where(places < ends, answers.items[places], -1)
    wrong = uniform_negatives(key, users, known, items=len(model.vectors), count=sizes.negatives)
    # Negatives first: of equal scores the lower place comes first, and a constant model must not be right.
    candidates = jnp.concatenate([wrong, right], axis=1)
    scores = jnp.einsum("ud,ucd->uc", model.queries[users], model.vectors[candidates])
    scores = jnp.where(candidates >= 0, scores, -jnp.inf)
    short = ((0, 0), (0, max(0, sizes.k - candidates.shape[1])))
    candidates = jnp.pad(candidates, short, constant_values=-1)
    values, best = metrics.top_k(jnp.pad(scores, short, constant_values=-jnp.inf), sizes.k)
    found = jnp.take_along_axis(candidates, best, axis=1)
    sound = model.items_sound[found] & model.users_sound[users][:, None]
    ranked = values > -jnp.inf
    return jnp.where(ranked, found, -1), ranked & sound & (best >= sizes.negatives)
