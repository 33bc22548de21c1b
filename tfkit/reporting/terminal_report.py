"""The report for a terminal: a table of the runs, one run in detail with its curve, sums, and what was left out."""

from collections.abc import Callable, Mapping, Sequence

from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.amount_texts import amount, forecast, score, spent_field, spent_text, statuses, steps
from tfkit.reporting.equal_score import Comparison, compare_runs
from tfkit.reporting.run_facts import RunFacts, number_of
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.text_curve import text_curve
from tfkit.reporting.visible_text import visible
from tfkit.units import format_energy, format_mass, format_seconds

_HEAD = ("run", "status", "steps", "score", "time", "energy", "CO2e", "inherited", "rework", "forecast")
_OPTIONAL = {"inherited", "rework", "forecast"}  # columns that are left out where no run has them

Width = Callable[[str], int]


def terminal_report(runs: RunSet, columns: int | None, width_of: Width = len) -> list[str]:
    """Return the lines. `columns`: the width of the terminal, None where the result goes elsewhere; `width_of`: of a text, in columns."""
    lines = _table(runs.entries, columns, width_of)
    if len(runs.entries) == 1:
        lines = [*_details(runs.entries[0], columns), *_curve(runs.entries[0].run, columns)]
    compared = [line for comparison in compare_runs(runs) for line in _comparison(comparison, columns, width_of)]
    return [*lines, *_sums(runs), *compared, *_problems(runs)]


def _table(entries: Sequence[Entry], columns: int | None, width_of: Width) -> list[str]:
    """Return a line for each run, or where these are too wide for the terminal a block of lines."""
    rows = [dict(zip(_HEAD, _cells(one), strict=True)) for one in entries]
    return _aligned(rows, [name for name in _HEAD if name not in _OPTIONAL or any(row[name] for row in rows)], columns, width_of)


def _aligned(rows: Sequence[Mapping[str, str]], head: Sequence[str], columns: int | None, width_of: Width) -> list[str]:
    """Return rows of cells by name as a table under its head; where that is too wide, as blocks of lines."""
    table = [{name: name for name in head}, *rows]
    widths = {name: max(width_of(row[name]) for row in table) for name in head}
    if columns is not None and sum(widths.values()) + 2 * (len(head) - 1) > columns:
        return [line for row in rows for line in [row[head[0]], *(f"  {name}: {row[name]}" for name in head[1:] if row[name])]]
    return ["  ".join(row[name] + " " * (widths[name] - width_of(row[name])) for name in head).rstrip() for row in table]


def _cells(entry: Entry) -> tuple[str, ...]:
    run, amounts, least = entry.run, entry.run.amounts, entry.inherited.sums.is_lower_bound
    inherited = entry.inherited.emissions_g
    return (
        visible(entry.label),
        visible(run.status) + (f" (for {visible(entry.served)})" if entry.served else ""),
        steps(run.listed),
        score(run.listed),
        "" if amounts.seconds is None else format_seconds(amounts.seconds),
        amount(amounts, "energy_kwh", run.is_lower_bound),
        amount(amounts, "emissions_g", run.is_lower_bound),
        "" if not entry.inherited.ancestors else "unknown" if inherited is None else (">= " if least else "") + format_mass(inherited),
        format_mass(amounts.rework_g or 0) if amounts.has_rework else "",
        forecast(run, "emissions_g"),
    )


def _details(entry: Entry, columns: int | None) -> list[str]:
    """Return what there is to say of one run, a line for each fact."""
    run, amounts = entry.run, entry.run.amounts
    inherited = entry.inherited
    rows: dict[str, str] = {
        "run": f"{visible(entry.label)}: {visible(run.kind or 'run')}, {visible(run.status)}",
        "steps": steps(run.listed),
        "score": ", ".join(
            f"{visible(name)} {value:.4g}" for name in run.listed.metrics if (value := number_of(run.listed.metrics, name)) is not None
        ),
        "time": "" if amounts.seconds is None else format_seconds(amounts.seconds),
        "energy": " ".join(filter(None, (amount(amounts, "energy_kwh", run.is_lower_bound), run.provenance and f"({run.provenance})"))),
        "CO2e": " ".join(filter(None, (amount(amounts, "emissions_g", run.is_lower_bound), run.place and f"({visible(run.place)})"))),
        "phases": ", ".join(
            f"{visible(name)} {format_seconds(sums['seconds'])} {format_mass(sums['emissions_g'])}" for name, sums in run.phases.items()
        ),
        "rework": f"{format_energy(1000 * (amounts.rework_kwh or 0))}, {format_mass(amounts.rework_g or 0)}" if amounts.has_rework else "",
        "inherited": _inherited(entry) if inherited.ancestors else "",
        "forecast": "; ".join(filter(None, (forecast(run, name, measured=True) for name in ("seconds", "energy_kwh", "emissions_g")))),
    }
    width = max(len(name) for name, value in rows.items() if value)
    return [f"{name:<{width}}  {value}" for name, value in rows.items() if value]


