"""Compare the files of checkpoints with their checksums, and the energy recorded for runs with the runs' ledgers. No file is changed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfkit.engine.listener import Listener
from tfkit.engine.tools.audit import Audit, audit_runs
from tfkit.errors import ModelError
from tfkit.run.best_json import best_checkpoint, read_best
from tfkit.run.checkpoints import leftovers, set_aside, step_folders
from tfkit.run.listing import list_runs
from tfkit.run.manifest import extra_files, read_manifest, recorded_bytes, verify
from tfkit.run.model_files import MIB, read_object
from tfkit.run.run_json import member_folders, runs_within
from tfkit.run.safetensors_header import read_header


@dataclass(frozen=True)
class Verdict:
    """The finding on a checkpoint, whose manifest lists the size and the hash of each file."""

    path: str
    verdict: str  # "good", "damaged" (a file differs from the manifest) or "incomplete" (there is no valid manifest)
    files: int = 0  # number of files in the manifest
    bytes: int = 0  # total size of the files in the manifest
    problems: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # names of files that are not in the manifest, and that tfkit ignores


@dataclass(frozen=True)
class Verification:
    """The findings at a path: a verdict on each checkpoint, notes on other files, and an audit of the energy of each run."""

    path: Path
    verdicts: list[Verdict]
    notes: list[str]
    audits: list[Audit]

    @property
    def error(self) -> ModelError | None:
        """The error for the first problem; None if there is no problem."""
        bad = [verdict.problems for verdict in self.verdicts if verdict.problems]
        problems = [problem for one in bad or [audit.problems for audit in self.audits] for problem in one]
        if not problems:
            return None
        first = problems[0] + (" (and more)" if len(problems) > 1 else "")
        if bad:
            count = f"{len(bad)} of {len(self.verdicts)} checkpoints did not pass"
            return ModelError(f"{count}: {first}. Restore the files, or use another checkpoint")
        return ModelError(f"{first}. Restore the file; ledgers whose hash chain is intact have the right numbers")

    def to_dict(self) -> dict[str, Any]:
        """Return the document of --json."""
        return {
            "schema_version": 1,
            "path": str(self.path),
            "good": self.error is None,
            "checkpoints": [asdict(verdict) for verdict in self.verdicts],
            "notes": self.notes,
            "carbon": [{**asdict(audit), "good": not audit.problems} for audit in self.audits],
        }


def verify_path(path: Path, listener: Listener) -> Verification:
    """Verify the checkpoint, run or runs at a path, and audit the energy of each run. Raises ModelError if there is nothing to verify."""
    folders, notes = _find(path)
    with listener.progress("verifying", sum(map(recorded_bytes, folders)), "bytes") as bar:
        verdicts = [_judge(folder, bar.advance) for folder in folders]
    place = path.resolve()
    runs = [place.parent.parent] if place.parent.name == "checkpoints" else _runs(place) or [place]
    return Verification(path, verdicts, notes, [audit for run in runs for audit in audit_runs(run)])


def _runs(path: Path) -> list[Path]:
    """Return the runs in a folder of runs, without stages and trials of other runs; [] if the folder itself is a run or a model."""
    if any((path / name).exists() for name in ("run.json", "manifest.json", "config.json", "checkpoints")):
        return []
    runs = [Path(entry.run) for entry in list_runs(path) if entry.status != "foreign"]
    members = {member for run in runs for member in member_folders(run).values()}
    return [run for run in runs if run not in members]


def _find(path: Path) -> tuple[list[Path], list[str]]:
    """Return the checkpoint folders of all runs at a path, or the path itself if it is a model folder; and notes on other files there.

    Raises ModelError if the path is no folder, or its runs have no checkpoint. For the run folder of an evaluation, both lists are empty.
    """
    if str(path).startswith("hub:"):
        raise ModelError(f"{path}: not on this machine; verify takes a checkpoint or a run folder")
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such folder; verify takes a checkpoint or a run folder")
    runs = [run for one in _runs(path) or [path] for run in runs_within(one)]
    roots = [run / "checkpoints" for run in runs if (run / "checkpoints").is_dir()]
    if runs == [path] and not roots:  # `path` is a model folder, or the run folder of an evaluation, which has no checkpoints
        return ([], []) if (path / "carbon").is_dir() and (path / "run.json").is_file() else ([path], [])
    folders = [folder for root in roots for folder in step_folders(root)]
    notes = [note for root in roots for note in _notes(root)]
    if not folders:
        raise ModelError("\n".join([f"{path}: this run has no checkpoint", *notes]))
    return folders, notes


def _notes(root: Path) -> list[str]:
    notes = [f"{folder}: was damaged, and was set aside; it is removed when the run has passed its step" for folder in set_aside(root)]
    notes += [f"{left}: left by a save that was killed or is in progress; the next start removes it" for left in leftovers(root)]
    if (root / "best.json").exists() and not best_checkpoint(root):
        best = read_best(root)
        what = f"names step {best.step}, which is not complete here" if best else "unreadable"
        notes.append(f"{root / 'best.json'}: {what}; the newest checkpoint is used instead")
    return notes


def _judge(folder: Path, advance: Callable[[int], object]) -> Verdict:
    try:
        files = len(read_manifest(folder))
    except ModelError as error:
        unsure = "" if (folder / "manifest.json").exists() else ": there is nothing to check its files against"
        return Verdict(str(folder), "incomplete", problems=[f"{error}{unsure}", *_unreadable(folder)])
    problems = verify(folder, advance=advance)
    return Verdict(str(folder), "damaged" if problems else "good", files, recorded_bytes(folder), problems, extra_files(folder))


def _unreadable(folder: Path) -> list[str]:
    """Return the problems that can be found without checksums: invalid JSON, and safetensors files whose header is wrong."""
    problems = []
    for path in sorted({*folder.glob("*.json"), *folder.glob("*.safetensors")} - {folder / "manifest.json"}):
        try:
            read_object(path, 512 * MIB) if path.suffix == ".json" else read_header(path)
        except ModelError as error:
            problems.append(str(error))
    return problems
