"""The figures of the page as data: places in the coordinates of an SVG, drawn by the macro of page.html.jinja that `kind` names."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tfkit.carbon.ledger import Attempt
from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.amount_texts import FORECAST_WORDS, forecast_of, format_field
from tfkit.reporting.chart_scales import Points, drawable, thin, ticks, time_ticks
from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.run_set import Entry
from tfkit.reporting.score_curve import score_curve
from tfkit.units import format_count, format_mass, format_seconds

COLOURS = 8  # of lines and parts, in the template
MOST_ANCESTORS = 40
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 230, 58, 366, 12, 190  # of a chart, and of the area of its lines
_BUCKETS = 150
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _DOWN = 164, 62, 16, 44  # of a lineage
_STEP_METRICS = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"}
_MOST_SCORES = 5  # charts of validation scores
_MOST_BARS = 20  # runs in the picture of their scores

Chart = Mapping[str, Any]
Series = Sequence[tuple[int, str, Points]]  # the number of the colour, the label, and the points
Format = Callable[[float], str]


def learning_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return charts of the loss, the validation scores, and other recorded metrics over the steps."""
    scores = list(dict.fromkeys(name for entry in entries for _, values in entry.run.metrics.evaluations[:1] for name in values))
    chosen = sorted((name for name in scores if name != "target_tokens"), key=lambda name: name != "loss")[:_MOST_SCORES]
    charts = [_lines("training loss", "step", _steps(entries, "loss"))]
    for name in chosen:
        curves = [[(point.cost.step, point.value) for point in score_curve(entry.run, name)] for entry in entries]
        charts.append(_lines(f"validation {name.replace('_', ' ')}", "step", _series(entries, curves), marked=True))
    for name, words in _STEP_METRICS.items():
        charts.append(_lines(words, "step", _steps(entries, name), format_count if name == "tokens_per_second" else _number))
    return [chart for chart in charts if chart]


def _steps(entries: Sequence[Entry], name: str) -> Series:
    return _series(entries, [[(one["step"], one[name]) for one in entry.run.metrics.steps if name in one] for entry in entries])


def _series(entries: Sequence[Entry], curves: Sequence[Points]) -> Series:
    return [(colour, entry.label, points) for colour, (entry, points) in enumerate(zip(entries, curves, strict=True))]


def score_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return charts of the scores of the best run, the others and the baselines: one for the runs that were evaluated alike."""
    groups: dict[tuple[str, str], list[tuple[float, Entry]]] = {}
    for entry in entries:
        if (best := entry.run.listed.best) is not None and not entry.run.is_group:
            groups.setdefault((best["metric"], entry.evaluation_key), []).append((best["value"], entry))
    charts = []
    for (metric, _), scored in groups.items():
        is_high = metric.rpartition(".")[2] in HIGHER
        shown = sorted(scored, key=lambda one: one[0], reverse=is_high)[:_MOST_BARS]
        rows = {entry.label: {"another run" if number else "the best run": value} for number, (value, entry) in enumerate(shown)}
        for _, entry in shown:
            known = {name: scores[metric] for name, scores in entry.run.baselines.items() if metric in scores}
            rows |= {f"baseline: {name.replace('_', ' ')}": {"a baseline": value} for name, value in known.items()}
        title = f"{metric} of the best run, the others and baselines ({'higher' if is_high else 'lower'} is better)"
        charts.append(_parts(title, rows, _score) if len(rows) > 1 else None)
    return [chart for chart in charts if chart]


def spending_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return charts of power and emissions over the wall time of all attempts, and of the emissions by phase."""
    curves = [_power_and_emissions(entry.run.attempts) for entry in entries]
    power, grams = (_series(entries, [[(point[0], point[axis]) for point in curve] for curve in curves]) for axis in (1, 2))
    phases = {entry.label: {name: sums["emissions_g"] for name, sums in entry.run.phases.items()} for entry in entries if entry.run.phases}
    charts = [
        _lines("power", "time", power, lambda watts: f"{watts:g} W", format_seconds),
        _lines("CO2e", "time", grams, format_mass, format_seconds),
        _parts("CO2e by phase", phases, format_mass),
    ]
    return [chart for chart in charts if chart]


def _power_and_emissions(ledgers: Sequence[Attempt]) -> list[tuple[float, float, float]]:
    """Return (seconds, watts, grams) over the attempts of a run, one after the other, summed over its nodes."""
    curve: list[tuple[float, float, float]] = []
    start, earlier = 0.0, 0.0
    for number in dict.fromkeys(ledger.header["attempt"] for ledger in ledgers):
        nodes = [ledger for ledger in ledgers if ledger.header["attempt"] == number]
        ticks = sorted((tick[0], node, tick) for node, ledger in enumerate(nodes) for tick in ledger.ticks or ())
        latest: dict[int, tuple[float, float, float]] = {}
        for seconds, node, tick in ticks:
            latest[node] = tick
            grams = earlier + sum(emissions for _, emissions, _ in latest.values())
            curve.append((start + seconds, sum(watts for *_, watts in latest.values()), grams))
        start, earlier = curve[-1][::2] if curve else (0.0, 0.0)
    return curve


