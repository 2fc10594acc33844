"""Splits of a log into train, validation and test."""

import numpy as np

from recjax.data.interactions import Interactions, Split
from recjax.errors import InputError


def split_by_time(log: Interactions, *, valid: float = 0.1, test: float = 0.1) -> Split:
    """Temporal split: the last rows of the whole log are test, those before them validation.

    Rows with equal timestamps stay together: a cut inside them moves to their end, so validation is strictly later than
    train, and test than validation. Users and items that first appear after a cut are kept in valid and test, and
    counted.

    Args:
      log: a log with timestamps.
      valid: share of the rows, in (0, 1), before those of test.
      test: share of the rows, in (0, 1).

    Returns:
      The three parts, each in file order.

    Raises:
      InputError: without timestamps, with shares that leave no train, or if a part would be empty.

    Examples:
      >>> ids = np.arange(10).astype(str)
      >>> time = np.array([0, 1, 2, 3, 4, 5, 6, 6, 8, 9.0])  # a cut before the second 6 moves behind it
      >>> log = Interactions(np.zeros(10, np.int32), np.arange(10, dtype=np.int32), ids[:1], ids, timestamp=time)
      >>> split = split_by_time(log, valid=0.2, test=0.1)
      >>> [len(part) for part in (split.train, split.valid, split.test)]
      [8, 1, 1]
    """
    part = time_parts(_timestamps(log, "split_by_time"), valid, test)
    return _make(log, part, {}, "split_by_time", "rows that share a timestamp stay together")


def time_parts(time: np.ndarray, valid: float, test: float) -> np.ndarray:
    """The part of each row, ``[rows]`` 0 train, 1 valid, 2 test, by the rule of :func:`split_by_time`."""
    check_shares(valid, test)
    ordered, rows = np.sort(time), len(time)
    part = np.zeros(rows, np.int8)
    for share in (valid + test, test):
        cut = rows - round(rows * share)
        if cut > 0:  # else train is empty, and the check below raises
            part += time > ordered[cut - 1]
        else:
            part += 1
    return part


