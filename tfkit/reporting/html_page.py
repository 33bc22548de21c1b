"""The report as one static HTML page, with inline SVG and without scripts or external resources, for screens of any width and for paper.

The template page.html.jinja has the text of the page, and this module provides its data. All HTML pages of tfkit use head.html.jinja,
style.css.jinja, `environment` and `write_page`.
"""

from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tfkit import __version__
from tfkit.durable import is_replaceable, write_atomically
from tfkit.errors import UsageError, argument, writing
from tfkit.regular_files import open_regular
from tfkit.reporting import page_charts, page_facts, page_tables
from tfkit.reporting.amount_texts import format_sums
from tfkit.reporting.equal_score import compare_runs
from tfkit.reporting.run_set import RunSet
from tfkit.reporting.visible_text import shareable, visible

GENERATOR = "tfkit report"
_LONGEST_RECIPE = 40_000  # maximum number of characters of a recipe that are shown
_MOST_CONFUSIONS = 4  # maximum number of confusion matrices


def html_page(runs: RunSet, *, full: bool, today: date) -> str:
    """Return the page as HTML. `full`: include paths, host names and command lines, which should not be published."""
    comparisons = compare_runs(runs)
    compared = [entry for comparison in comparisons for entry in comparison.entries]
    # The charts show at most as many runs as there are colours: first compared runs, then other trainings, then the remaining runs.
    drawn = [*{entry.label: entry for entry in (*compared, *runs.trained, *runs.single)}.values()][: page_charts.COLOURS]
    texts = [(entry.label, entry.run.recipe_text) for entry in drawn if entry.run.recipe_text]
    headline, remarks = page_facts.answer(runs)
    classified = [*page_facts.best_entries(runs.trained), *(entry for entry in drawn if entry.run.kind == "evaluate")]
    confused = [entry for entry in classified if entry.run.confusion][:_MOST_CONFUSIONS]
    learning, more_learning = page_charts.learning_charts(drawn)
    template = environment().get_template("page.html.jinja")
    page = template.render(
        {"runs": runs, "drawn": drawn, "generator": GENERATOR, "version": __version__, "today": today.isoformat()},
        name=_name(runs),
        undrawn=len(runs.single) - len(drawn),
        most_ancestors=page_charts.MOST_ANCESTORS,
        headline=headline,
        remarks=[shareable(words, full=full) for words in remarks if words],
        runs_table=page_tables.runs_table(runs.entries),
        sums=_sums(runs),
        trained=page_facts.trained_table(runs.trained, full).split(),
        scores=page_facts.score_tables(runs.trained, full),
        metrics=page_facts.metrics_table(runs.trained[0].run) if len(runs.trained) == 1 else page_tables.Table([], []),
        places=[f"{one.label}: {one.run.path}; {', '.join(one.run.hosts)}; {one.run.command_line}" for one in runs.entries if full],
        learning=learning,
        more_learning=more_learning,
        confusions=[(one.label, page_tables.confusion_table(one.run.confusion)) for one in confused],
        comparisons=[(one, page_charts.comparison_charts(one, drawn), page_tables.comparison_table(one)) for one in comparisons],
        spending=page_charts.spending_charts(drawn),
        phases=page_tables.phases_table(drawn),
        forecasts=page_tables.forecast_table(drawn),
        lineages=page_charts.lineage_charts(drawn),
        provenance=page_tables.provenance_table(runs.single).split(),
        problems=[*dict.fromkeys(shareable(line, full=full) for line in runs.all_problems)],
        differences=page_tables.differences_table(drawn, full),
        recipes=[(label, shareable(text[:_LONGEST_RECIPE], full=full), len(text)) for label, text in texts],
        longest_recipe=_LONGEST_RECIPE,
    )
    return f"{page.strip()}\n"


def environment() -> Environment:
    """Return the Jinja environment for the templates, which escapes HTML in every value, and shows control characters as codes."""
    loader = PackageLoader("tfkit", "reporting")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True)
    made.filters["corners"] = lambda places: " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    made.filters |= {"zip": zip, "slug": lambda text: text.lower().replace(" ", "-")}
    made.filters["labels"] = lambda charts: {line["label"] for chart in charts for line in chart["lines"]}
    made.filters["short"] = lambda text, most=22: text if len(text) <= most else f"{text[: most - 3]}..."
    return made


def _shown(value: Any) -> Any:
    """Return a value as text before HTML is escaped: floats with one decimal at most, a macro's output unchanged, others by `visible`."""
    if hasattr(value, "__html__"):
        return value
    return f"{round(value, 1):g}" if isinstance(value, float) else visible(str(value), lines=True)


def _name(runs: RunSet) -> str:
    """Return the name of the only run, or of the sweep or chain (of stages) to which all other runs belong, or else the number of runs."""
    first, count = runs.entries[0], len(runs.single)
    if len(runs.entries) == 1:
        return first.label
    return f"{first.label}: {count} runs" if len(first.run.members) == count == len(runs.entries) - 1 else f"{count} runs"


def _sums(runs: RunSet) -> str:
    """Return a sentence on the energy and CO2e of all runs, by status and relative to the best run; empty for one run, or if unmeasured."""
    if len(runs.entries) < 2 or runs.amounts.energy_kwh is None or runs.amounts.emissions_g is None:
        return ""
    factor = "" if runs.selection_factor is None else f", {runs.selection_factor:.3g} times as much as the best run"
    return f"All runs: {format_sums(runs)}{factor}."


def check_page_path(path: Path, generator: str) -> None:
    """Raise UsageError if `path` is a folder, is in a missing folder, or has content that is no page of the command `generator`."""
    if path.is_dir():
        raise UsageError(f"{argument('html', path)}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"{argument('html', path)}: there is no folder {path.parent}; make it, or give another path")
    if path.is_file() and path.stat().st_size and not _is_page(path, generator):
        raise UsageError(f"{argument('html', path)}: exists, and is not a page of {generator}; give another name, or delete it")


def write_page(path: Path, text: str) -> None:
    """Write a page: atomically, unless `path` is a device, a pipe or a link. Raises MachineError if it cannot be written."""
    with writing(argument("html", path), "give another path, or check the disk"):
        if is_replaceable(path):
            write_atomically(path, text)
        else:
            path.write_text(text, encoding="utf-8", newline="\n")


def _is_page(path: Path, generator: str) -> bool:
    try:
        with open_regular(path) as file:
            return f'name="generator" content="{generator}"'.encode() in file.read(4096)
    except OSError:
        return False
