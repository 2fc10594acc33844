"""The page of a run: one HTML file that needs nothing but itself."""

import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recjax.report._pictures import learning_curves, quality_against_bytes
from recjax.report._rows import (
    MISSING,
    STAGES,
    Row,
    color,
    compression,
    duration,
    figure,
    grids,
    label,
    milliseconds,
    number,
    plain,
    ratio,
    setting,
    settings,
    size,
    spaced,
    stages,
    summary,
    times,
    with_sd,
)
from recjax.report._style import STYLE

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _table(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    caption: str = "",
    marked: int | None = None,
    wide: bool = False,
) -> str:
    """A table of cells that are HTML already; the first of each row names it. ``marked``: the row to stress."""
    lines = ['<div class="scroll"><table class="wide">' if wide else '<div class="scroll"><table>']
    if caption:
        lines.append(f"<caption>{caption}</caption>")
    names = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines.append(f"<thead><tr>{names}</tr></thead><tbody>" if names else "<tbody>")
    for position, (first, *rest) in enumerate(body):
        lines.append('<tr class="marked">' if position == marked else "<tr>")
        lines.append(f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _section(title: str, *parts: str | None) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{title}</h2>\n{inside}\n</section>" if inside else ""


def _signed(difference: float | None) -> str:
    if difference is None:
        return MISSING
    text = f"{difference:+.4f}".replace("-", "&minus;")
    return f'<span class="down">{text}</span>' if difference < 0 else text


def _stacked(mean_and_spread: str) -> str:
    """A mean with its spread below it, for a narrow column."""
    mean, sign, spread = mean_and_spread.partition(" ± ")
    return mean + (f"<br><small>± {spread}</small>" if sign else "")


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _headline(rows: Sequence[Row]) -> str:
    about, found = summary(rows), stages(rows)
    teacher, packed = found.get("teacher", {}), found.get("packed", {})
    smaller = number(about.get("compression")) or compression(rows, "packed")
    kept = number(about.get("quality_kept")) or ratio(packed.get("ndcg@10"), teacher.get("ndcg@10"))
    name = plain(about.get("name", "a run"))
    over = f'<p class="over">recjax run · {name}</p>'
    if smaller is None or kept is None:
        none = '<p class="lede">There is no packed artifact here to compare with a teacher.</p>'
        return f"{over}\n<h1>The stages of {name}</h1>\n{none}"
    seeds = len(packed.get("seeds") or [])
    popular = number(found.get("popularity", {}).get("ndcg@10"))
    lede = (
        f"The teacher for {plain(about.get('data', 'this log'))} was turned into a recommender whose weights take "
        f"{size(packed.get('bytes'))} instead of {size(teacher.get('bytes'))}. On interactions that neither had "
        f"seen it ranks with an NDCG@10 of {figure(packed.get('ndcg@10'), '.4f')}, the teacher with "
        f"{figure(teacher.get('ndcg@10'), '.4f')}"
        + ("" if popular is None else f", and a list of what is popular with {popular:.4f}")
        + "."
        + (f" Students are means over {_plural(seeds, 'seed')}." if seeds > 1 else "")
    )
    tiles = [
        (times(smaller), "smaller than the teacher"),
        (f"{100 * kept:.1f}%", "of the teacher's NDCG@10 kept"),
        (size(packed.get("bytes")), "weights on disk"),
        (f"{milliseconds(packed.get('p50_ms'))} ms", "for one user's top 10 (median)"),
        (figure(packed.get("users_per_second"), ",.0f"), "users a second, in batches of 256"),
    ]
    cards = "".join(
        f"<div><dt>{what}</dt><dd>{much}</dd></div>" for much, what in tiles if not much.startswith(MISSING)
    )
    change = f"keeping {100 * kept:.1f}% of its ranking quality" if kept <= 1 else "and ranking better than the teacher"
    title = f"{times(smaller)} smaller than its teacher, {change}"
    return f'{over}\n<h1>{title}</h1>\n<p class="lede">{lede}</p>\n<dl class="tiles">{cards}</dl>'


def _data(rows: Sequence[Row]) -> str:
    about = summary(rows)
    users, items, count = (number(about.get(key)) for key in ("users", "items", "interactions"))
    words = ""
    if users and items and count:
        words = (
            f"<p>{plain(about.get('data', 'The log'))}: <strong>{users:,.0f} users</strong> and "
            f"<strong>{items:,.0f} items</strong> with <strong>{count:,.0f} interactions</strong>, "
            f"{count / users:,.0f} per user on average; {100 * count / users / items:.2g}% of all possible pairs.</p>"
        )
    if about.get("split"):
        words += f"<p>Split: {plain(about['split'])}. Models learn from the training part, settings are chosen on the \
validation part, and every figure called “test” is from the rest, which nothing was chosen on.</p>"
    counts = about.get("counts") or {}
    body = [(spaced(key), f"{plain(v)}" if number(v) is None else f"{v:,}") for key, v in counts.items()]
    return _section("The data", words, _table(("What reading and splitting did", "count"), body) if body else None)


def _stage_section(rows: Sequence[Row]) -> str:
    found = stages(rows)
    if not found:
        return ""
    teacher = number(found.get("teacher", {}).get("ndcg@10"))
    body = []
    for stage, row in found.items():
        explained = f"<small>{STAGES[stage][1]}</small>" if stage in STAGES else ""
        kept = ratio(row.get("ndcg@10"), teacher)
        weight = number(row.get("bytes"))
        body.append(
            (
                f'<span style="color:{color(stage)}">●</span> {plain(label(stage))}{explained}',
                _stacked(with_sd(row, "ndcg@10")),
                _stacked(with_sd(row, "recall@10")),
                _stacked(with_sd(row, "tail_recall@10")),
                MISSING if kept is None else f"{100 * kept:.1f}%",
                figure(row.get("parameters"), ",.0f"),
                size(weight) + (f"<br><small>{weight:,.0f} B</small>" if weight and weight >= 1000 else ""),
                times(compression(rows, stage)),
                milliseconds(row.get("p50_ms")),
                figure(row.get("users_per_second"), ",.0f"),
            )
        )
    head = ("Stage", "NDCG@10", "Recall@10", "Tail recall@10", "of teacher's NDCG", "Parameters", "Weights")
    table = _table(
        (*head, "Times smaller", "One user, ms", "Users a second"),
        body,
        marked=list(found).index("packed") if "packed" in found else None,
        wide=True,
        caption="Test split. ± is one standard deviation over seeds; where it is missing, there was one run.",
    )
    reading = """<p><strong>How to read it.</strong> For each user, every item that they don't have yet is ranked, and
the first ten are looked at. <em>NDCG@10</em> is 1 when the items that the user really chose next stand at the top, less
the lower they stand, and 0 when none is among the ten. <em>Recall@10</em> is the share of the user's next items that is
among the ten. <em>Tail recall@10</em> is the same for the items outside the head, the most popular ones that make up
half of train, over the users who chose such an item next: a student that only repeats what is popular loses it. All are
averages over users: compare them down the column, not with other data or another split.</p>
<p class="note">Parameters are the numbers stored that are not zero. Weights are the bytes of
<code>weights.safetensors</code>, on every row alike; 1 KB is 1,000 bytes. One user: the median time for a top 10 at
batch 1. Users a second: at batch 256.</p>"""
    return _section("Stage by stage", table, reading)


def _pictures_section(rows: Sequence[Row]) -> str:
    plot = quality_against_bytes(rows)
    if plot is None:
        return ""
    told = (
        "Filled points on the green line are the Pareto front: nothing here is both smaller and better. Hollow points \
are beaten by a filled one. Bars are one standard deviation over seeds."
    )
    return _section("Quality against size", f"<figure>{plot}<figcaption>{told}</figcaption></figure>")


def _curves_section(rows: Sequence[Row]) -> str:
    plot = learning_curves(rows)
    if plot is None:
        return ""
    told = "The chosen setting of each grid, mean over seeds. Losses of different stages are sums of different terms: \
read the shape of each, and don't compare their heights."
    return _section("How they learned", f"<figure>{plot}<figcaption>{told}</figcaption></figure>")


def _same(chosen: Any, tried: Any) -> bool:
    left, right = number(chosen), number(tried)
    return chosen == tried if left is None or right is None else math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-12)


