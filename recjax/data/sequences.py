"""Logs as sequences ordered by time, and fixed-length windows cut from them."""

import os
from typing import NamedTuple

import numpy as np

from recjax.data.interactions import Interactions, offsets, vocabulary
from recjax.errors import InputError

PADDING = -1  # not an item of any table


class Sequences(NamedTuple):
    """The items of each user in order of time, in compressed sparse row format (NumPy arrays).

    Attributes:
      offsets: ``[users + 1]`` int32; user u has ``items[offsets[u]:offsets[u + 1]]``.
      items: ``[rows]`` int32.
      times: ``[rows]`` float64 in the log's own unit; never falls within a user.
    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray


class Windows(NamedTuple):
    """Fixed-length parts of sequences, left-padded: the last column has the latest items.

    Attributes:
      user: ``[windows]`` int32.
      item: ``[windows, length]`` int32, :data:`PADDING` (-1) at padding.
      age: ``[windows, length]`` float32, time before the window's last item, at least 0; 0 at padding. (Seconds since
        1970 would not fit into float32.)
    """

    user: np.ndarray
    item: np.ndarray
    age: np.ndarray


def read_sequences(path: str | os.PathLike[str], *, repeats: bool = False) -> Interactions:
    r"""A log from a file with one line per user, ``user item item ...``, the earliest item first.

    Separated by blanks; also gzipped. Ids are text. The timestamp is the item's place in its line, from 0; it has no
    meaning across users, so split such a log by :func:`leave_last_out` and not by :func:`split_by_time`. Of an item
    repeated in a line, the first place counts, unless ``repeats``. The whole file is read into memory.

    Args:
      path: the file.
      repeats: keep repeated items of a user.

    Returns:
      The log in file order; ``counts`` has ``rows_read`` and, without ``repeats``, ``duplicates_collapsed``.

    Raises:
      InputError: for a malformed file, a user in two lines or a user without items; the message names the row.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "sequences.txt")
      ...     _ = path.write_text("ann x y z\nbob y x y w\n")
      ...     log = read_sequences(path)
      >>> log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist()
      (['ann', 'ann', 'ann', 'bob', 'bob', 'bob'], ['x', 'y', 'z', 'y', 'x', 'w'])
      >>> log.timestamp.tolist(), log.counts
      ([0.0, 1.0, 2.0, 0.0, 1.0, 3.0], {'rows_read': 7, 'duplicates_collapsed': 1})
    """
    from recjax.data import _log

    return _log.read_lines(path, repeats=repeats)


def sequences(*logs: Interactions) -> Sequences:
    """The items of each user in all given logs, in order of time.

    Equal timestamps keep the order of the logs, then of the rows, as in :func:`leave_last_out`.

    Args:
      *logs: at least one log with timestamps; all share one vocabulary, as the parts of a :class:`Split` do.

    Returns:
      NumPy arrays.

    Raises:
      InputError: if a log has no timestamps.
      ValueError: if no log is given or their vocabularies differ in size.

    Examples:
      >>> ids, time = np.array(["a", "b", "c"]), np.array([5.0, 1.0, 3.0, 3.0])
      >>> log = Interactions(np.int32([0, 2, 0, 0]), np.int32([0, 0, 2, 1]), ids, ids, timestamp=time)
      >>> offsets, items, times = sequences(log)
      >>> offsets.tolist(), items.tolist(), times.tolist()
      ([0, 3, 3, 4], [2, 1, 0, 0], [3.0, 3.0, 5.0, 1.0])
    """
    users, _ = vocabulary(logs)
    times = [log.timestamp for log in logs if log.timestamp is not None]
    if len(times) < len(logs):
        raise InputError("sequences: expected a log with timestamps, got none; name timestamp_column")
    user, item, time = (np.concatenate(part) for part in ([x.user for x in logs], [x.item for x in logs], times))
    order = np.lexsort((time, user))  # stable: the order of logs and rows among equals
    return Sequences(offsets(user, users), item[order], time[order])


def last_items(of: Sequences, *, length: int) -> Windows:
    """The latest items of each user, the input of a sequential model at inference.

    Args:
      of: the sequences.
      length: number of latest items, at least 1.

    Returns:
      One row per user, in the order of the vocabulary; all padding for a user without items.

    Raises:
      ValueError: if ``length`` is below 1.

    Examples:
      >>> of = Sequences(np.array([0, 3, 3, 4]), np.array([7, 8, 9, 5]), np.array([0.0, 1.0, 4.0, 0.0]))
      >>> last_items(of, length=2).item.tolist(), last_items(of, length=2).age.tolist()
      ([[8, 9], [-1, -1], [-1, 5]], [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    """
    _check(length, 1)
    users = np.arange(len(of.offsets) - 1)
    return _cut(of, users, of.offsets[1:], length)


def windows(of: Sequences, *, length: int) -> Windows:
    """Training windows: in each, every item but the first is the label of those before it.

    Windows are cut from the end and overlap by one item, so every item but a user's first is a label exactly once. A
    user with fewer than two items has no window.

    Args:
      of: the sequences.
      length: items per window, at least 2: one more than the model's input.

    Returns:
      The windows, grouped by user, the earliest first.

    Raises:
      ValueError: if ``length`` is below 2.

    Examples:
      >>> of = Sequences(np.array([0, 4, 5]), np.array([6, 7, 8, 9, 5]), np.arange(5.0))
      >>> windows(of, length=3).item.tolist(), windows(of, length=3).user.tolist()
      ([[-1, 6, 7], [7, 8, 9]], [0, 0])
    """
    _check(length, 2)
    stride, labels = length - 1, np.maximum(np.diff(of.offsets) - 1, 0)
    counts = -(-labels // stride)
    users = np.repeat(np.arange(len(counts)), counts)
    after = np.cumsum(counts)[users] - 1 - np.arange(len(users))  # windows of the same user that are later
    return _cut(of, users, of.offsets[1:][users] - after * stride, length)


def _cut(of: Sequences, users: np.ndarray, ends: np.ndarray, length: int) -> Windows:
    """The ``length`` rows before each end, without those of other users."""
    rows = ends[:, None] - np.arange(length, 0, -1)
    inside = rows >= of.offsets[users][:, None]
    rows = np.where(inside, rows, 0)
    if not len(of.items):  # there is no row 0
        return Windows(users.astype(np.int32), np.full(rows.shape, PADDING, np.int32), np.zeros(rows.shape, np.float32))
    age = of.times[rows[:, -1:]] - of.times[rows]
    return Windows(
        users.astype(np.int32),
        np.where(inside, of.items[rows], PADDING).astype(np.int32),
        np.where(inside, age, 0).astype(np.float32),
    )


def _check(length: int, least: int) -> None:
    if length < least:
        raise ValueError(f"length: expected at least {least}, got {length}")