def _inherited(entry: Entry) -> str:
    """Return what a run inherited, and together with it what its model has cost."""
    found, own = entry.inherited, entry.run.amounts.emissions_g
    names = ", ".join(visible(one.name) for one in found.ancestors)
    if found.emissions_g is None:
        return f"unknown, of {names}"
    least = "at least " if found.sums.is_lower_bound else ""
    together = f"; with its own {least}{format_mass(found.emissions_g + own)}" if own is not None else ""
    return f"{least}{format_mass(found.emissions_g)}, of {names}{together}"


def _curve(run: RunFacts, columns: int | None) -> list[str]:
    """Return the loss of the training and of the evaluations over the steps."""
    training = [(one["step"], one["loss"]) for one in run.metrics.steps]
    validation = [(step, values["loss"]) for step, values in run.metrics.evaluations if "loss" in values]
    lines = text_curve({"*": training, "o": validation}, columns)
    names = [name for name, points in (("* training", training), ("o validation", validation)) if points]
    return ["", f"loss: {', '.join(names)}", *lines] if lines else []


def _sums(runs: RunSet) -> list[str]:
    """Return the sum over all runs, by status, beside the best of them."""
    if len(runs.entries) < 2:
        return []
    total = runs.amounts
    least = "at least " if runs.is_lower_bound else ""
    used = "no energy was measured"
    if total.energy_kwh is not None and total.emissions_g is not None:
        used = f"{least}{format_energy(1000 * total.energy_kwh)}, {format_mass(total.emissions_g)} CO2e"
    lines = ["", f"all runs: {used} ({statuses(runs)})"]
    if runs.best is not None and (own := runs.for_run(runs.best).emissions_g) is not None and runs.selection_factor is not None:
        lines.append(
            f"best run: {visible(runs.best.label)}, {score(runs.best.run.listed)}: {format_mass(own)}; all runs emitted {least}"
            f"{runs.selection_factor:.3g} times as much"
        )
    return lines


def _comparison(comparison: Comparison, columns: int | None, width_of: Width) -> list[str]:
    """Return what each run had spent when it reached the score of another one: grams where they are known, else seconds."""
    name = spent_field(comparison)
    words = {"emissions_g": "CO2e", "energy_kwh": "energy", "seconds": "time of the steps"}[name]
    first = f"{comparison.metric} {'>=' if comparison.metric in HIGHER else '<='}"
    labels = {one.label: visible(one.label) for one in comparison.entries}
    rows = [
        {
            first: f"{level.value:.4g}",
            **{labels[label]: spent_text(comparison, label, spent, name) for label, spent in level.reached.items()},
        }
        for level in comparison.levels
    ]
    lines = _aligned(rows, [first, *labels.values()], columns, width_of)
    with_inherited = (
        " (with what was inherited)" if name != "seconds" and any(one.inherited.ancestors for one in comparison.entries) else ""
    )
    notes = [f"note: {note}" for note in comparison.notes]
    return ["", f"{words} until a validation score was reached{with_inherited}:", *lines, *notes]


def _problems(runs: RunSet) -> list[str]:
    found = [f"{one.label}: {problem}" for one in runs.entries for problem in one.run.problems]
    errors = [f"{one.label}: {one.run.listed.problem}" for one in runs.entries if one.run.status == "failed" and one.run.listed.problem]
    every = [visible(line) for line in (*errors, *found, *runs.problems)]
    return ["", *every] if every else []