def _heat_cell(values: Sequence[float], low: float, high: float, picked: bool) -> str:
    if not values:
        return f"<td>{MISSING}</td>"
    mean = statistics.fmean(values)
    depth = (mean - low) / (high - low) if high > low else 1.0
    light, dark = (243, 247, 250), (94, 164, 168)  # ink can be read on both
    shade = "#" + "".join(f"{round(a + (b - a) * depth):02x}" for a, b in zip(light, dark, strict=True))
    spread = f"<small>± {statistics.stdev(values):.4f}</small>" if len(values) > 1 else ""
    chosen = ' class="best"' if picked else ""
    return f'<td{chosen} style="background:{shade}">{mean:.4f}{" ✓" if picked else ""}{spread}</td>'


def _heat(rows: Sequence[Row], grid: str) -> str:
    """Every setting of a grid: one table a value of the third hyperparameter and on, darker for better."""
    keys, found, members = settings(rows, grid)
    scored = {point: statistics.fmean(values) for point, values in found.items() if values}
    heading = f"<h3>{plain(label(grid)) if grid else 'Members'}</h3>"
    if not scored:
        return f"{heading}<p>No member has a validation NDCG@10.</p>"
    low, high = min(scored.values()), max(scored.values())
    used = stages(rows).get(grid, {}).get("hyperparameters") or {}
    marked = {tuple(row.get(k) for k in keys) for row in rows if row.get("grid") == grid and row.get("chosen")}
    match = [p for p in scored if p in marked] or [
        p for p in scored if all(k in used and _same(used[k], v) for k, v in zip(keys, p, strict=True))
    ]
    picked = match[0] if len(match) == 1 else max(scored, key=lambda point: scored[point])
    told = f"<p>{_plural(members, 'member')}: {_plural(len(found), 'setting')}, {members / len(found):g} a setting. \
Validation NDCG@10 from {low:.4f} to {high:.4f}.</p>"
    if not keys:
        return heading + told
    columns, lines, others = keys[0], keys[1] if len(keys) > 1 else None, keys[2:]

    def values(position: int) -> list[Any]:
        seen = dict.fromkeys(point[position] for point in found)
        return sorted(seen, key=lambda v: (number(v) is None, number(v) or 0.0, str(v)))

    panels = []
    for rest in sorted({point[2:] for point in found}, key=lambda p: [(number(v) or 0.0, str(v)) for v in p]):
        title = ", ".join(f"{spaced(k)} {setting(v)}" for k, v in zip(others, rest, strict=True))
        head = (spaced(lines) + " ↓ &nbsp;" if lines else "") + spaced(columns) + " →"
        text = [f'<div><table class="heat">{f"<caption>{title}</caption>" if title else ""}<thead><tr>']
        text.append(f'<th scope="col">{head}</th>')
        text += [f'<th scope="col">{setting(v)}</th>' for v in values(0)] + ["</tr></thead><tbody>"]
        for line in values(1) if lines else [None]:
            text.append(f'<tr><th scope="row">{setting(line) if lines else "NDCG@10"}</th>')
            for column in values(0):
                point = (column, line, *rest) if lines else (column,)
                text.append(_heat_cell(found.get(point, []), low, high, point == picked))
            text.append("</tr>")
        panels.append("".join(text) + "</tbody></table></div>")
    return heading + told + '<div class="scroll"><div class="heats">' + "\n".join(panels) + "</div></div>"


