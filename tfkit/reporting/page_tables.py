"""The tables of the HTML report, as rows of texts: runs, confusions, comparisons, phases, forecasts, energy sources, differing settings."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tfkit.recipe.reading.tree import flatten
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.reporting.amount_texts import FORECAST_WORDS, forecast_of, format_cost, format_field, format_forecast, run_figures
from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.metric_lines import Confusion
from tfkit.reporting.run_facts import RunFacts, number_of
from tfkit.reporting.run_set import Entry
from tfkit.reporting.visible_text import shareable
from tfkit.run.fitting_fields import LARGEST
from tfkit.units import format_bytes, format_energy, format_mass, format_seconds

_MOST_DIFFERENCES = 200  # maximum number of fields in the table of differences
_LONGEST_VALUE = 300  # maximum number of characters of a value
_MOST_CLASSES = 16  # maximum number of classes of a confusion matrix that is shown
_MOST_CONFUSED = 12  # maximum number of pairs of classes that are shown instead of a larger confusion matrix
_NUMERIC = re.compile(
    r"[>=~ ]*[\d.,:+-]+(e-?\d+)?( ?%| [munk]?[gW]h?| [kMG]Wh| [kMGT]?B| [kM]?[gt]| ?[kMBT])?( \(.*\))?|never reached|unknown|at least .*"
)


@dataclass(frozen=True)
class Table:
    """A table of texts, in which the first cell of a row is the heading of the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    # A bar in the last cell of each row: its length as a fraction of the cell, and the index of its colour.
    bars: Sequence[tuple[float, int]] = ()

    @property
    def columns(self) -> list[tuple[str, dict[str, str]]]:
        """The name of each column, and the HTML attributes of its cells: class `number` for amounts, except in the first column."""
        cells = [[row[column] for row in self.rows if row[column]] for column in range(len(self.head))]
        has_numbers = [column > 0 and all(map(_NUMERIC.fullmatch, texts)) for column, texts in enumerate(cells)]
        return [(name, {"class": "number"} if numeric else {}) for name, numeric in zip(self.head, has_numbers, strict=True)]

    def without_empty_columns(self) -> "Table":
        """Return the table without the columns in which every cell is empty."""
        return self._of([column for column in range(len(self.head)) if any(row[column] for row in self.rows)])

    def of_one_run(self) -> "Table":
        """Return the table without its first column, which names the run, if all rows are about the same run."""
        if len({row[0] for row in self.rows}) != 1:
            return self
        return replace(self, head=self.head[1:], rows=[row[1:] for row in self.rows])

    def split(self) -> tuple[list[tuple[str, str]], "Table"]:
        """Return pairs of name and value for the columns (but the first) with one value in all rows, and a table of all other columns.

        Columns whose cells are all empty are in neither.
        """
        common = [column for column in range(1, len(self.head)) if len({row[column] for row in self.rows}) == 1]
        facts = [(self.head[column], self.rows[0][column]) for column in common if self.rows[0][column]]
        return facts, self._of([column for column in range(len(self.head)) if column not in common])

    def _of(self, columns: Sequence[int]) -> "Table":
        return Table([self.head[column] for column in columns], [[row[column] for column in columns] for row in self.rows])


