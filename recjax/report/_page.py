"""The page of a run: one HTML file that needs nothing but itself."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from recjax.files import atomic_file
from recjax.report._pictures import learning_curves, quality_against_bytes
from recjax.report._rows import (
    MISSING,
    STAGES,
    Row,
    color,
    comparisons,
    compression,
    device,
    duration,
    figure,
    grids,
    label,
    metric,
    milliseconds,
    number,
    ratio,
    setting,
    settings,
    size,
    spaced,
    stages,
    summary,
    task,
    times,
    unresolved,
)
from recjax.summary import summary as over_seeds

AGAINST = (("teacher", "minus teacher"), ("student_alone", "minus student alone"))
PAIRED = ("student_alone", "distilled", "packed")


def _plus(value: Any) -> str:
    known = number(value)
    return MISSING if known is None else f"{known:+.4f}".replace("-", "\N{MINUS SIGN}")


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}%"


def _explained(stage: Any) -> str:
    return STAGES[stage][1] if stage in STAGES else ""


def _resolved(row: Row) -> str:
    low, high = number(row["low"]), number(row["high"])
    if low is None or high is None:
        return MISSING
    return "yes" if low > 0 or high < 0 else "no"


def _headline(rows: Sequence[Row]) -> Row | None:
    about, found, of = summary(rows), stages(rows), task(rows)
    teacher, packed = found.get("teacher", {}), found.get("packed", {})
    smaller = number(about.get("compression")) or compression(rows, "packed")
    kept = number(about.get("quality_kept")) or ratio(packed.get(of.metric), teacher.get(of.metric))
    if smaller is None or kept is None:
        return None
    against = _difference(rows, "packed", "teacher")
    undecided = against is not None and _resolved(against) == "no"
    few = unresolved(rows) is not None  # a difference among few users is no headline
    gains = against is not None and (
        (number(against["high"]) or 0) < 0 if of.paired == "logloss" else (number(against["low"]) or 0) > 0
    )
    return {
        "smaller": smaller,
        "kept": kept,
        "unresolved": int(against["users"]) if against and undecided else None,
        "better": not few and gains,
    }


def _difference(rows: Sequence[Row], of: str, to: str) -> Row | None:
    """The comparison of two stages by the paired metric."""
    return next(
        (row for row in comparisons(rows) if (row["of"], row["to"], row["metric"]) == (of, to, task(rows).paired)), None
    )


def _data(rows: Sequence[Row]) -> Row | None:
    users, items, count = (number(summary(rows).get(key)) for key in ("users", "items", "interactions"))
    if not (users and items and count):
        return None
    sizes = {"users": users, "items": items, "interactions": count}
    return {**sizes, "per_user": count / users, "density": 100 * count / users / items}


def _same(chosen: Any, tried: Any) -> bool:
    left, right = number(chosen), number(tried)
    return chosen == tried if left is None or right is None else math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-12)


def _cell(values: Sequence[float], low: float, high: float, picked: bool) -> Row | None:
    if not values:
        return None
    found = over_seeds(values)
    depth = (found.mean - low) / (high - low) if high > low else 1.0
    light, dark = (243, 247, 250), (94, 164, 168)  # text can be read on both
    shade = "#" + "".join(f"{round(a + (b - a) * depth):02x}" for a, b in zip(light, dark, strict=True))
    return {**found._asdict(), "shade": shade, "picked": picked}


def _grid(rows: Sequence[Row], grid: str) -> Row:
    """Every setting of a grid: one table for each value of the third hyperparameter and on, darker for better."""
    keys, found, members = settings(rows, grid)
    scored = {point: over_seeds(values).mean for point, values in found.items() if values}
    told = {"name": label(grid) if grid else "Members", "members": members, "settings": len(found), "scored": scored}
    if not scored:
        return told
    low, high = min(scored.values()), max(scored.values())
    told |= {"low": low, "high": high, "panels": []}
    if not keys:
        return told
    used = stages(rows).get(grid, {}).get("hyperparameters") or {}
    marked = {tuple(row.get(k) for k in keys) for row in rows if row.get("grid") == grid and row.get("chosen")}
    match = [p for p in scored if p in marked] or [
        p for p in scored if all(k in used and _same(used[k], v) for k, v in zip(keys, p, strict=True))
    ]
    picked = match[0] if len(match) == 1 else max(scored, key=lambda point: scored[point])
    columns, lines, others = keys[0], keys[1] if len(keys) > 1 else None, keys[2:]

    def values(position: int) -> list[Any]:
        seen = dict.fromkeys(point[position] for point in found)
        return sorted(seen, key=lambda v: (number(v) is None, number(v) or 0.0, str(v)))

    def cell(*point: Any) -> Row | None:
        return _cell(found.get(point, []), low, high, point == picked)

    for rest in sorted({point[2:] for point in found}, key=lambda p: [(number(v) or 0.0, str(v)) for v in p]):
        title = ", ".join(f"{spaced(k)} {setting(v)}" for k, v in zip(others, rest, strict=True))
        body = (
            [(line, [cell(column, line, *rest) for column in values(0)]) for line in values(1)]
            if lines
            else [(metric(task(rows).metric), [cell(column) for column in values(0)])]
        )
        told["panels"].append({"title": title, "columns": values(0), "rows": body})
    return told | {"columns": columns, "lines": lines}


def _chosen(rows: Sequence[Row]) -> list[tuple[str, Row, str]]:
    told = []
    for stage, row in stages(rows).items():
        used = ", ".join(f"{spaced(k)} {setting(v)}" for k, v in (row.get("hyperparameters") or {}).items())
        if used:
            told.append((stage, row, used))
    return told


def _mean(values: Sequence[float | None]) -> Row:
    known = [value for value in values if value is not None]
    return over_seeds(known)._asdict() if known else {"mean": None, "sd": None}


def _outcome(differences: Sequence[float | None], seeds: Sequence[Any]) -> Row | None:
    """A paired comparison over seeds, losses as plainly as gains."""
    known = [(seed, d) for seed, d in zip(seeds, differences, strict=False) if d is not None]
    if not known:
        return None
    mean, sd = over_seeds([d for _, d in known])
    worse = [str(seed) for seed, d in known if d < 0]
    unclear = sd is not None and abs(mean) < 2 * sd
    wins = sum(d > 0 for _, d in known)
    return {"wins": wins, "seeds": len(known), "mean": mean, "sd": sd, "worse": worse, "unclear": unclear}


def _seeds(rows: Sequence[Row]) -> Row | None:
    found = stages(rows)
    scores = [[number(v) for v in found.get(name, {}).get(f"{task(rows).metric}_by_seed") or []] for name in PAIRED]
    alone, *others = scores
    differences = [
        [None if a is None or b is None else a - b for a, b in zip(own, alone, strict=False)] for own in others
    ]
    count = max(map(len, differences))
    if not count:
        return None
    named = (found.get(name, {}).get("seeds") or [] for name in PAIRED)
    seeds = next((names for names in named if len(names) >= count), range(count))

    def at(columns: Sequence[Sequence[float | None]], row: int) -> list[float | None]:
        return [column[row] if row < len(column) else None for column in columns]

    return {
        "distilled": _outcome(differences[0], seeds),
        "packed": _outcome(differences[1], seeds),
        "rows": [(seeds[row], at(scores, row), at(differences, row)) for row in range(count)],
        "means": [_mean(column) for column in scores],
        "mean_differences": [_mean(column) for column in differences],
    }


def _facts(about: Row) -> list[tuple[str, str]]:
    memory = number(about.get("peak_memory_mb"))
    facts = (
        ("Device", device(about.get("device"))),
        ("Wall time", duration(about.get("seconds"))),
        ("Peak memory", "" if memory is None else f"{memory:,.0f} MB"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items())),
        ("Commit", str(about.get("commit") or "")),
    )
    return [(name, told) for name, told in facts if told not in ("", MISSING)]


def _picture(svg: str | None) -> markupsafe.Markup | None:
    return None if svg is None else markupsafe.Markup(svg)  # drawn here, its text is escaped


def write_report(rows: Sequence[Row], path: Path) -> None:
    """A run as one page that a person can read without the docs.

    The page holds all it needs (pictures, style; no script), is the same for the same rows, and is written atomically.
    What the rows don't have is left out.

    Args:
      rows: the rows of ``results.jsonl``.
      path: the HTML file to write, in a folder that exists.

    Raises:
      OSError: if the file can't be written.

    Examples:
      >>> import pathlib, tempfile
      >>> rows = [{"stage": "teacher", "ndcg@10": 0.13, "bytes": 2_000_000}]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "report.html")
      ...     write_report(rows, path)
      ...     path.read_text(encoding="utf-8")[:15]
      '<!DOCTYPE html>'
    """
    about, found = summary(rows), stages(rows)
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("recjax", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "color": color,
        "explained": _explained,
        "figure": figure,
        "label": label,
        "metric": metric,
        "milliseconds": milliseconds,
        "number": number,
        "plural": _plural,
        "plus": _plus,
        "ratio": ratio,
        "resolved": _resolved,
        "setting": setting,
        "share": _share,
        "size": size,
        "spaced": spaced,
        "times": times,
    }
    differences = comparisons(rows)
    spent, counts = about.get("stage_seconds") or {}, about.get("counts") or {}
    text = page.get_template("page.html").render(
        name=str(about.get("name", "a run")),
        about=about,
        stages=found,
        teacher=found.get("teacher", {}),
        packed=found.get("packed", {}),
        task=task(rows),
        ctr=task(rows).unit == "row",
        bar=number(found.get(task(rows).baseline, {}).get(task(rows).metric)),
        few=unresolved(rows),
        headline=_headline(rows),
        comparisons=differences,
        against=[one for one in AGAINST if any(row["to"] == one[0] for row in differences)],
        difference=lambda of, to: _difference(rows, of, to),
        plot=_picture(quality_against_bytes(rows)),
        seeds=_seeds(rows),
        data=_data(rows),
        counts=[(spaced(key), str(v) if number(v) is None else f"{v:,}") for key, v in counts.items()],
        curves=_picture(learning_curves(rows)),
        chosen=_chosen(rows),
        grids=[_grid(rows, name) for name in grids(rows)],
        facts=_facts(about),
        times_of_stages=[(label(k) if k in STAGES else spaced(k), duration(v)) for k, v in spent.items()],
    )
    with atomic_file(path) as partial:
        partial.write_text(text.lstrip(), encoding="utf-8", newline="\n")