def _chosen_table(rows: Sequence[Row]) -> str | None:
    body = []
    for stage, row in stages(rows).items():
        used = ", ".join(f"{spaced(k)} {setting(v)}" for k, v in (row.get("hyperparameters") or {}).items())
        if used:
            told = f'<span class="text">{used}</span>'
            body.append((plain(label(stage)), _stacked(with_sd(row, "valid_ndcg@10")), told))
    return _table(("Stage", "Validation NDCG@10", "Chosen"), body) if body else None


def _grid_section(rows: Sequence[Row]) -> str:
    names = grids(rows)
    lead = (
        "<p>Each cell is the mean over the seeds of one setting, with their standard deviation; darker is better, and "
        "✓ marks the setting that was chosen: for an ensemble by what its members reach together, for compression the "
        "cheapest within one standard error of the best. Validation split only: the test split had no say.</p>"
    )
    heats = [lead, *(_heat(rows, name) for name in names)] if names else []
    return _section("What was tried, and chosen", _chosen_table(rows), *heats)


def _told(differences: Sequence[float | None], seeds: Sequence[Any], above: str, below: str) -> str:
    """The outcome of a paired comparison in words, losses as plainly as gains."""
    known = [(seed, d) for seed, d in zip(seeds, differences, strict=False) if d is not None]
    if not known:
        return ""
    mean, wins = statistics.fmean(d for _, d in known), sum(d > 0 for _, d in known)
    text = f"<strong>{above}</strong> is above {below} on {wins} of {_plural(len(known), 'seed')}"
    text += f", by {_signed(mean)} on average"
    worse = [plain(seed) for seed, d in known if d < 0]
    if worse:
        text += f"; it is <span class='down'>below</span> on seed{'s' * (len(worse) > 1)} {', '.join(worse)}"
    if len(known) > 1:
        spread = statistics.stdev(d for _, d in known)
        if abs(mean) < 2 * spread:
            text += (
                f". That is within two standard deviations of the differences (one is {spread:.4f}), so not a clear one"
            )
    return f"<p>{text}.</p>"


