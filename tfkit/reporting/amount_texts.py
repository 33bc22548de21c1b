"""Amounts of a run in words: with the range that belongs to them, and forecast beside actual."""

from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.loss_course import Spent
from tfkit.reporting.run_facts import Amounts, RunFacts, mapping_of, number_of
from tfkit.reporting.run_set import RunSet
from tfkit.reporting.visible_text import visible
from tfkit.run.listing import ListedRun
from tfkit.units import format_energy, format_mass, format_seconds


def shown(name: str, value: float) -> str:
    """Return a value in the unit of its field: seconds, energy_kwh or emissions_g."""
    if name == "seconds":
        return format_seconds(value)
    return format_energy(1000 * value) if name == "energy_kwh" else format_mass(value)


def amount(amounts: Amounts, name: str, is_lower_bound: bool) -> str:
    """Return `12 g (9.1 g to 15 g)`, without the range where there is none; `>= 12 g` for a lower bound; empty if it is not known."""
    value, low, high = (getattr(amounts, f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    spread = f" ({shown(name, low)} to {shown(name, high)})" if low is not None and high is not None and low < high else ""
    return f"{'>= ' if is_lower_bound else ''}{shown(name, value)}{spread}"


def forecast(run: RunFacts, name: str, *, measured: bool = False) -> str:
    """Return the forecast of a field with its range; with `measured` also what it came to. Empty where none was made."""
    planned = mapping_of(run.predicted, name)
    likely, low, high = (number_of(planned, end) for end in ("likely", "low", "high"))
    if likely is None:
        return ""
    text = shown(name, likely) + (f" ({shown(name, low)} to {shown(name, high)})" if low is not None and high is not None else "")
    actual = getattr(run.amounts, name)
    if not measured or actual is None:
        return text
    return f"{text}, measured {shown(name, actual)}{'' if run.status == 'finished' else ' so far'}"


def steps(run: ListedRun) -> str:
    """Return the steps done, and of how many where these are more."""
    done, planned = run.steps, run.planned_steps
    if done is None:
        return ""
    return f"{done:,}/{planned:,}" if type(planned) is int and planned != done else f"{done:,}"


def score(run: ListedRun) -> str:
    """Return the best score, else the first of the latest evaluation."""
    if run.best is not None:
        return f"{visible(run.best['metric'])} {run.best['value']:.4g}"
    name = next(iter(run.metrics), "")
    value = number_of(run.metrics, name)
    return "" if value is None else f"{visible(name)} {value:.4g}"


def statuses(runs: RunSet) -> str:
    """Return the number of runs of each status, with their emissions: `2 finished 12 g, 1 failed`."""
    return ", ".join(
        f"{count} {status}" + (f" {format_mass(amounts.emissions_g)}" if amounts.emissions_g is not None else "")
        for status, (count, amounts) in runs.by_status().items()
    )


def spent_field(comparison: Comparison) -> str:
    """Return the field that a comparison is best made by: grams at one carbon intensity, else energy, else the seconds of the steps."""
    every = [spent for level in comparison.levels for spent in level.reached.values() if spent is not None]
    places = {one.run.place for one in comparison.entries}
    fields = ("emissions_g", "energy_kwh") if len(places) == 1 else ("energy_kwh",)
    return next((name for name in fields if all(getattr(spent, name) is not None for spent in every)), "seconds")


def spent_text(comparison: Comparison, label: str, spent: Spent | None, name: str) -> str:
    """Return the cost until a level in words, with what was inherited in brackets; `never reached`."""
    if spent is None:
        return "never reached"
    value = getattr(spent, name)
    if value is None:
        return f"step {spent.step:,.0f}"
    inherited = comparison.with_inherited(label, spent, name)
    return shown(name, value) + (f" ({shown(name, inherited)})" if inherited is not None else "")
