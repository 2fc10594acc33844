"""What the rows of a run say, and how it is written for people."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from recjax.errors import InputError

Row = dict[str, Any]

MANY = 1000  # evaluated users: with fewer, a report begins with what they don't resolve
MISSING, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


class Task(NamedTuple):
    """What the figures of a task are, and what the reader calls them.

    Attributes:
      metric: what models are chosen by, a key of rows.
      paired: the metric of comparisons.
      unit: what that one is of.
      baseline: the stage with the bar to clear.
      quality: keys and titles of metrics with their standard deviation over seeds.
      others: of metrics without.
      speed: of times, and the format of each.
    """

    metric: str
    paired: str
    unit: str
    baseline: str
    quality: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]
    speed: tuple[tuple[str, str, str], ...]


RETRIEVAL = Task(
    "ndcg@10",
    "ndcg@10",
    "user",
    "popularity",
    (("ndcg@10", "NDCG@10"), ("recall@10", "Recall@10")),
    (("tail_recall@10", "tail"),),
    (("p50_ms", "p50 ms", ".3g"), ("users_per_second", "users/s", ",.0f")),
)
CTR = Task(
    "auc",
    "logloss",
    "row",
    "logistic_regression",
    (("auc", "AUC"),),
    (("logloss", "log loss"), ("calibration_error", "calibration")),
    (("ms_per_1000_rows", "ms/1,000", ".3g"),),
)

STAGES = {  # what the reader calls a stage, what it is, its color
    "popularity": ("Popularity", "The most popular items, the same for everyone: the bar to clear.", "#8b95a1"),
    "logistic_regression": ("Logistic regression", "One weight for each value: the bar to clear.", "#8b95a1"),
    "teacher": ("Teacher", "The large model whose knowledge is handed on.", "#3d4653"),
    "student_alone": (
        "Student alone",
        "The small model, trained on the log only and tuned by a grid of its own.",
        "#b5792a",
    ),
    "distilled": ("Distilled", "The small model, trained on the log and on the teacher's scores.", "#3f6fb0"),
    "pruned": ("+ pruned", "Distilled, with its smallest weights set to zero while it trains.", "#6a5da8"),
    "quantized": ("+ quantized", "Pruned, with its weights rounded to a few bits while it trains.", "#a04f7f"),
    "packed": (
        "Packed artifact",
        "What is on disk, whole numbers in packed bits; scored by its own answers.",
        "#1f8a70",
    ),
}


def read_rows(path: Path) -> list[Row]:
    r"""The rows of a run.

    Args:
      path: a ``results.jsonl``, one object a line. Blank lines are skipped.

    Returns:
      One dict a line, in the order of the file.

    Raises:
      InputError: if the file can't be read or a line is not an object.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "results.jsonl")
      ...     _ = path.write_text('{"stage": "teacher", "bytes": 1000}\n')
      ...     read_rows(path)
      [{'stage': 'teacher', 'bytes': 1000}]
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: expected the results of a run, got no file to read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, got byte {error.start} that is not") from error
    rows = []
    for number_, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number_}: expected a JSON object, got {line[:40]!r}")
        rows.append(row)
    return rows


def number(value: Any) -> float | None:
    """The value as a float; None where it is none, or not finite."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def stages(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows of stages, by name, in order."""
    return {str(row["stage"]): row for row in rows if "stage" in row}


def summary(rows: Iterable[Row]) -> Row:
    """What the run says of itself; empty if it says nothing."""
    return next((row["summary"] for row in rows if isinstance(row.get("summary"), dict)), {})


def task(rows: Iterable[Row]) -> Task:
    """The task of the run."""
    return CTR if summary(rows).get("task") == "ctr" else RETRIEVAL


def comparisons(rows: Iterable[Row]) -> list[Row]:
    """Paired differences over users or rows, in the order of the run: see :func:`recjax.summary.paired_difference`."""
    keys = ("of", "to", "metric", "difference", "low", "high", "users")
    return [{key: row.get(key) for key in keys} for row in summary(rows).get("comparisons") or []]


def unresolved(rows: Sequence[Row]) -> Row | None:
    """What few evaluated users, or rows, don't resolve; None with enough of them, or if their number isn't known.

    Args:
      rows: the rows of ``results.jsonl``.

    Returns:
      ``users``, their ``unit``, and for the ``metric`` of the comparisons the largest ``half_width`` of their
      intervals, None without one.
    """
    found = comparisons(rows)
    users = number(summary(rows).get("evaluated_users"))
    users = min((number(row["users"]) or 0.0 for row in found), default=None) if users is None else users
    if users is None or users >= MANY:
        return None
    of = found[0]["metric"] if found else None
    widths = [
        (high - low) / 2
        for row in found
        if row["metric"] == of and (low := number(row["low"])) is not None and (high := number(row["high"])) is not None
    ]
    return {"users": int(users), "unit": task(rows).unit, "metric": of, "half_width": max(widths, default=None)}


def ratio(above: Any, below: Any) -> float | None:
    """One number over another; None where that is none."""
    top, bottom = number(above), number(below)
    return None if top is None or not bottom else top / bottom


def compression(rows: Sequence[Row], stage: str) -> float | None:
    """How many times smaller than the teacher."""
    found = stages(rows)
    return ratio(found.get("teacher", {}).get("bytes"), found.get(stage, {}).get("bytes"))


