"""What each user took in the order of time: logs as sequences, and windows of one length cut from them."""

import os
from typing import NamedTuple

import numpy as np

from recjax.data.interactions import Interactions, offsets, vocabulary
from recjax.errors import InputError

PADDING = -1  # an item that is in no table


class Sequences(NamedTuple):
    """The items that each user took, the earliest first, as a compressed sparse row matrix. NumPy at rest.

    :class:`~recjax.data.Seen` is the same without the order.

    Attributes:
      offsets: ``[users + 1]`` int32; user u took ``items[offsets[u]:offsets[u + 1]]``.
      items: ``[rows]`` int32.
      times: ``[rows]`` float64, when, in the log's own unit; never falls within a user.
    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray


class Windows(NamedTuple):
    """Parts of sequences, all of one length. Padding stands in front, so the last column has the latest items.

    Attributes:
      user: ``[windows]`` int32, whose part it is.
      item: ``[windows, length]`` int32; :data:`PADDING`, -1, in front of what is shorter.
      age: ``[windows, length]`` float32, how long before the window's last item each one was taken, at least 0; 0 at
        padding. An age and no time, because seconds since 1970 are too long for 24 bits.
    """

    user: np.ndarray
    item: np.ndarray
    age: np.ndarray


def read_sequences(path: str | os.PathLike[str], *, repeats: bool = False) -> Interactions:
    r"""A log from a file with one line a user, ``user item item ...``, the earliest item first.

    Separated by blanks; also gzipped. Ids stay the text that they are. A timestamp is the item's place in its line,
    from 0: it orders what one user took, and means nothing between users, so that :func:`leave_last_out` is a split
    for such a log and :func:`split_by_time` is none. Of a repeated item in a line only the first place counts, unless
    ``repeats``. Blank lines, CRLF and a byte order mark are nothing special. The whole file is read into memory.

    Args:
      path: the file.
      repeats: keep every row, repeated items of a user too.

    Returns:
      The log in file order; ``counts`` has ``rows_read`` and, without ``repeats``, ``duplicates_collapsed``.

    Raises:
      InputError: for a file that isn't so, naming the row: a user in two lines
        or without any item among it.

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
    """What users took in any of some logs, in the order of time.

    Of equal timestamps the earlier log comes first, and within a log the order of its rows, by which
    :func:`leave_last_out` breaks ties too. So the sequences of its train part are the past of what is in valid, and
    those of train and valid together are the past of what is in test.

    Args:
      *logs: at least one log with timestamps; all share one vocabulary, as the parts of a :class:`Split` do.

    Returns:
      NumPy arrays.

    Raises:
      InputError: if a log has no timestamps.
      ValueError: if no log is given or their vocabularies differ in size.

    Examples:
      >>> import numpy as np
      >>> from recjax.data import Interactions
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
    """The latest items of every user: what a model of sequences is asked with.

    Args:
      of: the sequences.
      length: columns, at least 1; of longer sequences the earlier items are left out.

    Returns:
      A row a user, in the order of the vocabulary; that of a user without items is all padding.

    Raises:
      ValueError: if ``length`` is below 1.

    Examples:
      >>> import numpy as np
      >>> of = Sequences(np.array([0, 3, 3, 4]), np.array([7, 8, 9, 5]), np.array([0.0, 1.0, 4.0, 0.0]))
      >>> last_items(of, length=2).item.tolist(), last_items(of, length=2).age.tolist()
      ([[8, 9], [-1, -1], [-1, 5]], [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    """
    _check(length, 1)
    users = np.arange(len(of.offsets) - 1)
    return _cut(of, users, of.offsets[1:], length)


def windows(of: Sequences, *, length: int) -> Windows:
    """Sequences cut into windows to train on: in each, every item but the first is the label of those before it.

    They are cut from the end, and the first item of a window is the last one of the window before, so every item but
    the first of its user is a label exactly once. A user with fewer than two items has no window.

    Args:
      of: the sequences.
      length: columns, at least 2: one more than a model sees.

    Returns:
      The windows, those of one user together, the earliest first.

    Raises:
      ValueError: if ``length`` is below 2.

    Examples:
      >>> import numpy as np
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
    """The ``length`` rows before each end, less those of other users."""
    rows = ends[:, None] - np.arange(length, 0, -1)
    inside = rows >= of.offsets[users][:, None]
    rows = np.where(inside, rows, 0)
    if not len(of.items):  # nobody took anything, and there is no row 0
        return Windows(users.astype(np.int32), np.full(rows.shape, PADDING, np.int32), np.zeros(rows.shape, np.float32))
    age = of.times[rows[:, -1:]] - of.times[rows]
    return Windows(
        users.astype(np.int32),
        np.where(inside, of.items[rows], PADDING).astype(np.int32),
        np.where(inside, age, 0).astype(np.float32),
    )


def _check(length: int, least: int) -> None:
    if length < least:
        raise ValueError(f"expected a length of at least {least}, got {length}")
