"""Format the time, energy and emissions of runs as text: measured values with their ranges, and forecasts."""

from tfkit.carbon.footprint import RunTotals
from tfkit.reporting.equal_score import Comparison, Cost
from tfkit.reporting.run_facts import RunFacts, mapping_of, number_of
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.visible_text import visible
from tfkit.run.listing import ListedRun
from tfkit.units import format_energy, format_mass, format_seconds

FORECAST_WORDS = {"seconds": "time", "energy_kwh": "energy", "emissions_g": "CO2e"}


def format_field(name: str, value: float) -> str:
    """Format the value of the field `name`: seconds, energy_kwh or emissions_g."""
    if name == "seconds":
        return format_seconds(value)
    return format_energy(1000 * value) if name == "energy_kwh" else format_mass(value)


def format_amount(amounts: RunTotals, name: str, is_lower_bound: bool) -> str:
    """Return energy_kwh or emissions_g (`name`) as text: `12 g (9.1 g to 15 g)`, `12 g` without a range, `>= 12 g` for a lower bound."""
    value, low, high = (getattr(amounts, f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    has_range = low is not None and high is not None and low < high
    spread = f" ({format_field(name, low)} to {format_field(name, high)})" if has_range else ""
    return f"{'>= ' if is_lower_bound else ''}{format_field(name, value)}{spread}"


def run_figures(entry: Entry, least: str) -> dict[str, str]:
    """Return texts on the steps, score, cost and forecast of a run, by name. `inherited` has the emissions of the models from which the run
    was made, `rework` those of repeated work, and `forecast` those that were forecast for the run.

    `least`: the text before inherited emissions that are a lower bound, such as `at least `.
    """
    run, amounts, inherited = entry.run, entry.run.amounts, entry.inherited.sums
    bound = least if inherited.is_lower_bound else ""
    grams = "unknown" if inherited.emissions_g is None else bound + format_mass(inherited.emissions_g)
    return {
        "steps": steps(run.listed),
        "score": "" if run.score is None else f"{visible(run.score[0])} {run.score[1]:.4g}",
        "time": "" if amounts.seconds is None else format_seconds(amounts.seconds),
        "energy": format_amount(amounts, "energy_kwh", run.is_lower_bound),
        "CO2e": format_amount(amounts, "emissions_g", run.is_lower_bound),
        "inherited": grams if entry.inherited.ancestors else "",
        "rework": format_mass(amounts.rework_g or 0) if amounts.has_rework else "",
        "forecast": format_forecast(run, "emissions_g"),
    }


def forecast_of(run: RunFacts, name: str) -> tuple[float | None, float | None, float | None]:
    """Return the likely, low and high forecast of the field `name`; a value is None if it is not recorded."""
    predicted = mapping_of(run.recorded.predicted, name)
    return number_of(predicted, "likely"), number_of(predicted, "low"), number_of(predicted, "high")


def format_forecast(run: RunFacts, name: str, *, measured: bool = False) -> str:
    """Return the forecast of the field `name` with its range and, if `measured`, the measured value, as text; empty without a forecast."""
    likely, low, high = forecast_of(run, name)
    if likely is None:
        return ""
    spread = f" ({format_field(name, low)} to {format_field(name, high)})" if low is not None and high is not None else ""
    text = format_field(name, likely) + spread
    actual = getattr(run.amounts, name)
    if not measured or actual is None:
        return text
    least = "at least " if run.is_lower_bound and name != "seconds" else ""
    return f"{text}, measured {least}{format_field(name, actual)}{'' if run.status == 'finished' else ' so far'}"


def steps(run: ListedRun) -> str:
    """Return the number of steps done as text, followed by the planned number if that differs: `120/500`."""
    done, planned = run.steps, run.planned_steps
    if done is None:
        return ""
    return f"{done:,}/{planned:,}" if type(planned) is int and planned != done else f"{done:,}"


def score(run: ListedRun) -> str:
    """Return the best score or, without one, the first metric of the latest evaluation, as text; empty if nothing was evaluated."""
    if run.best is not None:
        return f"{visible(run.best['metric'])} {run.best['value']:.4g}"
    name = next(iter(run.metrics), "")
    value = number_of(run.metrics, name)
    return "" if value is None else f"{visible(name)} {value:.4g}"


def format_sums(runs: RunSet) -> str:
    """Return the energy and emissions of all runs, also by status, as text: `at least 3.4 Wh, 12 g CO2e (2 finished 12 g, 1 failed)`."""
    statuses = ", ".join(
        f"{count} {status}" + (f" {format_mass(amounts.emissions_g)}" if amounts.emissions_g is not None else "")
        for status, (count, amounts) in runs.by_status().items()
    )
    energy, grams = runs.amounts.energy_kwh, runs.amounts.emissions_g
    if energy is None or grams is None:
        return f"no energy was measured ({statuses})"
    return f"{'at least ' if runs.is_lower_bound else ''}{format_energy(1000 * energy)}, {format_mass(grams)} CO2e ({statuses})"


def format_cost(comparison: Comparison, label: str, cost: Cost | None) -> str:
    """Return a run's `cost` up to a score as text and, in brackets, its sum with the cost of the run's ancestors, if that is known.

    If `cost` is None, the text is `never reached`; if the compared field of `cost` is None, it is the step: `step 500`.
    """
    if cost is None:
        return "never reached"
    name = comparison.field
    value = getattr(cost, name)
    if value is None:
        return f"step {cost.step:,.0f}"
    inherited = comparison.with_inherited(label, cost, name)
    return format_field(name, value) + (f" ({format_field(name, inherited)})" if inherited is not None else "")
