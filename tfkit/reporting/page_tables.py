"""The tables and texts of the page: the runs, their phases, forecasts and sources of energy, samples, recipes and their differences."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.amount_texts import format_amount, format_cost, format_field, format_forecast, score, steps
from tfkit.reporting.equal_score import Comparison
from tfkit.reporting.html_elements import Element, element
from tfkit.reporting.metric_lines import MOST_CHARACTERS, Sample
from tfkit.reporting.run_facts import mapping_of, number_of, text_of
from tfkit.reporting.run_set import Entry
from tfkit.reporting.visible_text import shareable
from tfkit.units import format_bytes, format_energy, format_mass, format_seconds

MOST_ROWS = 300
_MOST_DIFFERENCES = 200
_LONGEST_VALUE = 300
_SHOWN_SAMPLES = 6  # per run
_LONGEST_RECIPE = 40_000
_NUMERIC = re.compile(
    r"[>=~ ]*[\d.,:+-]+(e-?\d+)?( ?%| [munk]?[gW]h?| [kMG]Wh| [kMGT]?B| [kM]?[gt]| ?[kMBT])?( \(.*\))?|never reached|unknown|at least .*"
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """Return a table in a box that scrolls on narrow screens. The first cell of a row is its heading; columns of numbers align right."""
    aligned = [column > 0 and all(_NUMERIC.fullmatch(row[column]) or not row[column] for row in rows) for column in range(len(head))]
    names = [element("th", name, scope="col", class_="number" if right else None) for name, right in zip(head, aligned, strict=True)]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_="number" if right else None) for cell, right in zip(row[1:], aligned[1:], strict=True)),
        )
        for row in rows[:MOST_ROWS]
    ]
    content = element("table", element("thead", element("tr", *names)), element("tbody", *body))
    more = element("p", f"{len(rows) - MOST_ROWS:,} more rows are not shown", class_="quiet") if len(rows) > MOST_ROWS else None
    return element("div", content, more, class_="scroll", tabindex="0")


def runs_table(entries: Sequence[Entry]) -> Element:
    """Return the table of all runs without its empty columns; for a single run, a row per column."""
    head = ["run", "command", "status", "steps", "score", "time", "energy", "CO2e", "inherited CO2e", "repeated work", "forecast CO2e"]
    rows = [_run_row(entry) for entry in entries]
    used = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    if len(rows) == 1:
        return table(["fact", "value"], [[head[column], rows[0][column]] for column in used])
    return table([head[column] for column in used], [[row[column] for column in used] for row in rows])


def _run_row(entry: Entry) -> list[str]:
    run, amounts, inherited = entry.run, entry.run.amounts, entry.inherited
    least = "at least " if inherited.sums.is_lower_bound else ""
    inherited_grams = "unknown" if inherited.emissions_g is None else least + format_mass(inherited.emissions_g)
    return [
        entry.label,
        run.kind or "",
        run.status + (f", for {entry.served}" if entry.served else ""),
        steps(run.listed),
        score(run.listed),
        "" if amounts.seconds is None else format_seconds(amounts.seconds),
        format_amount(amounts, "energy_kwh", run.is_lower_bound),
        format_amount(amounts, "emissions_g", run.is_lower_bound),
        inherited_grams if inherited.ancestors else "",
        format_mass(amounts.rework_g or 0) if amounts.has_rework else "",
        format_forecast(run, "emissions_g"),
    ]


def comparison_table(comparison: Comparison, name: str) -> Element:
    """Return the table of the cost of each run until each level; `name`: a field of Cost."""
    labels = [entry.label for entry in comparison.entries]
    first = f"{comparison.metric} {'at least' if comparison.metric in HIGHER else 'at most'}"
    rows = [
        [f"{level.value:.4g} (best of {level.best_of})", *(format_cost(comparison, label, level.reached[label], name) for label in labels)]
        for level in comparison.levels
    ]
    return table([first, *labels], rows)


def phases_table(entries: Sequence[Entry]) -> Element | None:
    """Return the table of time, energy and emissions of each phase; None without phases."""
    rows = [
        [entry.label, name, format_seconds(sums["seconds"]), format_energy(sums["energy_wh"]), format_mass(sums["emissions_g"])]
        for entry in entries
        for name, sums in entry.run.phases.items()
    ]
    return table(["run", "phase", "time", "energy", "CO2e"], rows) if rows else None


def forecast_table(entries: Sequence[Entry]) -> Element | None:
    """Return the table of forecasts with their ranges, the measured values, and the ratios; None without forecasts."""
    rows = []
    for entry in entries:
        run = entry.run
        for name, words in {"seconds": "time", "energy_kwh": "energy", "emissions_g": "CO2e"}.items():
            likely, measured = number_of(mapping_of(run.predicted, name), "likely"), getattr(run.amounts, name)
            if likely is not None:
                ratio = f"{measured / likely:.2f}" if measured is not None and likely else ""
                rows.append(
                    [entry.label, words, format_forecast(run, name), "" if measured is None else format_field(name, measured), ratio]
                )
        rows += _further_forecasts(entry)
    return table(["run", "of", "forecast", "measured", "measured / forecast"], rows) if rows else None


def _further_forecasts(entry: Entry) -> list[list[str]]:
    """Return the rows of the forecasts that have no range: peak memory and FLOPs."""
    predicted, actual = entry.run.predicted, mapping_of(entry.run.receipt, "actual")
    rows = []
    for name, words, write in (("memory_bytes", "memory", format_bytes), ("flops", "FLOPs of the steps", lambda value: f"{value:.3g}")):
        likely, measured = number_of(predicted, name), number_of(actual, name)
        if likely is not None:
            ratio = f"{measured / likely:.2f}" if measured is not None and likely else ""
            rows.append([entry.label, words, write(likely), "" if measured is None else write(measured), ratio])
    return rows


def provenance_table(entries: Sequence[Entry]) -> Element:
    """Return the table of the sources of each run's energy, the measured fraction of its time, and its carbon intensity."""
    rows = []
    for entry in entries:
        run, facts = entry.run, entry.run.measurement
        intensity, coverage, pue = mapping_of(facts, "intensity"), number_of(facts, "coverage"), number_of(facts, "pue")
        source = [text_of(intensity, "source"), str(intensity.get("year") or ""), text_of(intensity, "kind")]
        rows.append(
            [
                entry.label,
                run.provenance or "not measured",
                "" if coverage is None else f"{coverage:.0%}",
                "" if pue is None else f"{pue:g}",
                run.place or "",
                ", ".join(filter(None, source)),
                "a lower bound: a part was not measured" if run.is_lower_bound else "",
            ]
        )
    head = ["run", "source of the energy", "time measured", "PUE", "place and carbon intensity", "source of the intensity", "gaps"]
    used = [column for column in range(len(head)) if column < 2 or any(row[column] for row in rows)]
    return table([head[column] for column in used], [[row[column] for column in used] for row in rows])