def grids(rows: Iterable[Row]) -> list[str]:
    """The names of the grids, in order."""
    return list(dict.fromkeys(str(row.get("grid", "")) for row in rows if "member" in row))


def settings(rows: Sequence[Row], grid: str) -> tuple[list[str], dict[tuple[Any, ...], list[float]], int]:
    """What varies over a grid, the validation metric by seed of each setting, and the number of members."""
    members = [row for row in rows if "member" in row and str(row.get("grid", "")) == grid]
    told = ("member", "grid", "seed", "best_step", "chosen")  # of a member, and not set by its grid
    keys = dict.fromkeys(k for row in members for k in row if k not in told and not k.startswith("valid_"))
    order = ("temperature", "alpha", "learning_rate", "weight_decay", "sparsity", "bits")
    varying = [k for k in (*order, *sorted(set(keys) - set(order))) if len({repr(row.get(k)) for row in members}) > 1]
    varying = [k for k in varying if all(isinstance(row.get(k), str | int | float | None) for row in members)]
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in members:
        score = number(row.get(f"valid_{task(rows).metric}"))
        found.setdefault(tuple(row.get(k) for k in varying), []).extend([] if score is None else [score])
    return varying, found, len(members)


def figure(value: Any, form: str) -> str:
    """A number in a format, or a dash."""
    known = number(value)
    return MISSING if known is None else format(known, form)


def with_sd(row: Row, key: str) -> str:
    """A mean and its standard deviation over seeds, where there is one."""
    spread = number(row.get(f"{key}_sd"))
    return figure(row.get(key), ".4f") + ("" if spread is None else f" ± {spread:.4f}")


def size(count: Any) -> str:
    """Bytes for people, 1 KB being 1,000 bytes."""
    known = number(count)
    if known is None:
        return MISSING
    power = min(3, int(math.log10(max(known, 1)) / 3 + 1e-9))
    return f"{known:,.0f} B" if power == 0 else f"{float(f'{known / 1000**power:.3g}'):g} {'KMG'[power - 1]}B"


def times(factor: float | None) -> str:
    """A factor."""
    return (
        MISSING
        if factor is None
        else f"{factor:,.0f}{TIMES}"
        if factor >= 100
        else f"{float(f'{factor:.3g}'):g}{TIMES}"
    )


def milliseconds(value: Any) -> str:
    """A time in milliseconds, three digits of it."""
    known = number(value)
    return MISSING if known is None else f"{float(f'{known:.3g}'):g}"


def duration(value: Any) -> str:
    """Seconds for people."""
    known = number(value)
    if known is None:
        return MISSING
    return f"{known:.1f} s" if known < 60 else f"{int(known) // 60} min {int(known) % 60} s"


def label(stage: Any) -> str:
    """What the reader calls a stage."""
    return STAGES[stage][0] if stage in STAGES else str(stage).replace("_", " ")


def color(stage: Any) -> str:
    """The color of a stage."""
    return STAGES[stage][2] if stage in STAGES else "#5d6875"


def metric(name: Any) -> str:
    """What the reader calls a metric."""
    text = spaced(name)
    if text == "logloss":
        return "log loss"
    return text.replace("ndcg", "NDCG").replace("auc", "AUC") if "ndcg" in text or "auc" in text else text.capitalize()


def device(value: Any) -> str:
    """What a run was computed on, from its provenance; an older run has it as text."""
    if not isinstance(value, dict):
        return str(value or "")
    kind, count, cores = (value.get(key) for key in ("kind", "count", "cores"))
    return f"CPU, {cores} cores" if value.get("platform") == "cpu" else f"{count} {TIMES} {kind}, {cores} CPU cores"


def setting(value: Any) -> str:
    """The value of a hyperparameter."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def spaced(name: Any) -> str:
    """A name from the rows as words."""
    return str(name).replace("_", " ")


def stage_table(rows: Sequence[Row]) -> Table:
    """The stages of a run as a table for the terminal.

    Args:
      rows: the rows of ``results.jsonl``.

    Returns:
      One row a stage: quality on the test split with its standard deviation over seeds (``tail``: recall of the items
      outside the head; ctr: AUC, log loss, calibration error, and milliseconds per 1,000 rows), size, speed.

    Examples:
      >>> rows = [{"stage": "teacher", "ndcg@10": 0.13, "bytes": 2_000_000}, {"stage": "packed", "bytes": 50_000}]
      >>> [list(column.cells) for column in stage_table(rows).columns][5:7]
      [['2 MB', '50 KB'], ['1×', '40×']]
    """
    table, of = Table(), task(rows)
    table.add_column("stage", no_wrap=True)
    titles = [title for _, title in (*of.quality, *of.others)]
    for name in (*titles, "parameters", "bytes", "x smaller", *(title for _, title, _ in of.speed)):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, row in stages(rows).items():
        table.add_row(
            Text(label(stage)),  # as it is: brackets in a name are no markup
            *(with_sd(row, key) for key, _ in of.quality),
            *(figure(row.get(key), ".4f") for key, _ in of.others),
            figure(row.get("parameters"), ",.0f"),
            size(row.get("bytes")),
            times(compression(rows, stage)),
            *(milliseconds(row.get(key)) if form == ".3g" else figure(row.get(key), form) for key, _, form in of.speed),
        )
    return table
