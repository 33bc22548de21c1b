"""tfkit verify: every file of a checkpoint, or of all of a run or runs, against its checksum, and a run's energy against its ledgers.

Nothing is changed.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options

if TYPE_CHECKING:
    from tfkit.engine.audit import Audit
    from tfkit.errors import TfkitError


def verify(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or a folder of runs: then all of their checkpoints.")
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare every file of a checkpoint with its checksum, and the energy of a run with its ledgers; 0 if all are good, 4 if not."""
    from tfkit.run.manifest import recorded_bytes

    folders, notes = _find(checkpoint)
    with console.progress("verifying", sum(map(recorded_bytes, folders)), "bytes") as bar:
        verdicts = [_judge(folder, bar.advance) for folder in folders]
    audits = _audits(checkpoint)
    bad = [verdict for verdict in verdicts if verdict.problems]
    good = not bad and all(audit.good for audit in audits)
    error = None if good else _error(bad, len(verdicts), audits)
    with suppress(console.ReaderGone):  # the exit code says it, too
        if json:
            found = [asdict(verdict) for verdict in verdicts]
            carbon = [{**asdict(audit), "good": audit.good} for audit in audits]
            document = {"schema_version": 1, "path": str(checkpoint), "good": good, "checkpoints": found, "notes": notes, "carbon": carbon}
            console.json(document, error)
        else:
            carbon_lines = (line for audit in audits for line in _carbon_lines(audit))
            for line in (*(line for verdict in verdicts for line in verdict.lines()), *notes, *carbon_lines):
                console.result(line)
    if error is not None:
        raise error


def _audits(path: Path) -> "list[Audit]":
    """Return the audits of the run that a path means: itself, or the one whose checkpoint it is."""
    from tfkit.engine.audit import audit_runs

    path = path.resolve()
    runs = [path.parent.parent] if path.parent.name == "checkpoints" else _runs(path) or [path]
    return [audit for run in runs for audit in audit_runs(run)]


def _runs(path: Path) -> list[Path]:
    """Return the runs in a folder that holds several; none for a run, a chain, a sweep or a model folder."""
    from tfkit.run.chain_folder import member_folders
    from tfkit.run.listing import list_runs

    if any((path / name).exists() for name in ("run.json", "manifest.json", "config.json", "checkpoints")):
        return []
    found = [Path(one.run) for one in list_runs(path) if one.status != "foreign"]
    members = {member for run in found for member in member_folders(run).values()}
    return [run for run in found if run not in members]


def _carbon_lines(audit: "Audit") -> list[str]:
    if not audit.ledgers and audit.good:
        return [*audit.notes]
    if not audit.ledgers:
        return [
            f"{audit.run}: the energy does not follow from what is in the folder",
            *(f"  {line}" for line in (*audit.problems, *audit.notes)),
        ]
    states = ", ".join(f"{name} {state}" for name, state in audit.ledgers.items())
    verdict = "follows" if audit.good else "does not follow"
    first = f"{audit.run}: the energy {verdict} from the ledgers ({states}; {audit.lines:,} lines)"
    return [first, *(f"  {line}" for line in (*audit.problems, *audit.notes))]


def _error(bad: "list[_Verdict]", count: int, audits: "list[Audit]") -> "TfkitError":
    from tfkit.errors import ModelError

    problems = [problem for audit in audits for problem in audit.problems]
    if bad:
        first = bad[0].problems[0] + (" (and more)" if len(bad) > 1 or len(bad[0].problems) > 1 else "")
        return ModelError(f"{len(bad)} of {count} checkpoints did not pass: {first}. Restore the files, or use another checkpoint")
    more = " (and more)" if len(problems) > 1 else ""
    return ModelError(f"{problems[0]}{more}. Restore the file; the ledgers are the truth where their hashes hold")


@dataclass(frozen=True)
class _Verdict:
    """`verdict`: good; damaged (a file is not what the manifest says); incomplete (without a valid manifest, so none of ours)."""

    path: str
    verdict: str
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # files that the manifest does not name: ignored by all readers

    def lines(self) -> list[str]:
        """Return the verdict for people: a line, and one for each file that is wrong or extra."""
        size = f" ({self.files} files, {self.bytes:,} bytes)" if self.files else ""
        found = [*self.problems, *(f"{self.path}/{name}: not in the manifest; it may be there, and is ignored" for name in self.extra)]
        return [f"{self.path}: {self.verdict}{size}", *(f"  {line}" for line in found)]


def _find(path: Path) -> tuple[list[Path], list[str]]:
    """Return the checkpoint folders that a path means, of several runs those of all, and notes on them.

    Raises ModelError if there are none.
    """
    from tfkit.errors import ModelError
    from tfkit.run.chain_folder import runs_within
    from tfkit.run.checkpoints import step_folders

    if str(path).startswith("hub:"):
        raise ModelError(f"{path}: not on this machine; verify takes a checkpoint or a run folder")
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such folder; verify takes a checkpoint or a run folder")
    runs = [run for one in _runs(path) or [path] for run in runs_within(one)]
    roots = [run / "checkpoints" for run in runs if (run / "checkpoints").is_dir()]
    if runs == [path] and not roots:  # an evaluation's, or a model folder
        return ([], []) if (path / "carbon").is_dir() and (path / "run.json").is_file() else ([path], [])
    folders = [folder for root in roots for folder in step_folders(root)]
    notes = [note for root in roots for note in _notes(root)]
    if not folders:
        raise ModelError("\n".join([f"{path}: this run has no checkpoint", *notes]))
    return folders, notes


def _notes(root: Path) -> list[str]:
    from tfkit.run.checkpoints import best_checkpoint, leftovers, read_best, set_aside

    notes = [f"{folder}: was damaged and is set aside; it goes when the run is past it" for folder in set_aside(root)]
    notes += [f"{left}: of a save that was killed, or is at work now; the next start clears it" for left in leftovers(root)]
    if (root / "best.json").exists() and not best_checkpoint(root):
        best = read_best(root)
        what = f"names step {best.step}, which is not complete here" if best else "unreadable"
        notes.append(f"{root / 'best.json'}: {what}; the newest checkpoint is taken instead")
    return notes


def _judge(folder: Path, advance: Callable[[int], object]) -> _Verdict:
    from tfkit.errors import ModelError
    from tfkit.run.manifest import extra_files, read_manifest, recorded_bytes, verify

    try:
        files = len(read_manifest(folder))
    except ModelError as error:
        unsure = "" if (folder / "manifest.json").exists() else ": there is nothing to check its files against"
        return _Verdict(str(folder), "incomplete", problems=[f"{error}{unsure}", *_unreadable(folder)])
    problems = verify(folder, advance=advance)
    verdict = "damaged" if problems else "good"
    return _Verdict(str(folder), verdict, files, recorded_bytes(folder), problems, extra_files(folder))


def _unreadable(folder: Path) -> list[str]:
    """Return the problems that show without checksums: JSON that is none, and weights whose header does not fit the file."""
    from tfkit.errors import ModelError
    from tfkit.run.model_files import MIB, read_object
    from tfkit.run.safetensors_header import read_header

    problems = []
    for path in sorted((*folder.glob("*.json"), *folder.glob("*.safetensors"))):
        if path.name == "manifest.json":
            continue
        try:
            read_object(path, 512 * MIB) if path.suffix == ".json" else read_header(path)
        except ModelError as error:
            problems.append(str(error))
    return problems
