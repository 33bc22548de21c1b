"""The tables of the page as rows of texts: the runs, their phases, forecasts and sources of energy, and the differences of recipes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.amount_texts import FORECAST_WORDS, forecast_of, format_cost, format_field, format_forecast, run_cells, score
from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.run_facts import RunFacts, number_of
from tfkit.reporting.run_set import Entry
from tfkit.reporting.visible_text import shareable
from tfkit.units import format_baselines, format_bytes, format_energy, format_mass, format_seconds

_MOST_DIFFERENCES = 200
_LONGEST_VALUE = 300
_NUMERIC = re.compile(
    r"[>=~ ]*[\d.,:+-]+(e-?\d+)?( ?%| [munk]?[gW]h?| [kMG]Wh| [kMGT]?B| [kM]?[gt]| ?[kMBT])?( \(.*\))?|never reached|unknown|at least .*"
)


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def columns(self) -> list[tuple[str, dict[str, str]]]:
        """The name of each column, and the attributes of its cells, which have a class if all of them are numbers."""
        cells = [[row[column] for row in self.rows if row[column]] for column in range(len(self.head))]
        has_numbers = [column > 0 and all(map(_NUMERIC.fullmatch, texts)) for column, texts in enumerate(cells)]
        return [(name, {"class": "number"} if numeric else {}) for name, numeric in zip(self.head, has_numbers, strict=True)]

    def without_empty_columns(self) -> "Table":
        """Return the table without the columns in which every cell is empty."""
        used = [column for column in range(len(self.head)) if any(row[column] for row in self.rows)]
        return Table([self.head[column] for column in used], [[row[column] for column in used] for row in self.rows])


def runs_table(entries: Sequence[Entry]) -> Table:
    """Return the table of all runs; for a single run, a row per column."""
    head = ["run", "command", "status", "steps", "score", "time", "energy", "CO2e", "inherited CO2e", "repeated work", "forecast CO2e"]
    states = [(entry, entry.run.status + (f", for {entry.served}" if entry.served else "")) for entry in entries]
    rows = [[entry.label, entry.run.kind or "", state, *run_cells(entry, "at least ")] for entry, state in states]
    table = Table(head, rows).without_empty_columns()
    return table if len(rows) > 1 else Table(["fact", "value"], [*zip(table.head, table.rows[0], strict=True)])


def trained_table(entries: Sequence[Entry], full: bool) -> Table:
    """Return the table of what each run learned from, with its best score and the baselines of the same rows."""
    rows = []
    for entry in entries:
        recipe, best = entry.run.recipe, entry.run.listed.best or {}
        start, preset = recipe.get("model.from"), recipe.get("model.preset")
        data, model = _data_text(recipe.get("data.train")), str(start if start is not None else preset or "")
        rate, baselines = recipe.get("optimizer.lr"), format_baselines(entry.run.baselines, best.get("metric"))
        objective = str(recipe.get("objective.kind", ""))
        facts = [
            shareable(data, full=full),
            model if full else _model_name(model),
            objective,
            "" if rate is None else _value(recipe, "optimizer.lr"),
        ]
        rows.append([entry.label, *(text[:_LONGEST_VALUE] for text in facts), score(entry.run.listed), baselines])
    return Table(["run", "data", "model", "objective", "learning rate", "score", "baselines"], rows).without_empty_columns()


def _data_text(sources: object) -> str:
    """Return the files and data sets of a recipe's data.train, in a form that `shareable` shortens."""
    named = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, list) else []
    return ", ".join(
        f"./{one['path']}" if one.get("path") else str(one.get("hub") or f"Python's standard library ({one.get('stdlib')})")
        for one in named
    )


def _model_name(start: str) -> str:
    """Return the last part of a checkpoint's name; for a checkpoint of a run, the run's name."""
    path = PurePath(start.removeprefix("hub:"))
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name


def comparison_table(comparison: Comparison) -> Table:
    """Return the table of the cost of each run until each level."""
    labels = [entry.label for entry in comparison.entries]
    rows = [
        [f"{level.value:.4g} (best of {level.best_of})", *(format_cost(comparison, label, level.reached[label]) for label in labels)]
        for level in comparison.levels
    ]
    return Table([f"{comparison.metric} {'at least' if comparison.metric in HIGHER else 'at most'}", *labels], rows)


def phases_table(entries: Sequence[Entry]) -> Table:
    """Return the table of time, energy and emissions of each phase."""
    rows = [
        [entry.label, name, format_seconds(sums["seconds"]), format_energy(sums["energy_wh"]), format_mass(sums["emissions_g"])]
        for entry in entries
        for name, sums in entry.run.phases.items()
    ]
    return Table(["run", "phase", "time", "energy", "CO2e"], rows)


def forecast_table(entries: Sequence[Entry]) -> Table:
    """Return the table of forecasts with their ranges, the measured values, and the ratios."""
    rows = []
    for entry in entries:
        for words, text, likely, measured, write in _forecasts(entry.run):
            ratio = f"{measured / likely:.2f}" if measured is not None and likely else ""
            rows += [[entry.label, words, text, "" if measured is None else write(measured), ratio]] if text else []
    return Table(["run", "of", "forecast", "measured", "measured / forecast"], rows)


def _forecasts(run: RunFacts) -> Iterator[tuple[str, str, float | None, float | None, Callable[[float], str]]]:
    """Yield the name, text, likely value, measured value and format of each forecast, last those without a range; empty texts for none."""
    for name, words in FORECAST_WORDS.items():
        yield words, format_forecast(run, name), forecast_of(run, name)[0], getattr(run.amounts, name), partial(format_field, name)
    for name, words, write in (("memory_bytes", "memory", format_bytes), ("flops", "FLOPs of the steps", "{:.3g}".format)):
        likely = number_of(run.recorded.predicted, name)
        yield words, "" if likely is None else write(likely), likely, number_of(run.recorded.actual, name), write


def provenance_table(entries: Sequence[Entry]) -> Table:
    """Return the table of the sources of each run's energy, the measured fraction of its time, and its carbon intensity."""
    rows = []
    for entry in entries:
        run, facts = entry.run, entry.run.measurement
        rows.append(
            [
                entry.label,
                run.provenance or "not measured",
                "" if facts.coverage is None else f"{facts.coverage:.0%}",
                "" if facts.pue is None else f"{facts.pue:g}",
                run.place or "",
                facts.intensity.origin if facts.intensity else "",
                "a lower bound: a part was not measured" if run.is_lower_bound else "",
            ]
        )
    head = ["run", "source of the energy", "time measured", "PUE", "place and carbon intensity", "source of the intensity", "gaps"]
    return Table(head, rows).without_empty_columns()


def differences_table(entries: Sequence[Entry], full: bool) -> Table:
    """Return the table of the recipe values that differ between the runs."""
    recipes = [entry.run.recipe for entry in entries]
    every = dict.fromkeys(name for recipe in recipes for name in recipe)
    names = [name for name in every if len({_value(recipe, name) for recipe in recipes}) > 1]
    rows = [[name, *(shareable(_value(recipe, name), full=full) for recipe in recipes)] for name in names[:_MOST_DIFFERENCES]]
    return Table(["key", *(entry.label for entry in entries)], rows)


def _value(recipe: Mapping[str, Any], name: str) -> str:
    if name not in recipe:
        return ""
    text = "null" if recipe[name] is None else str(recipe[name])
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}... ({len(text):,} characters)"
