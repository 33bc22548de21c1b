"""The figures of the page: what was learned over the steps, and what was spent over the time."""

from collections.abc import Sequence

from tfkit.reporting.amount_texts import shown
from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.html_elements import Element
from tfkit.reporting.loss_course import course_of
from tfkit.reporting.power_ticks import Tick
from tfkit.reporting.run_facts import RunFacts, mapping_of, number_of
from tfkit.reporting.run_set import Entry
from tfkit.reporting.svg_charts import Series, line_chart, number, part_bars, range_bars
from tfkit.units import format_count, format_mass, format_seconds

_OF_STEPS = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens a second"}
_MOST_SCORES = 5  # of the charts of validation scores
_UNSHOWN = {"target_tokens"}


def learning_charts(entries: Sequence[Entry]) -> list[Element]:
    """Return the loss, the validation scores, and what else is recorded of each step, over the steps."""
    charts = [line_chart("training loss", "step", _steps(entries, "loss"))]
    scores = list(dict.fromkeys(name for one in entries for _, values in one.run.metrics.evaluations[:1] for name in values))
    chosen = sorted((name for name in scores if name not in _UNSHOWN), key=lambda name: name != "loss")
    for name in chosen[:_MOST_SCORES]:
        charts.append(line_chart(f"validation {name.replace('_', ' ')}", "step", _evaluations(entries, name)))
    for name, words in _OF_STEPS.items():
        charts.append(line_chart(words, "step", _steps(entries, name), up=format_count if name == "tokens_per_second" else number))
    return [chart for chart in charts if chart is not None]


def spending_charts(entries: Sequence[Entry]) -> list[Element]:
    """Return power and emissions over the wall time, all attempts one after the other, and the phases."""
    courses = [(one.label, over_time(one.run.ticks)) for one in entries]
    power, grams = (
        [Series(label, [(point[0], point[place]) for point in course], colour) for colour, (label, course) in enumerate(courses)]
        for place in (1, 2)
    )
    by_phase = {one.label: {name: sums["emissions_g"] for name, sums in one.run.phases.items()} for one in entries if one.run.phases}
    charts = [
        line_chart("power", "time", power, up=lambda watts: f"{watts:g} W", along=format_seconds),
        line_chart("CO2e", "time", grams, up=format_mass, along=format_seconds),
        part_bars("CO2e by phase", by_phase, format_mass),
    ]
    return [chart for chart in charts if chart is not None]


def over_time(ticks: Sequence[Tick]) -> list[tuple[float, float, float]]:
    """Return (seconds, watts, grams) over the attempts of a run: attempts follow each other, and nodes add up."""
    course: list[tuple[float, float, float]] = []
    start, spent = 0.0, 0.0
    for attempt in dict.fromkeys(tick.attempt for tick in ticks):
        latest: dict[int, Tick] = {}
        for tick in sorted((one for one in ticks if one.attempt == attempt), key=lambda one: one.seconds):
            latest[tick.node] = tick
            grams = spent + sum(one.emissions_g for one in latest.values())
            course.append((start + tick.seconds, sum(one.power_w for one in latest.values()), grams))
        start, spent = course[-1][0], course[-1][2]
    return course


def comparison_chart(comparison: Comparison, name: str, drawn: Sequence[Entry]) -> Element | None:
    """Return the score of each run over what it had spent, in its colour among those `drawn`; `name` is a field of Spent."""
    colours = {one.label: colour for colour, one in enumerate(drawn)}
    series: list[Series] = []
    for label, course in comparison.courses.items():
        points = [(value, scored.value) for scored in course if (value := getattr(scored.spent, name)) is not None]
        series.append(Series(label, points, colours.get(label, len(series)), marked=True))
    words = {"emissions_g": "CO2e spent", "energy_kwh": "energy spent", "seconds": "time of the steps"}[name]
    return line_chart(f"{comparison.metric} over {words}", words, series, along=lambda value: shown(name, value))


def forecast_charts(entries: Sequence[Entry]) -> list[Element]:
    """Return, for time, energy and emissions, the range of each forecast beside what was measured."""
    charts = []
    for name, words in {"seconds": "time", "energy_kwh": "energy", "emissions_g": "CO2e"}.items():
        rows = [row for one in entries if (row := _forecast(one.label, one.run, name)) is not None]
        charts.append(range_bars(f"forecast and measured {words}", rows, lambda value, name=name: shown(name, value)))  # type: ignore[misc]
    return [chart for chart in charts if chart is not None]


def _forecast(label: str, run: RunFacts, name: str) -> tuple[str, float, float, float, float | None] | None:
    planned = mapping_of(run.predicted, name)
    low, likely, high = (number_of(planned, end) for end in ("low", "likely", "high"))
    if low is None or likely is None or high is None or min(low, likely, high) < 0:
        return None
    return label, low, likely, high, getattr(run.amounts, name)


def _steps(entries: Sequence[Entry], name: str) -> list[Series]:
    return [
        Series(one.label, [(record["step"], record[name]) for record in one.run.metrics.steps if name in record], colour)
        for colour, one in enumerate(entries)
    ]


def _evaluations(entries: Sequence[Entry], name: str) -> list[Series]:
    return [
        Series(one.label, [(scored.spent.step, scored.value) for scored in course_of(one.run, name)], colour, marked=True)
        for colour, one in enumerate(entries)
    ]
