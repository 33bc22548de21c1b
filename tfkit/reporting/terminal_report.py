"""The report for a terminal: a table of runs, or a single run in detail with its loss curve; then sums, comparisons and problems."""

from collections.abc import Callable, Mapping, Sequence

from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.reporting.amount_texts import format_cost, format_forecast, format_sums, run_figures, score
from tfkit.reporting.equal_score import Comparison, compare_runs
from tfkit.reporting.page_charts import Points, drawable
from tfkit.reporting.run_facts import RunFacts, number_of
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.visible_text import visible
from tfkit.units import format_energy, format_mass, format_seconds

_OPTIONAL = {"inherited", "rework", "forecast"}  # columns that are omitted if all their cells are empty
_CURVE_HEIGHT = 10  # lines of a plot, without its axis
_LEAST_WIDTH, _MOST_WIDTH = 8, 72  # of a plot, in characters

Width = Callable[[str], int]


def terminal_report(runs: RunSet, columns: int | None, width_of: Width = len) -> list[str]:
    """Return the lines of the report. `columns`: the terminal's width, None without a terminal; `width_of` measures the width of a text."""
    if len(runs.entries) == 1:
        lines = [*_details(runs.entries[0]), *_curve(runs.entries[0].run, columns)]
    else:
        states = [(entry, entry.run.status + (f" (for {entry.served})" if entry.served else "")) for entry in runs.entries]
        rows = [{"run": entry.label, "status": state, **run_figures(entry, ">= ")} for entry, state in states]
        shown = [name for name in rows[0] if name not in _OPTIONAL or any(row[name] for row in rows)]
        lines = _aligned(rows, shown, columns, width_of)
    compared = [line for comparison in compare_runs(runs) for line in _comparison(comparison, columns, width_of)]
    return [*map(visible, [*lines, *_sums(runs), *compared, *([""] if runs.all_problems else []), *runs.all_problems])]


def _aligned(rows: Sequence[Mapping[str, str]], head: Sequence[str], columns: int | None, width_of: Width) -> list[str]:
    """Return rows, given as cells by column, as a table with a header or, if the terminal is too narrow, as a few lines for each row."""
    rows = [{name: visible(row[name]) for name in head} for row in rows]
    table = [{name: visible(name) for name in head}, *rows]
    widths = {name: max(width_of(row[name]) for row in table) for name in head}
    if columns is not None and sum(widths.values()) + 2 * (len(head) - 1) > columns:
        return [line for row in rows for line in [row[head[0]], *(f"  {name}: {row[name]}" for name in head[1:] if row[name])]]
    return ["  ".join(row[name] + " " * (widths[name] - width_of(row[name])) for name in head).rstrip() for row in table]


def _details(entry: Entry) -> list[str]:
    run, amounts, metrics = entry.run, entry.run.amounts, entry.run.listed.metrics
    figures = run_figures(entry, "")
    scores = (f"{name} {value:.4g}" for name in metrics if (value := number_of(metrics, name)) is not None)
    phases = (f"{name} {format_seconds(sums['seconds'])} {format_mass(sums['emissions_g'])}" for name, sums in run.phases.items())
    forecasts = (format_forecast(run, name, measured=True) for name in ("seconds", "energy_kwh", "emissions_g"))
    rows = {
        "run": f"{entry.label}: {run.kind or 'run'}, {run.status}",
        "steps": figures["steps"],
        "score": ", ".join(scores),
        "time": figures["time"],
        "energy": " ".join(filter(None, (figures["energy"], run.provenance and f"({run.provenance})"))),
        "CO2e": " ".join(filter(None, (figures["CO2e"], run.place and f"({run.place})"))),
        "phases": ", ".join(phases),
        "rework": f"{format_energy(1000 * (amounts.rework_kwh or 0))}, {format_mass(amounts.rework_g or 0)}" if amounts.has_rework else "",
        "inherited": _inherited(entry) if entry.inherited.ancestors else "",
        "forecast": "; ".join(filter(None, forecasts)),
    }
    width = max(len(name) for name, value in rows.items() if value)
    return [f"{name:<{width}}  {value}" for name, value in rows.items() if value]


