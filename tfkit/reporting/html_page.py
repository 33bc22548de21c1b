"""The report as one static HTML page: inline SVG, no script, no request to anywhere, readable in light and dark, narrow, wide, on paper."""

from collections.abc import Sequence
from datetime import date

from tfkit import __version__
from tfkit.reporting.amount_texts import score, spent_field, statuses
from tfkit.reporting.equal_score import Comparison, compare_runs
from tfkit.reporting.html_elements import Element, element, written
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
from tfkit.reporting.visible_text import without_places
from tfkit.units import format_energy, format_mass

GENERATOR = "tfkit report"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MOST_PROBLEMS = 100


def html_page(runs: RunSet, *, full: bool, today: date) -> str:
    """Return the page. `full`: with paths, host names and command lines, which a page that is shared leaves out."""
    drawn = _drawn(runs)
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
    return f"<!DOCTYPE html>\n{written(element('html', head, body, lang='en'))}\n"


def _drawn(runs: RunSet) -> list[Entry]:
    """Return the runs that are drawn: as many as there are colours, those that are compared and then those that trained first."""
    compared = [one for comparison in compare_runs(runs) for one in comparison.entries]
    order = [*compared, *runs.trained, *runs.entries]
    chosen = list({one.label: one for one in order if not (one.run.is_group and one.run.members)}.values())[:COLOURS]
    return chosen


def _sections(runs: RunSet, drawn: Sequence[Entry], full: bool) -> list[Element]:
    left_out = len(runs.entries) - len(drawn)
    note = element("p", f"{left_out} of {len(runs.entries)} runs are in tables alone.", class_="quiet") if left_out else None
    pictures = [picture for one in drawn if (picture := lineage_picture(one)) is not None]
    large = [one for one in drawn if len(one.inherited.ancestors) > MOST_ANCESTORS]
    more = [element("p", f"{one.label} has {len(one.inherited.ancestors):,} ancestors, too many for a picture.") for one in large]
    differences = recipe_differences(drawn, full) if len(drawn) > 1 else None
    recipes = [text for one in drawn if (text := recipe_text(one, full, is_open=len(drawn) == 1)) is not None]
    found = [
        _section("Runs", runs_table(runs.entries), *_sums(runs), *_details(runs, full)),
        _section("Learning", note, _charts(learning_charts(drawn))),
        *(_section("At equal score", *_comparison(comparison, drawn)) for comparison in compare_runs(runs)),
        _section("Energy and CO2e", _charts(spending_charts(drawn)), phases_table(drawn)),
        _section("Forecast and measured", _charts(forecast_charts(drawn)), forecast_table(drawn)),
        _section("Lineage", _charts(pictures), *more),
        _section("How the energy was obtained", provenance_table(runs.entries)),
        _section("Gaps and problems", *_problems(runs, full)),
        _section("Samples", *(found for one in drawn if (found := samples(one)) is not None)),
        _section("Differences of the recipes", differences),
        _section("Recipes", *recipes),
    ]
    return [section for section in found if section is not None]


def _section(title: str, *parts: Element | None) -> Element | None:
    there = [part for part in parts if part is not None]
    return element("section", element("h2", title), *there) if there else None


def _charts(charts: Sequence[Element]) -> Element | None:
    return element("div", *charts, class_="charts") if charts else None


def _sums(runs: RunSet) -> list[Element]:
    """Return the sum over all runs by status, beside the best of them."""
    total = runs.amounts
    if len(runs.entries) < 2 or total.energy_kwh is None or total.emissions_g is None:
        return []
    least = "at least " if runs.is_lower_bound else ""
    whole = f"All runs: {least}{format_energy(1000 * total.energy_kwh)} and {format_mass(total.emissions_g)} CO2e ({statuses(runs)})."
    found = [element("p", whole)]
    if runs.best is not None and (own := runs.for_run(runs.best).emissions_g) is not None and runs.selection_factor is not None:
        words = f"Best run: {runs.best.label}, {score(runs.best.run.listed)}, {format_mass(own)}; "
        found.append(element("p", f"{words}all runs emitted {runs.selection_factor:.3g} times as much."))
    return found


def _comparison(comparison: Comparison, drawn: Sequence[Entry]) -> list[Element | None]:
    name = spent_field(comparison)
    words = {"emissions_g": "CO2e", "energy_kwh": "energy", "seconds": "time of the steps"}[name]
    has_inherited = name != "seconds" and any(one.inherited.ancestors for one in comparison.entries)
    inherited = ", in brackets with what was inherited" if has_inherited else ""
    when = f"when its validation {comparison.metric} was as good as the best of another run"
    return [
        element("p", f"The {words} that each run had spent {when}{inherited}."),
        _charts([chart] if (chart := comparison_chart(comparison, name, drawn)) is not None else []),
        comparison_table(comparison, name),
        *(element("p", f"Note: {note}.", class_="quiet") for note in comparison.notes),
    ]


def _problems(runs: RunSet, full: bool) -> list[Element]:
    """Return what was wrong with the folders, what was left out, and how failed runs ended."""
    ends = [f"{one.label}: {one.run.status}: {one.run.listed.problem}" for one in runs.entries if one.run.listed.problem]
    every = [*ends, *(f"{one.label}: {problem}" for one in runs.entries for problem in one.run.problems), *runs.problems]
    lines = list(dict.fromkeys(line if full else without_places(line) for line in every))
    shown = [element("li", line[:1000]) for line in lines[:_MOST_PROBLEMS]]
    more = [element("li", f"{len(lines) - _MOST_PROBLEMS:,} more")] if len(lines) > _MOST_PROBLEMS else []
    return [element("ul", *shown, *more)] if shown else []


def _details(runs: RunSet, full: bool) -> list[Element]:
    """Return the command lines, host names and paths; nothing unless all is wanted."""
    if not full:
        return []
    rows = []
    for one in runs.entries:
        command = one.run.receipt.get("command")
        attempts = [each for each in one.run.receipt.get("attempts") or () if isinstance(each, dict)]
        hosts = ", ".join(sorted({str(each["host"]) for each in attempts if each.get("host")}))
        words = " ".join(map(str, command)) if isinstance(command, list) else ""
        rows.append(f"{one.label}: {one.run.path}; {hosts}; {words}")
    return [element("ul", *(element("li", row) for row in rows))]
