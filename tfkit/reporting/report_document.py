"""The report as data: one JSON document (docs/cli.md), and the table of the runs as CSV."""

import csv
import io
from dataclasses import asdict
from typing import Any

from tfkit.reporting.equal_score import compare_runs
from tfkit.reporting.run_facts import Amounts
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.visible_text import without_places
from tfkit.run import strict_json

SCHEMA_VERSION = 1
_COLUMNS = (
    *("run", "kind", "status", "steps", "planned_steps", "metric", "score"),
    *(*Amounts.__dataclass_fields__, "is_lower_bound", "inherited_g", "inherited_is_lower_bound", "served", "place", "provenance"),
)
_FORMULA = ("=", "+", "-", "@")  # with which a spreadsheet takes a cell for a formula


def report_document(runs: RunSet, *, full: bool) -> dict[str, Any]:
    """Return the report as JSON has it. `full`: with paths, host names, and command lines; else runs have the names of their folders."""
    best = runs.best
    document = {
        "schema_version": SCHEMA_VERSION,
        "runs": [_run(one, full) for one in runs.entries],
        "totals": {
            "runs": len(runs.entries),
            **asdict(runs.amounts),
            "is_lower_bound": runs.is_lower_bound,
            "by_status": {status: {"runs": count, **asdict(amounts)} for status, (count, amounts) in runs.by_status().items()},
            "best": None if best is None else {"run": best.label, "emissions_g": runs.for_run(best).emissions_g},
            "selection_factor": runs.selection_factor,
        },
        "comparisons": [comparison.document() for comparison in compare_runs(runs)],
        "problems": [_shared(problem, full) for problem in runs.problems],
    }
    return strict_json.finite(document)


def report_csv(runs: RunSet, *, full: bool) -> str:
    """Return a line for each run after one of names; empty cells where a value is not known."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in runs.entries:
        row = _run(one, full)
        best = row["best"] or dict(zip(("metric", "value"), next(iter(row["metrics"].items()), (None, None)), strict=True))
        cells = row | {"metric": best["metric"], "score": best["value"]}
        writer.writerow({name: _cell(value) for name, value in cells.items()})
    return table.getvalue()


def _run(entry: Entry, full: bool) -> dict[str, Any]:
    run, listed, inherited = entry.run, entry.run.listed, entry.inherited
    comes_from_none = not inherited.ancestors  # then null, as in the result of the run
    document = {
        "run": str(run.path) if full else entry.label,
        "kind": run.kind,
        "status": run.status,
        "steps": listed.steps,
        "planned_steps": listed.planned_steps if type(listed.planned_steps) is int else None,
        "metrics": listed.metrics,
        "best": listed.best,
        **asdict(run.amounts),
        "is_lower_bound": run.is_lower_bound,
        "inherited_g": None if comes_from_none else inherited.emissions_g,
        "inherited_kwh": None if comes_from_none else inherited.energy_kwh,
        "inherited_is_lower_bound": inherited.sums.is_lower_bound,
        "planned": dict(run.predicted) or None,
        "phases": run.phases,
        "served": entry.served,
        "place": run.place,
        "provenance": run.provenance or None,
        "problems": [_shared(problem, full) for problem in (*filter(None, [listed.problem]), *run.problems)],
    }
    if full:
        attempts = [one for one in run.receipt.get("attempts") or () if isinstance(one, dict)]
        hosts = sorted({str(one["host"]) for one in attempts if one.get("host")})
        document |= {"run_id": run.run_id, "hosts": hosts, "command": run.receipt.get("command"), "parents": run.parents}
    return document


def _shared(text: str, full: bool) -> str:
    return text if full else without_places(text)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
