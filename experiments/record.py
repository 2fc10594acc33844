"""What the JSON of every experiment and benchmark says of where its figures came from."""

import concurrent.futures
import importlib.metadata
import json
import multiprocessing
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from recjax import machine
from recjax.files import whole


def commit() -> str | None:
    """The commit of this working tree, with ``-dirty`` if a tracked file other than a result has changed since."""
    here = pathlib.Path(__file__).parent.parent

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return None
    clean = git("diff", "--quiet", "HEAD", "--", ".", ":!experiments/results", ":!benchmarks/results").returncode == 0
    return head.stdout.strip() + ("" if clean else "-dirty")


def provenance(command: str) -> dict[str, Any]:
    """The command, the commit, the device and the versions that a figure belongs to; call it before the work."""
    return {
        "command": command,
        "commit": commit(),
        "device": {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind, "cores": machine.cores()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
    }


def peak_memory(who: int = resource.RUSAGE_SELF) -> int:
    """The most bytes that this process has held so far, or those that it has waited for."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def alone(figures: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Figures taken in a process of their own, with its time, and the most memory that it or one of its own takes."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, figures, *arguments).result()


def _measured(figures: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    machine.one_device_a_core()
    machine.keep_programs()
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


def write(record: dict[str, Any], path: pathlib.Path) -> None:
    """Writes the record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
