"""The charts of the HTML report as data: positions in an SVG. A macro of page.html.jinja draws each chart; the chart's field
`kind` has the macro's name.

The axes have ticks at round numbers. Long series are thinned out, but keep their minima and maxima.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tfkit.carbon.ledger import Attempt
from tfkit.reporting.amount_texts import format_field
from tfkit.reporting.equal_score import Comparison, score_curve
from tfkit.reporting.run_set import Entry
from tfkit.units import format_count, format_energy, format_mass, format_seconds, shown_metrics

COLOURS = 8  # the number of colours of lines in style.css.jinja
MOST_ANCESTORS = 40  # maximum number of ancestors of a run whose lineage is drawn
_WIDTH, _HEIGHT, _RIGHT, _TOP, _BOTTOM = 380, 230, 366, 12, 190  # size of a chart and edges of its plot, in SVG units
_CHARACTER = 8  # width of a character in a label of an axis, in SVG units
_BUCKETS = 150  # the number of intervals of x into which a long series is divided
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _DOWN = 164, 62, 16, 44  # sizes and distances of a lineage's boxes, in SVG units
_MOST_SCORES = 5  # for each objective, the maximum number of charts of metrics that are not losses and do not choose checkpoints
_MOST_DOTS = 60  # a line with more points is drawn without dots
_MOST_TICKS = 5  # maximum number of intervals between ticks
# Distances between ticks of an axis of time, in seconds.
_CLOCK = (1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30)), *(3600 * n for n in (1, 2, 3, 6, 12, 24, 48, 120, 240)))

Chart = Mapping[str, Any]
Points = Sequence[tuple[float, float]]
Coloured = Sequence[tuple[int, Entry]]  # runs, each with the index of its colour
Series = Sequence[tuple[int, str, Points]]  # the index of the colour, the label, and the points
Format = Callable[[float], str]


def learning_charts(entries: Sequence[Entry]) -> tuple[list[Chart], list[Chart]]:
    """Return two lists of charts over the steps. The first has losses, learning rates and the metrics that choose checkpoints, the
    second has other metrics (at most _MOST_SCORES for each objective), gradient norms and speeds.

    A chart of a metric or a loss has the runs with the same objective; all other charts have all runs.
    """
    groups: dict[str, list[tuple[int, Entry]]] = {}
    for colour, entry in enumerate(entries):
        if entry.run.metrics.steps or entry.run.metrics.evaluations:
            groups.setdefault(str(entry.run.recipe.get("objective.kind", "")), []).append((colour, entry))
    suffixes = {name: f" ({name})" if len(groups) > 1 and name else "" for name in groups}
    charts = [_learning(coloured, suffixes[name]) for name, coloured in groups.items()]
    everything = [*enumerate(entries)]
    first = [*(chart for ours, _ in charts for chart in ours), _of_steps(everything, "lr", "learning rate")]
    speed = _of_steps(everything, "tokens_per_second", "tokens per second", format_count)
    rest = [*(chart for _, more in charts for chart in more), _of_steps(everything, "grad_norm", "gradient norm"), speed]
    return [chart for chart in first if chart], [chart for chart in rest if chart]


def _learning(runs: Coloured, suffix: str) -> tuple[list[Chart | None], list[Chart | None]]:
    """Return the charts of runs with one objective in two lists: losses and metrics that choose checkpoints, then other metrics."""
    names = dict.fromkeys(name for _, entry in runs for _, values in entry.run.metrics.evaluations[:1] for name in shown_metrics(values))
    chosen = dict.fromkeys(entry.run.score[0] for _, entry in runs if entry.run.score is not None)
    losses = [_of_scores(runs, "loss", suffix), _of_steps(runs, "loss", f"training loss{suffix}")]
    if len(runs) == 1 and all(losses):
        ((colour, entry),) = runs
        curves = [(colour, "validation loss", _scores(entry, "loss")), (colour + 1, "training loss", _steps(entry, "loss"))]
        marks = {"validation loss": _best_step(entry)}
        losses = [_lines(f"loss{suffix}", "step", curves, dotted=True, legend=True, marks=marks)]
    rest = [name for name in names if name not in ("loss", *chosen)][:_MOST_SCORES]
    first = [_of_scores(runs, name, suffix) for name in chosen if name != "loss"]
    return [*first, *losses], [_of_scores(runs, name, suffix) for name in rest]


def _of_scores(runs: Coloured, name: str, suffix: str) -> Chart | None:
    """Return the chart of a validation metric, in which the best checkpoint of each run is marked."""
    series = [(colour, entry.label, _scores(entry, name)) for colour, entry in runs]
    marks = {entry.label: _best_step(entry) for _, entry in runs}
    return _lines(f"validation {name.replace('_', ' ')}{suffix}", "step", series, dotted=True, marks=marks)


def _of_steps(runs: Coloured, name: str, title: str, format_y: Format | None = None) -> Chart | None:
    return _lines(title, "step", [(colour, entry.label, _steps(entry, name)) for colour, entry in runs], format_y or _number)


def _best_step(entry: Entry) -> int | None:
    return (entry.run.listed.best or {}).get("step")


def _scores(entry: Entry, name: str) -> Points:
    return [(point.cost.step, point.value) for point in score_curve(entry.run, name)]


def _steps(entry: Entry, name: str) -> Points:
    return [(one["step"], one[name]) for one in entry.run.metrics.steps if name in one]


def spending_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return the charts of power, energy and emissions over the wall time of all attempts (starts and resumptions)."""
    curves = [(colour, entry.label, _spent(entry.run.attempts)) for colour, entry in enumerate(entries)]
    formats: dict[str, Format] = {"power": lambda watts: f"{watts:g} W", "energy": format_energy, "CO2e": format_mass}
    charts = []
    for axis, (name, write) in enumerate(formats.items(), 1):
        series = [(colour, label, [(point[0], point[axis]) for point in curve]) for colour, label, curve in curves]
        charts += [chart] if (chart := _lines(name, "time", series, write, format_seconds)) else []
    return charts