def hashed_parts(rows: int, seed: int, *, valid: float, test: float) -> np.ndarray:
    """The part of each row, ``[rows]`` 0 train, 1 valid, 2 test, by a hash of the row's number and the seed.

    A row stays in its part when further rows are appended to the file. The hash is the finalizer of SplitMix64 (Steele,
    Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
    """
    _check_seed(seed)
    x = (np.arange(1, rows + 1, dtype=np.uint64) + (np.uint64(seed) << np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    draw = (x ^ (x >> np.uint64(31))) / 2.0**64
    return np.select([draw < test, draw < test + valid], [2, 1], 0)


def leave_last_out(log: Interactions) -> Split:
    """Leave-one-out split: each user's last row by time is test, the one before it validation, the rest train.

    Ties in time are broken by file order; ``tied_last_rows`` counts the users whose test row shares its timestamp with
    another of their rows. Users with fewer than three rows stay in train; ``users_too_short`` counts them.

    Args:
      log: a log with timestamps.

    Returns:
      The three parts, each in file order.

    Raises:
      InputError: without timestamps, or if no user has three rows.

    Examples:
      >>> ids = np.arange(4).astype(str)
      >>> user, item, time = np.int32([0, 0, 0, 1]), np.arange(4, dtype=np.int32), np.array([5.0, 3.0, 3.0, 1.0])
      >>> log = Interactions(user, item, ids[:2], ids, timestamp=time)
      >>> split = leave_last_out(log)
      >>> split.train.item.tolist(), split.valid.item.tolist(), split.test.item.tolist()
      ([1, 3], [2], [0])
      >>> split.counts["users_too_short"]
      1
    """
    time = _timestamps(log, "leave_last_out")
    order = np.lexsort((time, log.user))  # stable: the file's order among equals
    sizes, from_end = _runs(log, order)
    part = np.where(sizes[log.user] < 3, 0, np.select([from_end == 0, from_end == 1], [2, 1], 0))
    before = np.flatnonzero((log.user[order][1:] == log.user[order][:-1]) & (time[order][1:] == time[order][:-1]))
    counts = {
        "users_too_short": int(((sizes > 0) & (sizes < 3)).sum()),
        "tied_last_rows": int((part[order][before + 1] == 2).sum()),
    }
    return _make(log, part, counts, "leave_last_out", "users with fewer than three rows stay in train")


def split_random(log: Interactions, seed: int, *, valid: float = 0.1, test: float = 0.1) -> Split:
    """Random split of each user's rows, for logs without timestamps; else prefer :func:`split_by_time`.

    Of a user's n rows, ``floor(n * test + 1/2)`` go to test and ``floor(n * valid + 1/2)`` to valid; at least one stays
    in train. With shares of 0.1, users with fewer than five rows have none in valid or test.

    Args:
      log: any log.
      seed: of the NumPy generator; the same seed gives the same split.
      valid: share of each user's rows, in (0, 1).
      test: share of each user's rows, in (0, 1).

    Returns:
      The three parts, each in file order.

    Raises:
      InputError: with shares that leave no train, or if a part would be empty.

    Examples:
      >>> ids = np.arange(10).astype(str)
      >>> log = Interactions(np.zeros(10, np.int32), np.arange(10, dtype=np.int32), ids[:1], ids)
      >>> [len(part) for part in split_random(log, 0, valid=0.2, test=0.3)[:3]]
      [5, 2, 3]
    """
    check_shares(valid, test)
    part = random_parts(log, seed, valid=valid, test=test)
    return _make(log, part, {}, "split_random", "users with few rows stay in train")


def random_parts(log: Interactions, seed: int, *, valid: float, test: float) -> np.ndarray:
    """The part of each row, ``[rows]`` 0 train, 1 valid, 2 test, by the rule of :func:`split_random`."""
    _check_seed(seed)
    draw = np.empty(len(log))
    draw[np.lexsort((log.item, log.user))] = np.random.default_rng(seed).random(len(log))  # whatever the rows' order
    sizes, from_end = _runs(log, np.lexsort((draw, log.user)))
    last = np.minimum(np.floor(sizes * test + 0.5), np.maximum(sizes - 1, 0))
    middle = np.minimum(np.floor(sizes * valid + 0.5), np.maximum(sizes - 1 - last, 0))
    return np.select([from_end < last[log.user], from_end < (last + middle)[log.user]], [2, 1], 0)


def make_split(log: Interactions, part: np.ndarray, counts: dict[str, int]) -> Split:
    """The split of ``log`` by ``part`` (0 train, 1 valid, 2 test), with ``counts`` first in its counts."""
    train, valid, test = (log.take(part == i) for i in range(3))
    users = [int((np.bincount(p.user, minlength=log.users) == 0).sum()) for p in (train, valid, test)]
    items = int((np.bincount(train.item, minlength=log.items) == 0).sum())
    rows = {"train_rows": len(train), "valid_rows": len(valid), "test_rows": len(test)}
    missing = dict(zip(("users_not_in_train", "users_without_valid", "users_without_test"), users, strict=True))
    return Split(train, valid, test, {**counts, **rows, **missing, "items_not_in_train": items})


def _make(log: Interactions, part: np.ndarray, counts: dict[str, int], name: str, rule: str) -> Split:
    split = make_split(log, part, counts)
    sizes = [len(p) for p in split[:3]]
    if min(sizes) == 0:
        found = ", ".join(f"{size:,} {which}" for size, which in zip(sizes, ("train", "valid", "test"), strict=True))
        raise InputError(f"{name}: expected rows in every part, got {found} rows ({rule}); try another split or share")
    return split


def _timestamps(log: Interactions, name: str) -> np.ndarray:
    if log.timestamp is None:
        raise InputError(f"{name}: expected a log with timestamps, got none; name timestamp_column or split at random")
    return log.timestamp


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InputError(f"option seed: expected a whole number of at least 0, got {seed}")


def check_shares(valid: float, test: float) -> None:
    """Refuses shares of valid and test that leave no train."""
    for name, share in (("valid", valid), ("test", test)):
        if not 0 < share < 1:
            raise InputError(f"option {name}: expected a share in (0, 1), got {share}")
    if valid + test >= 1:
        raise InputError(f"options valid and test: expected a sum below 1, got {valid} + {test}")


def _runs(log: Interactions, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows per user, and each row's place from the end of its user's run in ``order`` (sorted by user)."""
    sizes = np.bincount(log.user, minlength=log.users)
    from_end = np.empty(len(log), np.int64)
    from_end[order] = np.cumsum(sizes)[log.user[order]] - 1 - np.arange(len(log))
    return sizes, from_end
