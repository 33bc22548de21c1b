"""The command tfkit runs, which lists the runs of a folder, and can delete unfinished runs."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import align_columns, format_amounts, show
from tfkit.errors import UsageError
from tfkit.reporting.amount_texts import score, steps

if TYPE_CHECKING:
    from tfkit.run.listing import ListedRun

EXAMPLES = ("tfkit runs", "tfkit runs runs --json")

_LEFT_OUT = ("energy", "kind", "steps", "time", "CO2e")  # columns in the order in which they are omitted if the table is too wide
_HEAD = ("run", "kind", "status", "steps", "best score", "time", "energy", "CO2e")


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs, or a run.")] = Path("runs"),
    delete_unfinished: Annotated[
        bool, typer.Option("--delete-unfinished", help="Delete runs that ended before their first checkpoint, after asking or with --yes.")
    ] = False,
    with_checkpoints: Annotated[
        bool, typer.Option("--with-checkpoints", help="With --delete-unfinished: also delete runs with checkpoints.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    json: options.Json = False,
) -> None:
    """List the runs of a folder: kind, status, steps, best score, time, energy and CO2e, and its other content.

    A run whose process was killed is marked as killed. Runs in progress and other folders are never deleted.
    """
    from tfkit.engine.request.run_totals import finalize_killed_run
    from tfkit.run.listing import list_runs, unfinished_runs

    if (with_checkpoints or yes) and not delete_unfinished:
        raise UsageError("--with-checkpoints and --yes are for --delete-unfinished; add it, or leave them out")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder that runs are in, as --run named it")
    for entry in list_runs(folder):
        if entry.status == "killed":
            finalize_killed_run(entry.run)
    listed = list_runs(folder)
    deleted = _delete(unfinished_runs(listed, with_checkpoints), yes=yes) if delete_unfinished else []
    kept = list_runs(folder) if deleted else listed
    document = {"runs": [entry.to_dict() for entry in kept], **({"deleted": deleted} if delete_unfinished else {})}
    show(document, lambda _: _table(kept) if kept else f"{folder}: no runs", as_json=json)


def _delete(unfinished: "Sequence[ListedRun]", *, yes: bool) -> list[str]:
    """Delete runs, and return the deleted folders. Unless `yes` is set, ask the user first; if stdin is no terminal, raise UsageError."""
    from tfkit.run.folder import delete_run

    if not unfinished:
        console.say("there is no unfinished run to delete")
        return []
    listed = "\n  ".join(f"{entry.run}: {entry.status}, {entry.checkpoints} checkpoints" for entry in unfinished)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(f"--delete-unfinished would delete these runs; add --yes to do so:\n  {listed}")
        if (console.ask(f"Delete these runs?\n  {listed}\n[y/N] ") or "").strip().lower() not in ("y", "yes"):
            return []
    for entry in unfinished:
        if delete_run(Path(entry.run)):
            console.say(f"{entry.run}: deleted")
        else:
            console.warn(f"{entry.run}: the run is deleted; files that tfkit did not write are kept")
    return [entry.run for entry in unfinished]


def _table(listed: "Sequence[ListedRun]") -> str:
    """Return the runs as a table with notes. Columns of _LEFT_OUT are omitted until it fits the terminal (80 characters without one)."""
    names, rows, width = [*_HEAD], [_HEAD, *map(_row, listed)], shutil.get_terminal_size().columns
    table, left_out = align_columns(rows, len(names)), list[str]()
    for name in _LEFT_OUT:
        if max(map(console.columns_of, table.splitlines())) <= width:
            break
        names.remove(name)
        left_out.append(name)
        table = align_columns([[row[_HEAD.index(name)] for name in names] for row in rows], len(names))
    notes = [f"{entry.run}: {entry.problem}" for entry in listed if entry.problem]
    notes += [f"no room for {', '.join(left_out)}: --json has all"] if left_out else []
    return "\n".join([table, *([""] if notes else []), *notes])


def _row(entry: "ListedRun") -> tuple[str, ...]:
    amounts = format_amounts(entry.seconds, entry.energy_kwh, entry.emissions_g)
    return entry.run, entry.kind or "", entry.status, steps(entry), score(entry), *amounts
