"""The command tfkit report, which shows the costs and scores of runs as text, as an HTML page, or in a format for other programs."""

import datetime
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import UsageError

if TYPE_CHECKING:
    from tfkit.reporting.run_set import RunSet

EXAMPLES = (
    "tfkit report runs/demo",
    "tfkit report runs",
    "tfkit report runs --html report.html",
    "tfkit report runs --format csv > runs.csv",
)


# For each format, MODULE:FUNCTION in tfkit.reporting. The function gets a RunSet, or the RunFacts of one run, and returns a text or JSON.
_OF_RUNS = {"json": "report_document:report_document", "csv": "report_document:report_csv"}
_OF_ONE_RUN = {"card": "finished_card:finished_card", "eu-gpai": "formats.eu_gpai:eu_gpai"}
_OF_ONE_RUN |= {name: f"formats.{name}:{name}" for name in ("cyclonedx", "spdx", "sci", "boamps")}
FORMATS = _OF_RUNS | _OF_ONE_RUN


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN|FOLDER...", help="Run folders, or folders with runs anywhere below.")],
    form: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help=f"Write this format to stdout: {', '.join(FORMATS)}.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="F", help="Write one static page with all figures and tables.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Include host names, paths and command lines, which are omitted otherwise.")] = False,
    json: options.Json = False,
) -> None:
    """Report the costs and scores of runs: time, energy and CO2e with their ranges, inherited emissions, and totals.

    Runs that are in progress, killed or damaged are read as far as possible. Nothing in a run folder is changed.
    """
    from tfkit.reporting.run_set import open_runs

    if form is not None and form not in FORMATS:
        raise UsageError(f"--format {form}: no such format; give one of {', '.join(FORMATS)}")
    if json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other; leave one out")
    run_set = open_runs(runs)
    for problem in run_set.problems:
        console.warn(problem)
    if html is not None:
        _write_page(html, run_set, full)
    if json or form is not None:
        module, _, name = FORMATS[form or "json"].partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(f"tfkit.reporting.{module}"), name)
        written = function(run_set.of_one_model() if form in _OF_ONE_RUN else run_set, full=full)
        console.piece(written) if isinstance(written, str) else console.json(written)
    elif html is None:
        from tfkit.reporting.terminal_report import terminal_report

        for line in terminal_report(run_set, console.result_columns(), console.columns_of):
            console.result(line)


def _write_page(path: Path, runs: "RunSet", full: bool) -> None:
    from tfkit.engine.request.inputs import Inputs
    from tfkit.reporting.html_page import GENERATOR, check_page_path, html_page, write_page

    check_page_path(path, GENERATOR)
    Inputs(models=tuple(entry.run.path for entry in runs.entries)).refuse_output(path, "--html")
    write_page(path, html_page(runs, full=full, today=datetime.date.today()))
    console.decided(f"wrote {path}")
