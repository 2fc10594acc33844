"""Times two ways of doing the same work by turns, and the row of JSON that says what came out."""

import importlib.metadata
import statistics
import time
from collections.abc import Callable
from typing import Any

from experiments.record import provenance


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
    members: int | None = None,
    rows: int | None = None,
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
      members: students trained at once, where that is what grows.
      rows: rows of a table, where that is what grows.

    Returns:
      Medians and spreads in seconds; ``ratio`` above 1 says that this library is faster; ``ours_first`` has the
      compilation in it.
    """
    first = seconds(ours)
    seconds(theirs)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, other = (sorted(times) for times in zip(*pairs, strict=True))
    medians = statistics.median(mine), statistics.median(other)
    record = provenance(f"python -m benchmarks {benchmark}")
    sizes = {name: value for name, value in (("members", members), ("rows", rows)) if value is not None}
    return {
        "benchmark": benchmark,
        "case": case,
        "peer": peer,
        "ours": medians[0],
        "theirs": medians[1],
        "unit": "s",
        "ratio": medians[1] / medians[0],
        "spread": {"ours": [mine[0], mine[-1]], "theirs": [other[0], other[-1]]},
        "ours_first": first,
        **sizes,
        "device": record["device"],
        "versions": record["versions"] | {package: importlib.metadata.version(package)},
        "commit": record["commit"],
        "command": record["command"],
    }