def _inherited(entry: Entry) -> str:
    """Return a text on the emissions of a run's ancestors, alone and together with the run's own emissions."""
    inherited, own = entry.inherited.sums, entry.run.amounts.emissions_g
    names = ", ".join(ancestor.name for ancestor in entry.inherited.ancestors)
    if inherited.emissions_g is None:
        return f"unknown, of {names}"
    least = "at least " if inherited.is_lower_bound else ""
    total = f"; with its own {least}{format_mass(inherited.emissions_g + own)}" if own is not None else ""
    return f"{least}{format_mass(inherited.emissions_g)}, of {names}{total}"


def _curve(run: RunFacts, columns: int | None) -> list[str]:
    """Return a plot of the training and validation losses over the steps; empty if it cannot be drawn."""
    training = [(record["step"], record["loss"]) for record in run.metrics.steps]
    validation = [(step, values["loss"]) for step, values in run.metrics.evaluations if "loss" in values]
    lines = text_curve({"*": training, "o": validation}, columns)
    names = [name for name, points in (("* training", training), ("o validation", validation)) if points]
    return ["", f"loss: {', '.join(names)}", *lines] if lines else []


def text_curve(series: Mapping[str, Points], columns: int | None) -> list[str]:
    """Return the lines of a plot of `series`, given by the character that draws each one; no lines unless two points differ in x.

    Later series hide earlier ones. Points not finite, or with 1e30 or more, are omitted. `columns`: the terminal's width, None without one.
    """
    drawn = {mark: drawable(points) for mark, points in series.items()}
    every = [point for points in drawn.values() for point in points]
    if len({x for x, _ in every}) < 2:
        return []
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    labels = {0: f"{high:.4g}", _CURVE_HEIGHT - 1: f"{low:.4g}"}  # of the y axis, by row
    margin = max(map(len, labels.values()))
    width = max(_LEAST_WIDTH, min(_MOST_WIDTH, (columns or _MOST_WIDTH) - margin - 3))
    cells = [[" "] * width for _ in range(_CURVE_HEIGHT)]
    for mark, points in drawn.items():
        for x, y in points:
            row = round((high - y) / (high - low) * (_CURVE_HEIGHT - 1)) if high > low else _CURVE_HEIGHT // 2
            cells[row][round((x - left) / (right - left) * (width - 1))] = mark
    lines = [f"{labels.get(row, ''):>{margin}} |{''.join(line).rstrip()}".rstrip() for row, line in enumerate(cells)]
    first, last = f"{left:,.0f}", f"{right:,.0f}"
    room = width - len(first) - len(last)
    axis = f"{first}{'steps':^{room}}{last}" if room > 8 else f"{first}-{last}"
    return [*lines, f"{'':>{margin}} +{'-' * width}", f"{'':>{margin}}  {axis}"]


def _sums(runs: RunSet) -> list[str]:
    """Return lines on the cost of all runs together, the emissions by status, and those of the best run; none for a single run."""
    if len(runs.entries) < 2:
        return []
    lines = ["", f"all runs: {format_sums(runs)}"]
    if runs.best is not None and (own := runs.best_g) is not None and runs.selection_factor is not None:
        best = f"best run: {runs.best.label}, {score(runs.best.run.listed)}: {format_mass(own)}"
        least = "at least " if runs.is_lower_bound else ""
        lines.append(f"{best}; all runs emitted {least}{runs.selection_factor:.3g} times as much")
    return lines


def _comparison(comparison: Comparison, columns: int | None, width_of: Width) -> list[str]:
    first = f"{comparison.metric} {'>=' if comparison.metric in HIGHER else '<='}"
    costs = [{label: format_cost(comparison, label, cost) for label, cost in level.reached.items()} for level in comparison.levels]
    rows = [{first: f"{level.value:.4g}", **reached} for level, reached in zip(comparison.levels, costs, strict=True)]
    lines = _aligned(rows, [first, *(entry.label for entry in comparison.entries)], columns, width_of)
    inherited = " (with what was inherited)" if comparison.has_inherited else ""
    notes = [f"note: {note}" for note in comparison.notes]
    return ["", f"{comparison.words} until a validation score was reached{inherited}:", *lines, *notes]
