"""The report as one static HTML page, with inline SVG and without scripts or external resources, for screens of any width and for paper."""

from collections.abc import Sequence
from datetime import date

from tfkit import __version__
from tfkit.reporting.amount_texts import cost_field, format_statuses, score
from tfkit.reporting.equal_score import Comparison, compare_runs
from tfkit.reporting.html_elements import Element, element, render
from tfkit.reporting.lineage_picture import MOST_ANCESTORS, lineage_picture
from tfkit.reporting.page_curves import comparison_chart, forecast_charts, learning_charts, spending_charts
from tfkit.reporting.page_style import STYLE
from tfkit.reporting.page_tables import (
    comparison_table,
    forecast_table,
    phases_table,
    provenance_table,
    recipe_differences,
    recipe_text,
    runs_table,
    samples,
)
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.svg_charts import COLOURS
from tfkit.reporting.visible_text import shareable
from tfkit.units import format_energy, format_mass

GENERATOR = "tfkit report"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MOST_PROBLEMS = 100


def html_page(runs: RunSet, *, full: bool, today: date) -> str:
    """Return the page. `full`: with paths, host names and command lines, which a page to be shared should not contain."""
    drawn = _entries_to_draw(runs)
    name = runs.entries[0].label if len(runs.entries) == 1 else f"{len(runs.entries)} runs"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=GENERATOR),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{name}: costs and scores of runs" if len(runs.entries) > 1 else f"{name}: cost and scores of a run"),
        element("style", STYLE),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", name),
            element("p", f"Made by tfkit {__version__} on {today.isoformat()} from run folders.", class_="quiet"),
        ),
        element("main", *_sections(runs, drawn, full)),
    )
    return f"<!DOCTYPE html>\n{render(element('html', head, body, lang='en'))}\n"


def _entries_to_draw(runs: RunSet) -> list[Entry]:
    """Return the runs for the charts, at most one per colour: first those that are compared, then those that trained."""
    compared = [entry for comparison in compare_runs(runs) for entry in comparison.entries]
    order = [*compared, *runs.trained, *runs.entries]
    return list({entry.label: entry for entry in order if not (entry.run.is_group and entry.run.members)}.values())[:COLOURS]


def _sections(runs: RunSet, drawn: Sequence[Entry], full: bool) -> list[Element]:
    omitted = len(runs.entries) - len(drawn)
    note = element("p", f"{omitted} of {len(runs.entries)} runs are only in the tables.", class_="quiet") if omitted else None
    pictures = [picture for entry in drawn if (picture := lineage_picture(entry)) is not None]
    large = [entry for entry in drawn if len(entry.inherited.ancestors) > MOST_ANCESTORS]
    more = [element("p", f"{entry.label} has {len(entry.inherited.ancestors):,} ancestors, too many for a picture.") for entry in large]
    differences = recipe_differences(drawn, full) if len(drawn) > 1 else None
    recipes = [text for entry in drawn if (text := recipe_text(entry, full, is_open=len(drawn) == 1)) is not None]
    sections = [
        _section("Runs", runs_table(runs.entries), *_sums(runs), *_details(runs, full)),
        _section("Learning", note, _charts(learning_charts(drawn))),
        *(_section("At equal score", *_comparison(comparison, drawn)) for comparison in compare_runs(runs)),
        _section("Energy and CO2e", _charts(spending_charts(drawn)), phases_table(drawn)),
        _section("Forecast and measured", _charts(forecast_charts(drawn)), forecast_table(drawn)),
        _section("Lineage", _charts(pictures), *more),
        _section("How the energy was obtained", provenance_table(runs.entries)),
        _section("Gaps and problems", *_problems(runs, full)),
        _section("Samples", *map(samples, drawn)),
        _section("Differences of the recipes", differences),
        _section("Recipes", *recipes),
    ]
    return [section for section in sections if section is not None]


def _section(title: str, *parts: Element | None) -> Element | None:
    return element("section", element("h2", title), *parts) if any(part is not None for part in parts) else None


def _charts(charts: Sequence[Element]) -> Element | None:
    return element("div", *charts, class_="charts") if charts else None


def _sums(runs: RunSet) -> list[Element]:
    """Return the sums over all runs, also by status, and those of the best run."""
    total = runs.amounts
    if len(runs.entries) < 2 or total.energy_kwh is None or total.emissions_g is None:
        return []
    least = "at least " if runs.is_lower_bound else ""
    energy, grams = format_energy(1000 * total.energy_kwh), format_mass(total.emissions_g)
    paragraphs = [element("p", f"All runs: {least}{energy} and {grams} CO2e ({format_statuses(runs)}).")]
    if runs.best is not None and (own := runs.cost_of(runs.best).emissions_g) is not None and runs.selection_factor is not None:
        words = f"Best run: {runs.best.label}, {score(runs.best.run.listed)}, {format_mass(own)}; "
        paragraphs.append(element("p", f"{words}all runs emitted {runs.selection_factor:.3g} times as much."))
    return paragraphs


def _comparison(comparison: Comparison, drawn: Sequence[Entry]) -> list[Element | None]:
    name = cost_field(comparison)
    words = {"emissions_g": "CO2e", "energy_kwh": "energy", "seconds": "time of the steps"}[name]
    has_inherited = name != "seconds" and any(entry.inherited.ancestors for entry in comparison.entries)
    inherited = ", in brackets with that of its ancestors" if has_inherited else ""
    level = f"its validation {comparison.metric} was as good as the best of another run"
    return [
        element("p", f"The {words} of each run until {level}{inherited}."),
        _charts([chart] if (chart := comparison_chart(comparison, name, drawn)) is not None else []),
        comparison_table(comparison, name),
        *(element("p", f"Note: {note}.", class_="quiet") for note in comparison.notes),
    ]


def _problems(runs: RunSet, full: bool) -> list[Element]:
    """Return the errors of failed runs, and the problems with the folders."""
    errors = [f"{entry.label}: {entry.run.status}: {entry.run.listed.problem}" for entry in runs.entries if entry.run.listed.problem]
    problems = [*(f"{entry.label}: {problem}" for entry in runs.entries for problem in entry.run.problems), *runs.problems]
    lines = list(dict.fromkeys(shareable(line, full=full) for line in (*errors, *problems)))
    shown = [element("li", line[:1000]) for line in lines[:_MOST_PROBLEMS]]
    more = [element("li", f"{len(lines) - _MOST_PROBLEMS:,} more")] if len(lines) > _MOST_PROBLEMS else []
    return [element("ul", *shown, *more)] if shown else []


def _details(runs: RunSet, full: bool) -> list[Element]:
    """Return the paths, host names and command lines; nothing unless `full`."""
    if not full:
        return []
    rows = []
    for entry in runs.entries:
        command = entry.run.receipt.get("command")
        words = " ".join(map(str, command)) if isinstance(command, list) else ""
        rows.append(f"{entry.label}: {entry.run.path}; {', '.join(entry.run.hosts)}; {words}")
    return [element("ul", *(element("li", row) for row in rows))]
