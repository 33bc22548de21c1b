"""Text for the amounts of a run: values with their ranges, and forecasts with the measured values."""

from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.run_facts import Amounts, RunFacts, mapping_of, number_of
from tfkit.reporting.run_set import RunSet
from tfkit.reporting.score_curve import Cost
from tfkit.reporting.visible_text import visible
from tfkit.run.listing import ListedRun
from tfkit.units import format_energy, format_mass, format_seconds


def format_field(name: str, value: float) -> str:
    """Format the value of the field `name`: seconds, energy_kwh or emissions_g."""
    if name == "seconds":
        return format_seconds(value)
    return format_energy(1000 * value) if name == "energy_kwh" else format_mass(value)


def format_amount(amounts: Amounts, name: str, is_lower_bound: bool) -> str:
    """Return `12 g (9.1 g to 15 g)`, the range only if it is known; `>= 12 g` for a lower bound; empty if the value is not known."""
    value, low, high = (getattr(amounts, f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    has_range = low is not None and high is not None and low < high
    spread = f" ({format_field(name, low)} to {format_field(name, high)})" if has_range else ""
    return f"{'>= ' if is_lower_bound else ''}{format_field(name, value)}{spread}"


def format_forecast(run: RunFacts, name: str, *, measured: bool = False) -> str:
    """Return the forecast of a field with its range, with `measured` also the measured value; empty without a forecast."""
    predicted = mapping_of(run.predicted, name)
    likely, low, high = (number_of(predicted, end) for end in ("likely", "low", "high"))
    if likely is None:
        return ""
    spread = f" ({format_field(name, low)} to {format_field(name, high)})" if low is not None and high is not None else ""
    text = format_field(name, likely) + spread
    actual = getattr(run.amounts, name)
    if not measured or actual is None:
        return text
    return f"{text}, measured {format_field(name, actual)}{'' if run.status == 'finished' else ' so far'}"


def steps(run: ListedRun) -> str:
    """Return the steps done, with the planned steps if these differ: `120/500`."""
    done, planned = run.steps, run.planned_steps
    if done is None:
        return ""
    return f"{done:,}/{planned:,}" if type(planned) is int and planned != done else f"{done:,}"


def score(run: ListedRun) -> str:
    """Return the best score, or else the first metric of the latest evaluation."""
    if run.best is not None:
        return f"{visible(run.best['metric'])} {run.best['value']:.4g}"
    name = next(iter(run.metrics), "")
    value = number_of(run.metrics, name)
    return "" if value is None else f"{visible(name)} {value:.4g}"


def format_statuses(runs: RunSet) -> str:
    """Return the number of runs of each status, with their emissions: `2 finished 12 g, 1 failed`."""
    return ", ".join(
        f"{count} {status}" + (f" {format_mass(amounts.emissions_g)}" if amounts.emissions_g is not None else "")
        for status, (count, amounts) in runs.by_status().items()
    )


def cost_field(comparison: Comparison) -> str:
    """Return the field of Cost that a comparison shows: emissions_g if all runs have one place, else energy_kwh; seconds if unknown."""
    costs = [cost for level in comparison.levels for cost in level.reached.values() if cost is not None]
    places = {entry.run.place for entry in comparison.entries}
    fields = ("emissions_g", "energy_kwh") if len(places) == 1 else ("energy_kwh",)
    return next((name for name in fields if all(getattr(cost, name) is not None for cost in costs)), "seconds")


def format_cost(comparison: Comparison, label: str, cost: Cost | None, name: str) -> str:
    """Return a field of the cost until a level, with that of the ancestors added in brackets; `never reached` for None."""
    if cost is None:
        return "never reached"
    value = getattr(cost, name)
    if value is None:
        return f"step {cost.step:,.0f}"
    inherited = comparison.with_inherited(label, cost, name)
    return format_field(name, value) + (f" ({format_field(name, inherited)})" if inherited is not None else "")
