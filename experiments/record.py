"""How experiments measure, resume and write: processes of their own, figures over seeds, JSON."""

import concurrent.futures
import json
import multiprocessing
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from recjax import machine
from recjax.summary import summary


def over_seeds(values: Sequence[float] | np.ndarray | jax.Array) -> dict[str, Any]:
    """A metric's mean and sample standard deviation over seeds, and its value by each."""
    return {**summary(values)._asdict(), "by_seed": np.asarray(values, np.float64).tolist()}


def plus_minus(metric: dict[str, Any], digits: int = 4) -> str:
    """A metric of :func:`over_seeds` as text, without a standard deviation where there is one seed."""
    spread = f" ± {metric['sd']:.{digits}f}" if metric["sd"] else ""  # older results have 0 where there is one seed
    return f"{metric['mean']:.{digits}f}{spread}"


def peak_memory(who: int = resource.RUSAGE_SELF) -> int:
    """The most bytes that this process has held so far, or those that it has waited for."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def alone(figures: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Figures taken in a process of their own, with its time, and the most memory that it or one of its own takes."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, figures, *arguments).result()


def _measured(figures: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    machine.one_device_per_core()
    machine.enable_compilation_cache()
    began = time.perf_counter()
    found = figures(*arguments)
    most = max(peak_memory(), peak_memory(resource.RUSAGE_CHILDREN))
    return {**found, "seconds": time.perf_counter() - began, "peak_memory_bytes": most}


def measured_before(path: pathlib.Path | None, config: dict[str, Any]) -> dict[str, Any]:
    """The models that a run with the same settings has written to its JSON before it was cut, each with its commit."""
    if path is None or not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    same = {name: record["config"].get(name) for name in config} == config
    return stamped(record) if same else {}


def stamped(record: dict[str, Any]) -> dict[str, Any]:
    """The models of a record, each with its commit."""
    return {name: {"commit": record["commit"], **one} for name, one in record["models"].items()}


def resumed(
    known: dict[str, Any],
    planned: Iterable[str],
    commit: str | None,
    figures: Callable[..., dict[str, Any]],
    *rest: Any,
) -> Iterator[dict[str, Any]]:
    """All rows that are there, after each measurement anew: one that is cut loses the row that it was at, no other.

    Args:
      known: the rows of an earlier run, by name, each with its commit; they are not measured again.
      planned: the names, in the order of the rows.
      commit: of what is measured now.
      figures: ``figures(name, *rest)`` measures a row, in a process of its own; see :func:`alone`.
      rest: what it takes beside the name.

    Yields:
      The rows by name, in the order of the plan; once if there is nothing to measure.
    """
    planned = list(planned)
    rows = {name: known[name] for name in planned if name in known}
    missing = [name for name in planned if name not in known]
    if not missing:
        yield rows
    for name in missing:
        measured = rows | {name: {"commit": commit, **alone(figures, name, *rest)}}
        rows = {one: measured[one] for one in planned if one in measured}
        yield rows


def say(name: str, metric: str) -> Callable[[int, int, float | None], None]:
    """Prints the progress of :func:`recjax.grid.fit`: epochs, the best validation so far and the seconds since now."""
    began = time.perf_counter()

    def progress(done: int, total: int, best: float | None) -> None:
        spent = time.perf_counter() - began
        print(f"{name}: epoch {done} of at most {total}, best {metric} {best}, {spent:.0f} s", flush=True)

    return progress
