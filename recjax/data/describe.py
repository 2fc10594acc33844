"""What a log of interactions is like, in lines of text."""

import datetime
from collections.abc import Callable, Iterator

import numpy as np

from recjax.data.interactions import Interactions, Split
from recjax.data.learned import EPOCH, time_unit
from recjax.data.split import leave_last_out, split_by_time, split_random
from recjax.errors import InputError

ENOUGH = 1000  # users that resolve differences in a metric
SPLITS: dict[str, Callable[[Interactions], Split]] = {
    "time": split_by_time,
    "last-out": leave_last_out,
    "random": lambda log: split_random(log, 0),
}


def describe_log(log: Interactions) -> list[str]:
    """Lines of text on a log: sizes, time, popularity, what reading dropped, and how many users each split evaluates.

    Args:
      log: from :func:`recjax.data.read`.

    Returns:
      The lines.

    Examples:
      >>> from recjax.data import synthetic
      >>> for line in describe_log(synthetic())[:2]:
      ...     print(line)
      600 users, 799 items, 35,708 rows, density 7.45%
      rows a user: 58 (median), 30 to 90; rows an item: 30 (median), 1 to 292
    """
    lines = [
        f"{log.users:,} users, {log.items:,} items, {len(log):,} rows, density {len(log) / log.users / log.items:.2%}"
    ]
    users, items = (np.bincount(ids, minlength=n) for ids, n in ((log.user, log.users), (log.item, log.items)))
    lines.append(f"rows a user: {_spread(users)}; rows an item: {_spread(items)}")
    lines.append(_span(log.timestamp))
    curve = np.cumsum(np.sort(items)[::-1]) / len(log)
    shares = ", ".join(f"top {share}% of items {curve[-(-log.items * share // 100) - 1]:.1%}" for share in (1, 10, 50))
    lines.append(f"popularity, share of rows: {shares}")
    if log.rating is not None:
        low, high = log.rating.min(), log.rating.max()
        lines.append(
            f"ratings {low:g} to {high:g}: every row is a positive; --min-rating leaves out lower ones, or makes the "
            "label of --task ctr"
        )
    lines += [f"{name.replace('_', ' ')}: {count:,}" for name, count in log.counts.items() if count]
    evaluated = dict(_evaluated(log))
    for name, found in evaluated.items():
        said = f"{found:,} users evaluated on test" if isinstance(found, int) else f"not possible: {found}"
        lines.append(f"--split {name}: {said}")
    return [*lines, f"suited: {_suited(log, users, evaluated)}"]


def _spread(counts: np.ndarray) -> str:
    return f"{np.median(counts):,.0f} (median), {counts.min():,} to {counts.max():,}"


def _span(time: np.ndarray | None) -> str:
    if time is None:
        return "no timestamps"
    first, last = float(time.min()), float(time.max())
    unit = time_unit(time)
    if first <= EPOCH:
        return f"time: from {first:g} to {last:g} in the unit of the log"
    start, end = (datetime.datetime.fromtimestamp(at / unit, datetime.UTC) for at in (first, last))
    return f"time: from {start:%Y-%m-%d} to {end:%Y-%m-%d}, {(end - start).days:,} days"


def _evaluated(log: Interactions) -> Iterator[tuple[str, int | str]]:
    """How many users have rows in train and in test by each split, or why it can't be made."""
    for name, make in SPLITS.items():
        try:
            split = make(log)
        except InputError as error:
            yield name, str(error)
        else:
            yield name, len(np.intersect1d(split.train.user, split.test.user))


def _suited(log: Interactions, rows: np.ndarray, evaluated: dict[str, int | str]) -> str:
    """The split and the task: the future is predicted from the past where enough users are in both."""

    def users(name: str) -> int:
        found = evaluated[name]
        return found if isinstance(found, int) else 0

    if log.timestamp is None:
        return "--split random; no timestamps, so no sequential family"
    split = "time" if users("time") >= min(ENOUGH, users("last-out") / 10) and users("time") else "last-out"
    if not users(split):
        split = "random"
    families = "sequential families too" if np.median(rows) >= 5 else "too few rows a user for sequential families"
    return f"--split {split}; retrieval, {families}"
