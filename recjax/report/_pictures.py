"""The pictures of a run, as SVG that stands inside a page."""

import html
import io
import itertools
import math
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from recjax.report._rows import Row, color, label, metric, number, size, stages, task

_SOFT, _LINE, _EDGE = "#5d6875", "#e1e5ea", "#c3cad2"


def _svg(figure: Figure, described: str) -> str:
    """The figure as an ``<svg>`` element; the same figure gives the same text."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": described, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z.0-9]{4,}_\d+"', "", text)  # the names that every figure repeats
    opening = r'<svg role="img" aria-label="DESCRIBED" \1>'  # no width and height, so that it takes the page's
    text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", opening, text, count=1)
    return text.replace("DESCRIBED", html.escape(described), 1)


def _calm(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_EDGE)
    axes.tick_params(colors=_SOFT, labelsize=9, length=3)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float, float, str, str]],
    line: Sequence[tuple[float, float]],
) -> None:
    """Names beside points, where they cover no other name, point, bar, edge or piece of the line; far ones tied on."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, inside, dots = canvas.get_renderer(), axes.get_window_extent(), figure.dpi / 72  # dots a point
    taken = []
    for x, y, spread, _, _ in points:
        (left, low), (_, high) = axes.transData.transform([(x, y - spread), (x, y + spread)])
        taken.append(Bbox.from_extents(left - 6 * dots, low - 6 * dots, left + 6 * dots, high + 6 * dots))
    corners = axes.transData.transform(line)
    taken += [Bbox([low, high]).padded(dots) for low, high in itertools.pairwise(corners)]
    towards = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for x, y, _, name, shade in points:
        weight = "bold" if name == label("packed") else "normal"
        note = axes.annotate(name, (x, y), fontsize=10, fontweight=weight)
        width, height = note.get_window_extent(renderer).size
        note.remove()
        center_x, center_y = axes.transData.transform((x, y))
        options = []
        for far in (10, 18, 28, 40, 54, 70, 90):
            for dx, dy in towards:
                shift_x, shift_y = dx * (far * dots + width / 2), dy * (far * dots + height / 2)
                middle_x, middle_y = center_x + shift_x, center_y + shift_y
                box = Bbox.from_bounds(middle_x - width / 2, middle_y - height / 2, width, height).padded(2 * dots)
                outside = any(not inside.contains(*corner) for corner in (box.min, box.max))
                covered = box.count_overlaps(taken) + 3 * outside
                options.append((covered, len(options), far, (shift_x / dots, shift_y / dots), box))
        _, _, far, shift, box = min(options, key=lambda option: option[:2])
        taken.append(box)
        tie = {"arrowstyle": "-", "color": _EDGE, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 5} if far > 10 else None
        axes.annotate(
            name, (x, y), shift, textcoords="offset points", ha="center", va="center", fontsize=10, color=shade,
            arrowprops=tie, fontweight=weight,
        )  # fmt: skip