def _paired_section(rows: Sequence[Row]) -> str:
    found, paired = stages(rows), summary(rows).get("paired") or {}
    names = ("student_alone", "distilled", "packed")
    scores = {name: [number(v) for v in found.get(name, {}).get("ndcg@10_by_seed") or []] for name in names}

    def differences(key: str, stage: str) -> list[float | None]:
        if paired.get(key):
            return [number(v) for v in paired[key]]
        both = zip(scores[stage], scores["student_alone"], strict=False)
        return [None if a is None or b is None else a - b for a, b in both]

    distilled, packed = differences("distilled_minus_alone", "distilled"), differences("packed_minus_alone", "packed")
    count = max(len(distilled), len(packed))
    if not count:
        return ""
    seeds = next((found[n]["seeds"] for n in names if len(found.get(n, {}).get("seeds") or []) >= count), range(count))

    def at(values: Sequence[float | None], position: int) -> float | None:
        return values[position] if position < len(values) else None

    body = [
        (
            plain(seeds[i]),
            *(figure(at(scores[n], i), ".4f") for n in names),
            _signed(at(distilled, i)),
            _signed(at(packed, i)),
        )
        for i in range(count)
    ]
    means = []
    for series, form in [*((scores[n], figure) for n in names), (distilled, None), (packed, None)]:
        known = [v for v in series if v is not None]
        mean = statistics.fmean(known) if known else None
        spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
        means.append((figure(mean, ".4f") if form else _signed(mean)) + spread)
    head = ("Seed", "Alone", "Distilled", "Packed", "Distilled &minus; alone", "Packed &minus; alone")
    lead = (
        "<p>The seed decides how the weights start and in which order the data comes. Students of one seed share both, "
        "so their differences show with less noise than two means do what the teacher gave and compression took.</p>"
    )
    return _section(
        "Seed by seed",
        lead,
        _told(distilled, seeds, "Distilled", "the student trained alone"),
        _told(packed, seeds, "Packed", "the student trained alone"),
        _table(head, [*body, ("Mean", *means)], caption="NDCG@10, test split.", marked=count),
    )


def _use_section(rows: Sequence[Row]) -> str:
    command = summary(rows).get("command")
    again = f"<p>Run it again:</p><pre>{plain(command)}</pre>" if command else ""
    return _section(
        "Use it",
        "<p>The artifact is the folder beside this page. From the folder that holds both, ten recommendations for "
        "a user of the log:</p>",
        "<pre>recjax recommend artifact --user ID --k 10</pre>",
        again,
        '<p class="note">The figures of this page, row by row, are in <code>results.jsonl</code>, and every setting is '
        "in <code>config.json</code>.</p>",
    )


def _environment_section(rows: Sequence[Row]) -> str:
    about = summary(rows)
    memory = number(about.get("peak_memory_mb"))
    versions = ", ".join(f"{plain(k)} {plain(v)}" for k, v in (about.get("versions") or {}).items())
    facts = [
        ("Device", plain(about["device"]) if about.get("device") else ""),
        ("Wall time", duration(about.get("seconds"))),
        ("Peak memory", "" if memory is None else f"{memory:,.0f} MB"),
        ("Versions", versions),
        ("Commit", plain(about["commit"]) if about.get("commit") else ""),
    ]
    facts = [(name, f'<span class="text">{told}</span>') for name, told in facts if told not in ("", MISSING)]
    spent = about.get("stage_seconds") or {}
    times_ = [(plain(label(k)) if k in STAGES else spaced(k), duration(v)) for k, v in spent.items()]
    return _section(
        "Where it was measured",
        _table((), facts) if facts else None,
        _table(("Part of the run", "Time"), times_) if times_ else None,
    )


def write_report(rows: Sequence[Row], path: Path) -> None:
    """A run as one page that a person can read without the docs.

    The page holds all it needs (pictures, style; no script) and is the same for the same rows. It appears whole or not
    at all. What the rows don't have is left out.

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
    sections = (
        _headline,
        _stage_section,
        _pictures_section,
        _paired_section,
        _data,
        _curves_section,
        _grid_section,
        _use_section,
        _environment_section,
    )
    body = "\n".join(section(rows) for section in sections)
    page = _PAGE.format(title=f"recjax: {plain(summary(rows).get('name', 'a run'))}", style=STYLE, body=body)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(page)
            file.close()
            os.chmod(file.name, 0o644)  # a temporary file is its owner's alone
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
