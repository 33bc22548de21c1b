"""The charts of the page: losses and scores over the steps, power and emissions over the time, comparisons and forecasts."""

from collections.abc import Sequence
from functools import partial

from tfkit.reporting.amount_texts import format_field
from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.html_elements import Element
from tfkit.reporting.power_ticks import Tick
from tfkit.reporting.run_facts import RunFacts, mapping_of, number_of
from tfkit.reporting.run_set import Entry
from tfkit.reporting.score_curve import score_curve
from tfkit.reporting.svg_charts import Series, line_chart, number, part_bars, range_bars
from tfkit.units import format_count, format_mass, format_seconds

_STEP_METRICS = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"}
_MOST_SCORES = 5  # charts of validation scores
_UNSHOWN = {"target_tokens"}


def learning_charts(entries: Sequence[Entry]) -> list[Element]:
    """Return charts of the loss, the validation scores, and other recorded metrics over the steps."""
    charts = [line_chart("training loss", "step", _steps(entries, "loss"))]
    scores = list(dict.fromkeys(name for entry in entries for _, values in entry.run.metrics.evaluations[:1] for name in values))
    chosen = sorted((name for name in scores if name not in _UNSHOWN), key=lambda name: name != "loss")
    for name in chosen[:_MOST_SCORES]:
        charts.append(line_chart(f"validation {name.replace('_', ' ')}", "step", _evaluations(entries, name)))
    for name, words in _STEP_METRICS.items():
        charts.append(line_chart(words, "step", _steps(entries, name), format_y=format_count if name == "tokens_per_second" else number))
    return [chart for chart in charts if chart is not None]


def spending_charts(entries: Sequence[Entry]) -> list[Element]:
    """Return charts of power and emissions over the wall time of all attempts, and of the emissions by phase."""
    curves = [(entry.label, _power_and_emissions(entry.run.ticks)) for entry in entries]
    power, grams = (
        [Series(label, [(point[0], point[axis]) for point in curve], colour) for colour, (label, curve) in enumerate(curves)]
        for axis in (1, 2)
    )
    by_phase = {
        entry.label: {name: sums["emissions_g"] for name, sums in entry.run.phases.items()} for entry in entries if entry.run.phases
    }
    charts = [
        line_chart("power", "time", power, format_y=lambda watts: f"{watts:g} W", format_x=format_seconds),
        line_chart("CO2e", "time", grams, format_y=format_mass, format_x=format_seconds),
        part_bars("CO2e by phase", by_phase, format_mass),
    ]
    return [chart for chart in charts if chart is not None]


def _power_and_emissions(ticks: Sequence[Tick]) -> list[tuple[float, float, float]]:
    """Return (seconds, watts, grams) over the attempts of a run, one after the other, summed over its nodes."""
    curve: list[tuple[float, float, float]] = []
    start, earlier = 0.0, 0.0
    for attempt in dict.fromkeys(tick.attempt for tick in ticks):
        latest: dict[int, Tick] = {}
        for tick in sorted((tick for tick in ticks if tick.attempt == attempt), key=lambda tick: tick.seconds):
            latest[tick.node] = tick
            grams = earlier + sum(node.emissions_g for node in latest.values())
            curve.append((start + tick.seconds, sum(node.power_w for node in latest.values()), grams))
        start, earlier = curve[-1][0], curve[-1][2]
    return curve


def comparison_chart(comparison: Comparison, name: str, drawn: Sequence[Entry]) -> Element | None:
    """Return a chart of the score of each run over its cost, in its colour among `drawn`; `name`: a field of Cost."""
    colours = {entry.label: colour for colour, entry in enumerate(drawn)}
    series: list[Series] = []
    for label, curve in comparison.curves.items():
        points = [(value, point.value) for point in curve if (value := getattr(point.cost, name)) is not None]
        series.append(Series(label, points, colours.get(label, len(series)), marked=True))
    words = {"emissions_g": "CO2e spent", "energy_kwh": "energy spent", "seconds": "time of the steps"}[name]
    return line_chart(f"{comparison.metric} over {words}", words, series, format_x=lambda value: format_field(name, value))


def forecast_charts(entries: Sequence[Entry]) -> list[Element]:
    """Return charts of time, energy and emissions, with the range of each forecast and the measured value."""
    charts = []
    for name, words in {"seconds": "time", "energy_kwh": "energy", "emissions_g": "CO2e"}.items():
        rows = [row for entry in entries if (row := _forecast(entry.label, entry.run, name)) is not None]
        charts.append(range_bars(f"forecast and measured {words}", rows, partial(format_field, name)))
    return [chart for chart in charts if chart is not None]


def _forecast(label: str, run: RunFacts, name: str) -> tuple[str, float, float, float, float | None] | None:
    predicted = mapping_of(run.predicted, name)
    low, likely, high = (number_of(predicted, end) for end in ("low", "likely", "high"))
    if low is None or likely is None or high is None or min(low, likely, high) < 0:
        return None
    return label, low, likely, high, getattr(run.amounts, name)


def _steps(entries: Sequence[Entry], name: str) -> list[Series]:
    return [
        Series(entry.label, [(record["step"], record[name]) for record in entry.run.metrics.steps if name in record], colour)
        for colour, entry in enumerate(entries)
    ]


def _evaluations(entries: Sequence[Entry], name: str) -> list[Series]:
    return [
        Series(entry.label, [(point.cost.step, point.value) for point in score_curve(entry.run, name)], colour, marked=True)
        for colour, entry in enumerate(entries)
    ]