def samples(entry: Entry) -> Element | None:
    """Return the latest samples of a run, truncated if they are long, with their real length; None without samples."""
    latest = entry.run.metrics.samples[-_SHOWN_SAMPLES:]
    return element("div", element("h3", entry.label), element("div", *map(_sample, latest), class_="charts")) if latest else None


def _sample(sample: Sample) -> Element:
    truncated = [
        f"{name} of {length:,} characters, of which {MOST_CHARACTERS:,} are shown"
        for name, length in (("prompt", sample.prompt_characters), ("text", sample.completion_characters))
        if length > MOST_CHARACTERS
    ]
    words = f"step {sample.step:,}" + (f": {'; '.join(truncated)}" if truncated else "")
    return element("figure", element("figcaption", words), element("pre", element("strong", sample.prompt), sample.completion))


def recipe_differences(entries: Sequence[Entry], full: bool) -> Element | None:
    """Return the table of the recipe values that differ between the runs; None without any."""
    recipes = [entry.run.recipe for entry in entries]
    every = dict.fromkeys(name for recipe in recipes for name in recipe)
    names = [name for name in every if len({_value(recipe, name) for recipe in recipes}) > 1]
    rows = [[name, *(shareable(_value(recipe, name), full=full) for recipe in recipes)] for name in names[:_MOST_DIFFERENCES]]
    return table(["key", *(entry.label for entry in entries)], rows) if rows else None


def _value(recipe: Mapping[str, Any], name: str) -> str:
    if name not in recipe:
        return ""
    text = "null" if recipe[name] is None else str(recipe[name])
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}... ({len(text):,} characters)"


def recipe_text(entry: Entry, full: bool, *, is_open: bool) -> Element | None:
    """Return the resolved recipe of a run as an expandable element; None without a recipe."""
    text = entry.run.recipe_text
    if not text:
        return None
    end = f"\n... ({len(text):,} characters)" if len(text) > _LONGEST_RECIPE else ""
    content = shareable(text[:_LONGEST_RECIPE], full=full) + end
    return element("details", element("summary", entry.label), element("pre", content), open="" if is_open else None)