def runs_table(entries: Sequence[Entry]) -> Table:
    """Return the table of all runs, with their scores and costs."""
    head = ["run", "command", "status", "steps", "score", "time", "energy", "CO2e", "inherited CO2e", "repeated work", "forecast CO2e"]
    states = [(entry, entry.run.status + (f", for {entry.served}" if entry.served else "")) for entry in entries]
    rows = [[entry.label, entry.run.kind or "", state, *run_figures(entry, "at least ").values()] for entry, state in states]
    return Table(head, rows).without_empty_columns()


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix. A row has the right class, the recall of this class, and a cell for each predicted class."""

    labels: Sequence[str]  # the predicted classes
    rows: Sequence[tuple[str, str, Sequence[tuple[str, float, bool]]]]  # a cell: count, fraction of the row, whether prediction = class


def confusion_table(confusion: Confusion) -> Matrix | Table:
    """Return the confusion matrix or, if there are many classes, a table of the pairs that are confused most often."""
    labels = list(dict.fromkeys([*confusion, *(other for row in confusion.values() for other in row)]))
    if len(labels) > _MOST_CLASSES:
        errors = [(count, right, other) for right, row in confusion.items() for other, count in row.items() if count and other != right]
        most = sorted(errors, key=lambda error: -error[0])[:_MOST_CONFUSED]
        texts = [[truncated(right), truncated(other), f"{count:,}"] for count, right, other in most]
        return Table(["right class", "predicted", "how often"], texts, [(count / most[0][0], 0) for count, *_ in most])
    rows = []
    for right, row in confusion.items():
        total = sum(row.values()) or 1
        cells = [(f"{row.get(other, 0):,}", row.get(other, 0) / total, other == right) for other in labels]
        rows.append((right, f"{row.get(right, 0) / total:.0%}", cells))
    return Matrix(labels, rows)


def comparison_table(comparison: Comparison) -> Table:
    """Return the table of what each run had cost when it reached each level (the best score of one of the runs)."""
    labels = [entry.label for entry in comparison.entries]
    rows = [
        [f"{level.value:.4g} (best of {level.best_of})", *(format_cost(comparison, label, level.reached[label]) for label in labels)]
        for level in comparison.levels
    ]
    return Table([f"{comparison.metric} {'at least' if comparison.metric in HIGHER else 'at most'}", *labels], rows)


def phases_table(entries: Sequence[Entry]) -> Table:
    """Return the table of the time, energy and emissions of each phase (train, evaluate, ...) of the runs."""
    phases = [(entry.label, name, sums) for entry in entries for name, sums in entry.run.phases.items()]
    most = max((sums["emissions_g"] for *_, sums in phases), default=0.0)
    rows = [
        [label, name, format_seconds(sums["seconds"]), format_energy(sums["energy_wh"]), format_mass(sums["emissions_g"])]
        for label, name, sums in phases
    ]
    bars = [(sums["emissions_g"] / most if 0 < most < LARGEST else 0.0, 0) for *_, sums in phases]
    return Table(["run", "phase", "time", "energy", "CO2e"], rows, bars).of_one_run()


def forecast_table(entries: Sequence[Entry]) -> Table:
    """Return the table of forecasts (time, energy, memory, ...) with their ranges, the measured values, and measured / forecast."""
    rows = []
    for entry in entries:
        for words, text, likely, measured, write in _forecasts(entry.run):
            ratio = f"{measured / likely:.2f}" if measured is not None and likely else ""
            rows += [[entry.label, words, text, "" if measured is None else write(measured), ratio]] if text else []
    return Table(["run", "of", "forecast", "measured", "measured / forecast"], rows).of_one_run()


def _forecasts(run: RunFacts) -> Iterator[tuple[str, str, float | None, float | None, Callable[[float], str]]]:
    """Yield the name, text, likely value, measured value and format of each forecast; without a forecast, the text is empty."""
    for name, words in FORECAST_WORDS.items():
        yield words, format_forecast(run, name), forecast_of(run, name)[0], getattr(run.amounts, name), partial(format_field, name)
    for name, words, write in (("memory_bytes", "memory", format_bytes), ("flops", "FLOPs of the steps", "{:.3g}".format)):
        likely = number_of(run.recorded.predicted, name)
        yield words, "" if likely is None else write(likely), likely, number_of(run.recorded.actual, name), write


def provenance_table(entries: Sequence[Entry]) -> Table:
    """Return the table of the source of each run's energy, the measured fraction of its time, its PUE, place and carbon intensity."""
    rows = []
    for entry in entries:
        run, facts = entry.run, entry.run.measurement
        coverage, pue = "" if facts.coverage is None else f"{facts.coverage:.0%}", "" if facts.pue is None else f"{facts.pue:g}"
        origin = facts.intensity.origin if facts.intensity else ""
        gaps = "a lower bound: a part was not measured" if run.is_lower_bound else ""
        rows.append([entry.label, run.provenance or "not measured", coverage, pue, run.place or "", origin, gaps])
    head = ["run", "source of the energy", "time measured", "PUE", "place and carbon intensity", "source of the intensity", "gaps"]
    return Table(head, rows)


def differences_table(entries: Sequence[Entry], full: bool) -> Table:
    """Return the table of the fields of the recipes whose values differ between the runs."""
    recipes = [_expanded(entry.run.recipe) for entry in entries]
    every = dict.fromkeys(name for recipe in recipes for name in recipe if not name.endswith("sha256"))
    names = [name for name in every if len({str(recipe.get(name, "")) for recipe in recipes}) > 1]
    rows = [[name, *(shareable(value_text(recipe, name), full=full) for recipe in recipes)] for name in names[:_MOST_DIFFERENCES]]
    return Table(["key", *(entry.label for entry in entries)], rows)


def _expanded(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values by dotted name, with lists of mappings, such as data.train, replaced by their fields: data.train.0.path."""
    values: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            items = flatten({f"{name}.{index}": item for index, item in enumerate(value)})
            values |= {key: item for key, item in items.items() if item is not None}
        else:
            values[name] = value
    return values


def value_text(recipe: Mapping[str, Any], name: str) -> str:
    """Return the value of a field of a recipe as text, truncated if it is long; empty if the recipe does not have the field."""
    if name not in recipe:
        return ""
    return truncated("null" if recipe[name] is None else str(recipe[name]))


def truncated(text: str) -> str:
    """Return a text, or the beginning of a long text with the number of its characters."""
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}... ({len(text):,} characters)"