def comparison_charts(comparison: Comparison, drawn: Sequence[Entry]) -> list[Chart]:
    """Return a chart of the score of each run over its cost, in its colour among `drawn`."""
    name, labels = comparison.field, [entry.label for entry in drawn]
    series = []
    for index, (label, curve) in enumerate(comparison.curves.items()):
        points = [(value, point.value) for point in curve if (value := getattr(point.cost, name)) is not None]
        series.append((labels.index(label) if label in labels else index, label, points))
    words = comparison.words + ("" if name == "seconds" else " spent")
    title = f"{comparison.metric} over {words}"
    chart = _lines(title, words, series, format_x=partial(format_field, name), marked=True)
    return [chart] if chart else []


def forecast_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return charts of time, energy and emissions, with the range of each forecast and the measured value."""
    charts = []
    for name, words in FORECAST_WORDS.items():
        rows = [(entry.label, [*forecast_of(entry.run, name), getattr(entry.run.amounts, name)]) for entry in entries]
        known = [row for row in rows if all(value is not None and value >= 0 for value in row[1][:3])]
        charts.append(_ranges(f"forecast and measured {words}", known, partial(format_field, name)))
    return [chart for chart in charts if chart]


def _score(value: float) -> str:
    return f"{value:.4g}"


def _number(value: float) -> str:
    """Format a number for an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.6g}"


def _lines(
    title: str, x_name: str, series: Series, format_y: Format = _number, format_x: Format = _number, marked: bool = False
) -> Chart | None:
    """Return a chart with a line for each series; None if there are no two points with different x. `marked`: with a dot at each point."""
    drawn = [(colour % COLOURS, label, drawable(points)) for colour, label, points in series]
    drawn = [(colour, label, points) for colour, label, points in drawn if len(points) > 1 or (points and marked)]
    every = [point for _, _, points in drawn for point in points]
    if len({x for x, _ in every}) < 2:
        return None
    rows = ticks(min(y for _, y in every), max(y for _, y in every))
    left, right = min(x for x, _ in every), max(x for x, _ in every)

    def place(x: float, y: float) -> tuple[float, float]:
        height = (y - rows[0]) / (rows[-1] - rows[0]) * (_BOTTOM - _TOP)
        return _LEFT + (x - left) / (right - left) * (_RIGHT - _LEFT), _BOTTOM - height

    lines = []
    for colour, label, points in drawn:
        places = [place(*point) for point in thin(points, _BUCKETS)]
        lines.append({"label": label, "colour": colour, "places": places, "dots": places if marked and len(places) <= 60 else []})
    columns = [tick for tick in (time_ticks if format_x is format_seconds else ticks)(left, right, 4) if left <= tick <= right]
    ends = "; ".join(f"{label} from {format_y(points[0][1])} to {format_y(points[-1][1])}" for _, label, points in drawn)
    words = {"kind": "lines", "title": title, "alternative": f"{title}, over {x_name}: {ends}", "x_name": x_name}
    layout = {"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _RIGHT, "bottom": _BOTTOM, "lines": lines}
    row_labels = [(place(left, tick)[1], format_y(tick)) for tick in rows]
    return {**words, **layout, "rows": row_labels, "columns": [(place(tick, rows[0])[0], format_x(tick)) for tick in columns]}


def _parts(title: str, rows: Mapping[str, Mapping[str, float]], format_value: Format) -> Chart | None:
    """Return a chart with a bar for each row, divided into its parts and scaled to the largest row; None if all are zero."""
    rows = {label: {name: amount for name, amount in parts.items() if 0 <= amount < 1e30} for label, parts in rows.items()}
    colours: dict[str, int] = {}
    most = max((sum(parts.values()) for parts in rows.values()), default=0.0)
    if not most > 0:
        return None
    bars = []
    for label, parts in rows.items():
        x, pieces = 0.0, []
        for name, amount in parts.items():
            colour = colours.setdefault(name, len(colours) % COLOURS)
            pieces.append((x, amount / most * _WIDTH, colour, f"{name} {format_value(amount)}"))
            x += pieces[-1][1]
        bars.append((label, format_value(sum(parts.values())), pieces))
    return {"kind": "parts", "title": title, "width": _WIDTH, "bars": bars, "names": [*colours.items()]}


def _ranges(title: str, rows: Sequence[tuple[str, Sequence[float | None]]], format_value: Format) -> Chart | None:
    """Return a chart with a line for each label with its likely, low, high and actual value; None if all are zero."""
    most = max((value for _, values in rows for value in values if value is not None), default=0.0)
    if not most > 0:
        return None
    bars = []
    for label, values in rows:
        likely, low, high, actual = ("" if value is None else format_value(value) for value in values)
        words = f"{likely} ({low} to {high})" + (f", measured {actual}" if actual else "")
        bars.append((label, words, *(None if value is None else 6 + value / most * (_WIDTH - 12) for value in values)))
    return {"kind": "ranges", "title": title, "width": _WIDTH, "bars": bars}


def lineage_charts(entries: Sequence[Entry]) -> list[Chart]:
    """Return the lineage of each run that has ancestors, unless they are too many: a box for each model, below its parents."""
    return [_lineage(entry) for entry in entries if 0 < len(entry.inherited.ancestors) <= MOST_ANCESTORS]


def _lineage(entry: Entry) -> Chart:
    ancestors = entry.inherited.ancestors
    parents = [*(ancestor.parents for ancestor in ancestors), entry.inherited.parents]  # last those of the run itself
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
    """Return the models by level, the furthest from the last one first. A cycle, possible only in an edited lineage, is cut."""
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
