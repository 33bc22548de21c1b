"""The report as data: a JSON document (docs/cli.md), or a table of the runs as CSV."""

import csv
import io
import re
from dataclasses import asdict
from typing import Any

from tfkit.carbon.footprint import AMOUNTS
from tfkit.reporting.equal_score import compare_runs
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.visible_text import shareable
from tfkit.run import strict_json

SCHEMA_VERSION = 1
_COLUMNS = (
    *("run", "kind", "status", "steps", "planned_steps", "metric", "score"),
    *(*AMOUNTS, "is_lower_bound", "inherited_g", "inherited_is_lower_bound", "served", "place", "provenance"),
)
# The beginning of a cell that a spreadsheet may evaluate as a formula; a negative number such as -1.5 does not match.
_FORMULA = re.compile(r"[=+@\t\r\n＝＋－＠]|-(?!\d+(\.\d+)?\Z)")


def report_document(runs: RunSet, *, full: bool) -> dict[str, Any]:
    """Return the report as a JSON document. `full`: include paths, host names and command lines; otherwise a run is named by its label."""
    best = runs.best
    document = {
        "schema_version": SCHEMA_VERSION,
        "runs": [_run(entry, full) for entry in runs.entries],
        "totals": {
            "runs": len(runs.entries),
            **runs.amounts.document(AMOUNTS),
            "is_lower_bound": runs.is_lower_bound,
            "by_status": {status: {"runs": count, **amounts.document(AMOUNTS)} for status, (count, amounts) in runs.by_status().items()},
            "best": None if best is None else {"run": best.label, "emissions_g": runs.best_g},
            "selection_factor": runs.selection_factor,
        },
        "comparisons": [comparison.document() for comparison in compare_runs(runs)],
        "problems": [shareable(problem, full=full) for problem in runs.problems],
    }
    return strict_json.finite(document)


def report_csv(runs: RunSet, *, full: bool) -> str:
    """Return the runs as CSV with a header; cells are empty where a value is unknown."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore")  # its default line end, \r\n, makes it quote cells that have \r or \n
    writer.writeheader()
    for entry in runs.entries:
        row = _run(entry, full)
        best = row["best"] or dict(zip(("metric", "value"), next(iter(row["metrics"].items()), (None, None)), strict=True))
        cells = row | {"metric": best["metric"], "score": best["value"]}
        formulas = {name: f"'{text}" for name, text in cells.items() if isinstance(text, str) and _FORMULA.match(text)}
        writer.writerow(cells | formulas)  # an apostrophe before a formula makes it a text (OWASP, "CSV Injection")
    return table.getvalue().replace("\r\n", "\n")


def _run(entry: Entry, full: bool) -> dict[str, Any]:
    run, listed = entry.run, entry.run.listed
    document = {
        "run": str(run.path) if full else entry.label,
        "kind": run.kind,
        "status": run.status,
        "steps": listed.steps,
        "planned_steps": listed.planned_steps,
        "metrics": listed.metrics,
        "best": listed.best,
        **run.amounts.document(AMOUNTS),
        "is_lower_bound": run.is_lower_bound,
        **entry.inherited.sums.fields(),
        "planned": run.recorded.predicted or None,
        "phases": run.phases,
        "served": entry.served,
        "place": run.place,
        "provenance": run.provenance or None,
        "problems": [shareable(problem, full=full) for problem in (*filter(None, [listed.problem]), *run.problems)],
    }
    if full:
        parents = [asdict(parent) for parent in run.parents]
        document |= {"run_id": run.run_id, "hosts": run.hosts, "command": run.recorded.command, "parents": parents}
    return document