def _spent(ledgers: Sequence[Attempt]) -> list[tuple[float, float, float, float]]:
    """Return points (seconds, watts, Wh, g) of a run; W, Wh and g are sums over its nodes. All but W continue from the previous attempt."""
    curve: list[tuple[float, float, float, float]] = []
    start = energy = grams = 0.0
    for attempt in dict.fromkeys(ledger.header["attempt"] for ledger in ledgers):
        nodes = [ledger for ledger in ledgers if ledger.header["attempt"] == attempt]
        latest: dict[int, tuple[float, float, float, float]] = {}
        for seconds, node, tick in sorted((tick[0], node, tick) for node, ledger in enumerate(nodes) for tick in ledger.ticks or ()):
            latest[node] = tick
            watts, own_energy, own_grams = (sum(one[place] for one in latest.values()) for place in (3, 1, 2))
            curve.append((start + seconds, watts, energy + own_energy, grams + own_grams))
        start, _, energy, grams = curve[-1] if curve else (0.0, 0.0, 0.0, 0.0)
    return curve


def comparison_charts(comparison: Comparison, drawn: Sequence[Entry]) -> list[Chart]:
    """Return a chart of the score of each run over its cost, or [] if no line can be drawn. `drawn[i]`: the run with colour i."""
    name, labels = comparison.field, [entry.label for entry in drawn]
    series = []
    for index, (label, curve) in enumerate(comparison.curves.items()):
        points = [(value, point.value) for point in curve if (value := getattr(point.cost, name)) is not None]
        series.append((labels.index(label) if label in labels else index, label, points))
    words = comparison.words + ("" if name == "seconds" else " spent")
    title = f"{comparison.metric} over {words}"
    chart = _lines(title, words, series, format_x=partial(format_field, name), dotted=True, legend=True)
    return [chart] if chart else []


def _number(value: float) -> str:
    """Format a number as the label of a tick."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.6g}"


def _lines(
    title: str,
    x_name: str,
    series: Series,
    format_y: Format = _number,
    format_x: Format = _number,
    *,
    dotted: bool = False,
    legend: bool = False,
    marks: Mapping[str, float | None] | None = None,
) -> Chart | None:
    """Return a chart with a line for each series; None unless two points differ in x.

    `dotted`: draw a dot at each point; `marks`: the x of the point to mark, by the label of its series; `legend`: add a legend.
    """
    drawn = [(colour % COLOURS, label, drawable(points)) for colour, label, points in series]
    drawn = [(colour, label, points) for colour, label, points in drawn if len(points) > 1 or (points and dotted)]
    every = [point for _, _, points in drawn for point in points]
    if len({x for x, _ in every}) < 2:
        return None
    rows = ticks(min(y for _, y in every), max(y for _, y in every))
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    margin = 12 + _CHARACTER * max(len(format_y(tick)) for tick in rows)

    def place(x: float, y: float) -> tuple[float, float]:
        height = (y - rows[0]) / (rows[-1] - rows[0]) * (_BOTTOM - _TOP)
        return margin + (x - left) / (right - left) * (_RIGHT - margin), _BOTTOM - height

    lines = []
    for colour, label, points in drawn:
        places = [place(*point) for point in thin(points, _BUCKETS)]
        marked = [point for point in points if point[0] == (marks or {}).get(label)]
        best = {"mark": place(*marked[-1]), "value": f"{marked[-1][1]:.4g}"} if marked else {"mark": None}
        dots = places if dotted and len(places) <= _MOST_DOTS else []
        lines.append({"label": label, "colour": colour, "places": places, "dots": dots, **best})
    columns = [tick for tick in (time_ticks if format_x is format_seconds else ticks)(left, right, 4) if left <= tick <= right]
    ends = "; ".join(f"{label} from {format_y(points[0][1])} to {format_y(points[-1][1])}" for _, label, points in drawn)
    words = {"kind": "lines", "title": title, "alternative": f"{title}, over {x_name}: {ends}", "x_name": x_name, "legend": legend}
    words["marked"] = any(line["mark"] for line in lines)
    layout = {"width": _WIDTH, "height": _HEIGHT, "left": margin, "right": _RIGHT, "bottom": _BOTTOM, "lines": lines}
    row_labels = [(place(left, tick)[1], format_y(tick)) for tick in rows]
    return {**words, **layout, "rows": row_labels, "columns": [(place(tick, rows[0])[0], format_x(tick)) for tick in columns]}


def lineage_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return a chart of the lineage of each run with 1 to MOST_ANCESTORS ancestors: a box for each model, below those of its parents."""
    return [_lineage(entry) for entry in entries if 0 < len(entry.inherited.ancestors) <= MOST_ANCESTORS]


