"""Times two ways of doing the same work by turns, and the row of JSON that says what came out."""

import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from recjax.provenance import provenance


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call; ``work`` waits for its own result."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    benchmark: str,
    case: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    peer: str,
    package: str,
    repeats: int = 9,
    work: tuple[float, float] | None = None,
    unit: str = "s",
    members: int | None = None,
    rows: int | None = None,
    **more: float | str | None,
) -> dict[str, Any]:
    """One row: both warmed up, then timed by turns, so that a busy machine is busy for both.

    Args:
      benchmark: the file's name.
      case: the sizes, in words.
      ours: this library's way; waits for its result.
      theirs: the peer's.
      peer: what the peer does, in words.
      package: the peer's name on the package index.
      repeats: timed calls of each.
      work: how much one call of each does, in what ``unit`` has before "/s"; None where both do the same.
      unit: of ``ours`` and ``theirs``: "s", or a rate where ``work`` is given.
      members: students trained at once, where that is what grows.
      rows: rows of a table, where that is what grows.
      **more: further figures of the row, such as its bar; None is left out.

    Returns:
      Medians and spreads in ``unit``; ``ratio`` above 1 says that this library is faster; ``ours_first`` and
      ``theirs_first`` are seconds of the first calls, compilation and all.
    """
    jax.clear_caches()  # what a check compiled is to count as compilation here
    first = seconds(ours), seconds(theirs)
    # A second warm-up: what the first call leaves, another layout or a result to donate, may compile once more.
    seconds(ours)
    seconds(theirs)
    times = zip(*[(seconds(ours), seconds(theirs)) for _ in range(repeats)], strict=True)
    if work is None:
        mine, other = times
    else:
        mine, other = ([done / t for t in column] for column, done in zip(times, work, strict=True))
    more = {"ours_first": first[0], "theirs_first": first[1], "members": members, "rows": rows, **more}
    return row(benchmark, case, mine, other, peer=peer, package=package, unit=unit, **more)


def row(
    benchmark: str,
    case: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    peer: str,
    package: str,
    unit: str = "s",
    **more: float | str | None,
) -> dict[str, Any]:
    """One row of what was measured by turns; arguments as of :func:`compare`, and every turn's figure in ``unit``."""
    medians = statistics.median(ours), statistics.median(theirs)
    record = provenance(f"python -m benchmarks {benchmark}")
    return {
        "benchmark": benchmark,
        "case": case,
        "peer": peer,
        "ours": medians[0],
        "theirs": medians[1],
        "unit": unit,
        "ratio": medians[1] / medians[0] if unit in ("s", "MB") else medians[0] / medians[1],
        "spread": {"ours": [min(ours), max(ours)], "theirs": [min(theirs), max(theirs)]},
        **{name: value for name, value in more.items() if value is not None},
        "device": record["device"],
        "versions": record["versions"] | {package: importlib.metadata.version(package)},
        "commit": record["commit"],
        "command": record["command"],
    }
