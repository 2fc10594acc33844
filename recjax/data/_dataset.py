"""The dataset of a retrieval task: ordered histories, and the queries of training, validation and test."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from recjax.data.interactions import Features, Interactions, Split, offsets
from recjax.data.sequences import PADDING


class Histories(NamedTuple):
    """The events of each user in order, repeats included, in compressed sparse row format (NumPy or JAX).

    Attributes:
      offsets: ``[users + 1]`` int32; the events of user u are ``offsets[u]`` to ``offsets[u + 1]``.
      items: ``[events]`` int32.
      weight: ``[events]`` float32, the weight of each event.
    """

    offsets: Any
    items: Any
    weight: Any


class Queries(NamedTuple):
    """Users at a point in their histories: a model may read only the events before ``end``.

    Attributes:
      user: ``[queries]`` int32.
      end: ``[queries]`` int32, a position in :attr:`Histories.items`: the history is ``offsets[user]`` to ``end``.
    """

    user: Any
    end: Any


class HeldOut(NamedTuple):
    """Queries, and the events to predict for them.

    Attributes:
      user: as in :class:`Queries`.
      end: as in :class:`Queries`.
      until: ``[queries]`` int32; the events to predict are ``end`` to ``until``.
    """

    user: Any
    end: Any
    until: Any


def history_batch(log: Histories, queries: Queries | HeldOut, length: int) -> dict[str, jax.Array]:
    """The model inputs for some queries: user and latest items.

    Args:
      log: the events.
      queries: ``[queries]``; may be traced.
      length: number of latest events to read, static.

    Returns:
      ``user [queries]`` and ``history [queries, length]``, item positions in order of time, left-padded with
      :data:`~recjax.data.PADDING`.

    Examples:
      >>> log = Histories(np.array([0, 3, 4]), np.array([7, 8, 9, 5]), np.ones(4))
      >>> history_batch(log, Queries(np.array([0, 0, 1]), np.array([3, 1, 4])), 2)["history"].tolist()
      [[8, 9], [-1, 7], [-1, 5]]
    """
    user, end = jnp.asarray(queries.user), jnp.asarray(queries.end)
    rows = end[:, None] + jnp.arange(-length, 0)[None]
    inside = rows >= jnp.asarray(log.offsets)[user][:, None]
    items = jnp.asarray(log.items).at[rows].get(mode="fill", fill_value=PADDING, wrap_negative_indices=False)
    return {"user": user, "history": jnp.where(inside, items, PADDING)}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The data of a retrieval task.

    Positions below ``users`` are the users with training events; only these are trained on and evaluated. The log also
    holds the other users' events, because a served model must not recommend seen items.

    Attributes:
      log: the events of each user: training, then validation, then test; each part in order of time, or of the file
        without timestamps.
      users: number of users with training events.
      train_end: ``[all users]`` int32, where each user's validation events begin in the log.
      valid_end: ``[all users]`` int32, where each user's test events begin.
      user_ids: ``[all users]`` raw ids.
      item_ids: ``[items]`` raw ids.
      titles: ``[items]``, ``""`` where unknown.
      user_features: one row per user, or None.
      item_features: one row per item, or None.
      timed: whether the log has timestamps.
      counts: row counts of reading and splitting.
      count_empty: whether users without held-out events are evaluated too, with a score of 0, as some published
        protocols do.
    """

    log: Histories
    users: int
    train_end: np.ndarray
    valid_end: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    titles: np.ndarray
    user_features: Features | None
    item_features: Features | None
    timed: bool
    counts: dict[str, int]
    count_empty: bool = False

    @property
    def items(self) -> int:
        """The size of the catalog."""
        return len(self.item_ids)

    @functools.cached_property
    def last(self) -> Queries:
        """One query per user, after all of the user's training events."""
        return Queries(np.arange(self.users, dtype=np.int32), self.train_end[: self.users])

    @functools.cached_property
    def valid(self) -> HeldOut:
        """The validation events of users with training events."""
        return self._held_out(self.train_end, self.valid_end)

    @functools.cached_property
    def test(self) -> HeldOut:
        """The test events; the histories of their queries include the validation events."""
        return self._held_out(self.valid_end, self.log.offsets[1:])

    def _held_out(self, end: np.ndarray, until: np.ndarray) -> HeldOut:
        users = np.flatnonzero(self.count_empty | (until > end)[: self.users]).astype(np.int32)
        return HeldOut(users, end[users], until[users])

    @functools.cached_property
    def training_rows(self) -> np.ndarray:
        """``[rows]`` int32, the positions of the training events in the log, user by user."""
        lengths = self.train_end[: self.users] - self.log.offsets[: self.users]
        starts = np.repeat(self.log.offsets[: self.users] - (np.cumsum(lengths) - lengths), lengths)
        return (starts + np.arange(lengths.sum())).astype(np.int32)

    @functools.cached_property
    def training_users(self) -> np.ndarray:
        """``[rows]`` int32, the user of each of :attr:`training_rows`."""
        lengths = self.train_end[: self.users] - self.log.offsets[: self.users]
        return np.repeat(np.arange(self.users, dtype=np.int32), lengths)

    def matrix(self, *, weighted: bool = False) -> sp.csr_array:
        """The training events as a sparse matrix ``[users, items]`` float32.

        Args:
          weighted: use the events' weights, of a repeated pair the largest; else ones.
        """
        user, rows = self.training_users, self.training_rows
        pair = user.astype(np.int64) * self.items + self.log.items[rows]
        order = np.lexsort((-self.log.weight[rows], pair))
        first = order[np.diff(pair[order], prepend=-1) != 0]
        values = self.log.weight[rows][first] if weighted else np.ones(len(first), np.float32)
        return sp.csr_array((values, (user[first], self.log.items[rows][first])), shape=(self.users, self.items))

    def popularity(self) -> np.ndarray:
        """``[items]`` int64, the number of training events per item."""
        return np.bincount(self.log.items[self.training_rows], minlength=self.items)

    def with_valid(self) -> "Dataset":
        """The same data with the validation events in training, for the final training run."""
        return dataclasses.replace(self, train_end=self.valid_end)

    def everything(self) -> "Dataset":
        """The same data with all events in training and none held out, for the model that is served in the end."""
        end = self.log.offsets[1:]
        return dataclasses.replace(self, users=len(self.user_ids), train_end=end, valid_end=end)