def _lineage(entry: Entry) -> Chart:
    ancestors = entry.inherited.ancestors
    parents = [*(ancestor.parents for ancestor in ancestors), entry.inherited.parents]  # the run's own parents come last
    rows = _generations(parents)
    width = max(len(row) for row in rows) * (_BOX_WIDTH + _GAP)
    corners: dict[int, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        start = (width - len(row) * (_BOX_WIDTH + _GAP)) / 2 + _GAP / 2
        for column, index in enumerate(row):
            corners[index] = (start + column * (_BOX_WIDTH + _GAP), level * (_BOX_HEIGHT + _DOWN) + 1)
    arrows = [(corners[parent], corners[index]) for index in corners for parent in parents[index] if parent in corners]
    own = (entry.label, "this run", entry.run.amounts.emissions_g, "")
    models = [*((ancestor.name, ", ".join(ancestor.roles), ancestor.emissions_g, ancestor.source) for ancestor in ancestors), own]
    boxes = []
    for index, corner in corners.items():
        name, roles, grams, source = models[index]
        kind = "own" if index == len(ancestors) else "known" if grams is not None else "unknown"
        emissions = "cost unknown" if grams is None else format_mass(grams) + (" by its card" if source == "card" else "")
        boxes.append((corner, kind, name, roles, emissions))
    title, height = f"Lineage of {entry.label}", len(rows) * (_BOX_HEIGHT + _DOWN) - _DOWN + 2
    words = {"kind": "lineage", "title": title, "alternative": f"{title}: it was made from {', '.join(one.name for one in ancestors)}"}
    layout = {"width": width, "height": height, "box_width": _BOX_WIDTH, "box_height": _BOX_HEIGHT}
    return {**words, **layout, "is_wide": width > 2 * (_BOX_WIDTH + _GAP), "arrows": arrows, "boxes": boxes}


def _generations(parents: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the indices of models by generation, from the earliest ancestors to the run; cycles, which edited files may have, are cut."""
    own = len(parents) - 1
    depth = {own: 0}
    pending = [own]
    while pending:
        index = pending.pop()
        for parent in parents[index]:
            if parent != own and depth[index] + 1 <= len(parents) and depth.get(parent, -1) < depth[index] + 1:
                depth[parent] = depth[index] + 1
                pending.append(parent)
    levels = ([index for index in sorted(depth) if depth[index] == level] for level in range(max(depth.values()), -1, -1))
    return [level for level in levels if level]


def ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Return at most `most` + 1 round numbers that cover the range from low to high, at distances of 1, 2 or 5 times a power of ten."""
    largest = max(abs(low), abs(high))
    if not high - low > 1e-9 * max(largest, 1e-280):
        margin = largest / 2 if largest > 1e-280 else 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10, 20) if math.ceil(high / (size * power)) - math.floor(low / (size * power)) <= most)
    first = math.floor(low / step)
    return [float(f"{step * index:.12g}") for index in range(first, math.ceil(high / step) + 1)]


def time_ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Return ticks that cover the range, as `ticks` does, for times in seconds: at whole numbers of seconds, minutes, hours or days."""
    step = next((size for size in _CLOCK if (high - low) / size <= most), None)
    if step is None or not high > low:
        return ticks(low, high, most)
    return [float(step * index) for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def thin(points: Points, buckets: int) -> list[tuple[float, float]]:
    """Return all points of a short series, else the first, lowest, highest and last point in each of `buckets` equal intervals of x."""
    if len(points) <= 4 * buckets:
        return list(points)
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    width = (right - left) / buckets or 1.0
    intervals: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        intervals.setdefault(int((point[0] - left) / width), []).append(point)
    kept: list[tuple[float, float]] = []
    for interval in intervals.values():
        extremes = {0, len(interval) - 1, *(choose(range(len(interval)), key=lambda index: interval[index][1]) for choose in (min, max))}
        kept += [interval[index] for index in sorted(extremes)]
    return kept


def drawable(points: Points) -> list[tuple[float, float]]:
    """Return the points whose coordinates are finite, and below 1e30 in magnitude, for which an axis can be computed."""
    return [point for point in points if all(abs(coordinate) < 1e30 for coordinate in point)]