def quality_against_bytes(rows: Sequence[Row]) -> str | None:
    """The metric on the test split against the bytes on disk, with the Pareto front; None without two such points."""
    points, of = [], task(rows)
    for stage, row in stages(rows).items():
        quality, weight = number(row.get(of.metric)), number(row.get("bytes"))
        if quality is not None and weight is not None and weight > 0:
            points.append((weight, quality, number(row.get(f"{of.metric}_sd")) or 0.0, label(stage), color(stage)))
    if len(points) < 2:
        return None
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes = figure.subplots()
    _calm(axes)
    axes.set_xscale("log")
    front = [p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points)]
    front.sort()
    # A staircase: up to a size, nothing is better than the best of the smaller ones.
    line = [front[0][:2]]
    for before, after in itertools.pairwise(front):
        line += [(after[0], before[1]), after[:2]]
    axes.plot(*zip(*line, strict=True), color="#1f8a70", linewidth=1.4, alpha=0.55, zorder=1)
    for weight, quality, spread, _, shade in points:
        best = any(p[:2] == (weight, quality) for p in front)
        axes.errorbar(weight, quality, yerr=spread or None, color=shade, capsize=3, linewidth=1.2, zorder=2)
        axes.plot(
            weight, quality, "o", markersize=8, markerfacecolor=shade if best else "white", markeredgecolor=shade,
            markeredgewidth=1.6, zorder=3,
        )  # fmt: skip
    weights = [p[0] for p in points]
    axes.set_xlim(min(weights) / 3.5, max(weights) * 2.2)
    # A baseline far below would press what is to be compared into one line: then it is named at the edge instead.
    models = [p[1] for p in points if p[3] != label(of.baseline)] or [p[1] for p in points]
    span = max(models) - min(models) or 0.1 * max(models) or 1
    low = [p for p in points if p[1] < min(models) - span]
    shown = [p for p in points if p not in low]
    bottom, top = min(p[1] - p[2] for p in shown), max(p[1] + p[2] for p in shown)
    margin = 0.22 * (top - bottom) or 0.1 * abs(top) or 0.1
    axes.set_ylim(bottom - margin, top + margin)
    for weight, quality, _, name, shade in low:
        axes.annotate(
            f"{name} {quality:.4f}, below", (weight, 0), (0, 26), xycoords=axes.get_xaxis_transform(), color=shade,
            textcoords="offset points", ha="center", fontsize=10, arrowprops={"arrowstyle": "->", "color": shade},
        )  # fmt: skip
    decades = math.log10(max(weights) / min(weights)) + 0.7
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1, 3) if decades < 4.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: size(count)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("weights on disk (log scale); smaller is to the left", color=_SOFT, fontsize=10)
    axes.set_ylabel(f"{metric(of.metric)}, test", color=_SOFT, fontsize=10)
    _place_labels(figure, axes, shown, line)
    said = "; ".join(f"{name} {quality:.4f} at {size(weight)}" for weight, quality, _, name, _ in points)
    return _svg(figure, f"Ranking quality against size. {said}. On the front: {', '.join(p[3] for p in front)}.")


def _series(row: Row, key: str) -> tuple[list[float], list[float]]:
    pairs = zip(row.get("step") or [], row.get(key) or [], strict=False)
    known = [(number(step), number(value)) for step, value in pairs]
    whole = [(step, value) for step, value in known if step is not None and value is not None]
    return [step for step, _ in whole], [value for _, value in whole]


def learning_curves(rows: Sequence[Row]) -> str | None:
    """The validation metric of every grid in one panel, and the loss of each in one of its own; None without curves."""
    of = task(rows).metric
    title, valid = metric(of), f"valid_{of}"
    curves = [row for row in rows if "curve" in row and any(_series(row, k)[0] for k in (valid, "loss"))]
    if not curves:
        return None
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    panels = figure.add_gridspec(2, len(curves), height_ratios=(1.55, 1), hspace=0.06)
    above = figure.add_subplot(panels[0, :])
    _calm(above)
    above.set_title(f"{title}, validation", loc="left", fontsize=10.5, color="#1d2630")
    for position, row in enumerate(curves):
        name, shade = label(row["curve"]), color(row["curve"])
        style = ("-", "--", "-.", ":")[position % 4]
        steps, values = _series(row, valid)
        above.plot(steps, values, style, color=shade, linewidth=1.8, label=name, marker="o" if len(steps) == 1 else "")
        below = figure.add_subplot(panels[1, position])
        _calm(below)
        steps, values = _series(row, "loss")
        below.plot(steps, values, style, color=shade, linewidth=1.6, marker="o" if len(steps) == 1 else "")
        below.set_title(f"Loss: {name}", loc="left", fontsize=10.5, color="#1d2630")
        for axes in (above, below):
            axes.xaxis.set_major_locator(MaxNLocator(4 if axes is below else 8, integer=True))
            axes.set_xlabel("step", color=_SOFT, fontsize=9)
        below.yaxis.set_major_locator(MaxNLocator(4))
    above.legend(frameon=False, fontsize=10, loc="best", labelcolor="linecolor", ncols=2)
    last = [(label(row["curve"]), _series(row, valid)[1]) for row in curves]
    said = "; ".join(f"{name} ends at {values[-1]:.4f}" for name, values in last if values)
    return _svg(figure, f"Learning curves of the chosen settings. Validation {title}: {said or 'not recorded'}.")
