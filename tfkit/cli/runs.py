"""tfkit runs: the runs of a folder, and the deletion of those that came to nothing."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.aligned import aligned, amounts
from tfkit.errors import UsageError
from tfkit.reporting.amount_texts import score, steps

if TYPE_CHECKING:
    from tfkit.run.listing import ListedRun

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
    from tfkit.engine.killed import complete_killed_run
    from tfkit.run.listing import list_runs, unfinished_runs

    if (with_checkpoints or yes) and not delete_unfinished:
        raise UsageError("--with-checkpoints and --yes are for --delete-unfinished; add it, or leave them out")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder that runs are in, as --run named it")
    found = list_runs(folder)
    for one in found:
        if one.status == "killed":
            complete_killed_run(one.run)
    found = list_runs(folder)
    gone = _delete(unfinished_runs(found, with_checkpoints), yes=yes) if delete_unfinished else []
    if json:
        document = {"schema_version": 1, "runs": [one.to_dict() for one in found if one.run not in gone]}
        console.json(document | ({"deleted": gone} if delete_unfinished else {}))
        return
    left = [one for one in found if one.run not in gone]
    console.result(_table(left) if left else f"{folder}: no runs")


def _delete(doomed: "Sequence[ListedRun]", *, yes: bool) -> list[str]:
    """Delete these runs, if that is wanted, and return what is gone. Raises UsageError where nobody can be asked."""
    from tfkit.run.folder import delete_run

    if not doomed:
        console.say("there is no unfinished run to delete")
        return []
    listed = "\n  ".join(f"{one.run}: {one.status}, {one.checkpoints} checkpoints" for one in doomed)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"--delete-unfinished would delete these runs; add --yes to do so:\n  {listed}")
        if (console.ask(f"Delete these runs?\n  {listed}\n[y/N] ") or "").strip().lower() not in ("y", "yes"):
            return []
    gone = []
    for one in doomed:
        if delete_run(Path(one.run)):
            gone.append(one.run)
            console.say(f"{one.run}: deleted")
        else:
            console.warn(f"{one.run}: the run is deleted; files that tfkit did not write are kept")
    return gone


def _table(found: "Sequence[ListedRun]") -> str:
    table = aligned([_HEAD, *(_row(one) for one in found)], None)
    notes = [f"{one.run}: {one.problem}" for one in found if one.problem]
    return "\n".join([table, *([""] if notes else []), *notes])


def _row(one: "ListedRun") -> tuple[str, ...]:
    return (
        one.run,
        one.kind or "",
        one.status,
        steps(one),
        score(one),
        *amounts(one.seconds, one.energy_kwh, one.emissions_g),
    )