def dataset(split: Split) -> Dataset:
    """The dataset of a split.

    Args:
      split: from :func:`recjax.data.split_by_time` or another split.

    Returns:
      The dataset; users are renumbered, those with training events first; items keep their positions.

    Examples:
      >>> from recjax.data import Interactions, split_by_time
      >>> ids = np.arange(10).astype(str)
      >>> user, item = np.int32([1] * 8 + [0, 1]), np.arange(10, dtype=np.int32)
      >>> log = Interactions(user, item, ids[:2], ids, timestamp=np.arange(10.0))
      >>> found = dataset(split_by_time(log))
      >>> found.users, found.user_ids.tolist(), found.valid.user.tolist(), found.test.user.tolist()
      (1, ['1', '0'], [], [0])
    """
    parts = split[:3]
    known = np.bincount(split.train.user, minlength=split.users) > 0
    order = np.argsort(~known, kind="stable")
    position = np.empty(split.users, np.int32)
    position[order] = np.arange(split.users, dtype=np.int32)
    user = position[np.concatenate([part.user for part in parts])]
    item = np.concatenate([part.item for part in parts])
    part = np.repeat(np.arange(3), [len(log) for log in parts])
    times = [log.timestamp for log in parts if log.timestamp is not None]
    timed = len(times) == len(parts)
    rows = np.lexsort((np.concatenate(times), part, user) if timed else (part, user))
    counts = np.stack([np.bincount(user[part == p], minlength=split.users) for p in range(3)])
    starts = offsets(user, split.users)
    features = split.train.user_features
    return Dataset(
        log=Histories(starts, item[rows], _weight(parts)[rows]),
        users=int(known.sum()),
        train_end=(starts[:-1] + counts[0]).astype(np.int32),
        valid_end=(starts[:-1] + counts[0] + counts[1]).astype(np.int32),
        user_ids=split.train.user_ids[order],
        item_ids=split.train.item_ids,
        titles=np.full(split.items, "") if split.train.titles is None else split.train.titles,
        user_features=None if features is None else Features(features.values[order], features.names),
        item_features=split.train.item_features,
        timed=timed,
        counts={**split.train.counts, **split.counts},
    )


def _weight(parts: tuple[Interactions, ...]) -> np.ndarray:
    """``[rows]`` in (0, 1]: ratings relative to the 99th percentile of train; 1 without ratings."""
    ratings = [log.rating for log in parts if log.rating is not None]
    if len(ratings) < len(parts):
        return np.ones(sum(map(len, parts)), np.float32)
    # A percentile, not the maximum: in a log of play counts one listener must not set the scale.
    top = max(float(np.quantile(ratings[0], 0.99)), 1e-12)
    return np.clip(np.concatenate(ratings) / top, 0.05, 1.0).astype(np.float32)
