"""The runs in a folder, described from their run.json, metrics and checkpoints, without torch. Hundreds of runs are listed quickly."""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfkit.errors import path_argument, reason_of
from tfkit.run import strict_json
from tfkit.run.best_json import read_best
from tfkit.run.checkpoints import newest_step, step_folders
from tfkit.run.lock import is_locked
from tfkit.run.metrics import parse_record
from tfkit.run.refused_folders import lost_receipt
from tfkit.run.run_json import CHAIN, SWEEP, RunDocument, member_folders, read_run_json, runs_within

_TAIL_BYTES = 1 << 16  # the number of bytes that are read from the end of metrics.jsonl
_KINDS = {"pre-training": "pretrain", "fine-tuning": "finetune"}
UNFINISHED = ("new", "stopped", "failed", "killed")


@dataclass(frozen=True)
class ListedRun:
    """A run (with the status `damaged` if it cannot be read), or a folder that is no run (status `foreign`). None: unknown or absent."""

    run: str
    status: str
    kind: str | None = None
    steps: int | None = None
    planned_steps: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)  # the scores in the run's result, else those of its latest evaluation
    best: dict[str, Any] | None = None
    seconds: float | None = None
    energy_kwh: float | None = None
    emissions_g: float | None = None
    checkpoints: int = 0
    resume: str | None = None  # the command that continues the run
    problem: str | None = None  # the reason for `damaged` and `foreign`, or the error that ended a failed run

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; a number that is not finite becomes None, and is listed in `nonfinite`."""
        return strict_json.finite(asdict(self))


def list_runs(folder: Path) -> list[ListedRun]:
    """Return the runs in `folder`, or in folders of it that are no runs, and its other folders, sorted by name. If `folder` is a run,
    return that run and its stages or trials. `folder` may be a link. Links inside it are not followed, since they could lead to runs
    that are listed already. Raises OSError.
    """
    if (folder / "run.json").exists() or lost_receipt(folder):
        return [*map(read_run, _with_members(folder.resolve() if folder.is_symlink() else folder))]
    return [run for path in sorted(path for path in folder.iterdir() if path.is_dir()) for run in _runs_at(path)]


def unfinished_runs(runs: Sequence[ListedRun], with_checkpoints: bool) -> list[ListedRun]:
    """Return the unfinished runs, in an order in which they can be deleted: stages and trials before the folder that holds them.

    A run with checkpoints is included only if `with_checkpoints` is true; a folder of several runs is included only if all its stages or
    trials are.
    """
    chosen = [run for run in runs if run.status in UNFINISHED and (with_checkpoints or not run.checkpoints)]
    names = {run.run for run in chosen}
    members = {run.run: [str(path) for path in member_folders(Path(run.run)).values() if path.exists()] for run in chosen}
    chosen = [run for run in chosen if names.issuperset(members[run.run])]
    return sorted(chosen, key=lambda run: -len(Path(run.run).parts))


def _runs_at(path: Path) -> list[ListedRun]:
    """Return the runs in `path` if it is no run but holds some; else `path`, with its members. An unreadable folder counts as damaged."""
    try:
        nested = [] if (path / "run.json").exists() else sorted(inner.parent for inner in path.glob("*/run.json"))
        return [*map(read_run, nested or _with_members(path))]
    except OSError as error:
        return [_unreadable(path, error)]


def _unreadable(path: Path, error: OSError) -> ListedRun:
    return ListedRun(str(path), "damaged", problem=f"{Path(error.filename or path).name}: {reason_of(error)}")


def _with_members(path: Path) -> list[Path]:
    """Return the folder of a run, followed by those of its existing stages or trials, each followed by its own stages or trials."""
    return [path, *(inner for member in member_folders(path).values() if member.exists() for inner in _with_members(member))]


def read_run(path: Path) -> ListedRun:
    """Return the description of a folder, whether it is a run or not. Nothing in the folder is changed."""
    return read_run_and_document(path)[0]


def read_run_and_document(path: Path) -> tuple[ListedRun, RunDocument]:
    """Return the description of a folder, as `read_run` does, and the content of its run.json; an empty RunDocument if it is unreadable."""
    if path.is_symlink():
        return ListedRun(str(path), "foreign", problem="a link"), RunDocument()
    try:
        return _read(path)
    except OSError as error:
        return _unreadable(path, error), RunDocument()


def _read(path: Path) -> tuple[ListedRun, RunDocument]:
    try:
        document = read_run_json(path)
    except FileNotFoundError:
        if (problem := lost_receipt(path)) is None:
            return ListedRun(str(path), "foreign", problem="no run.json: no run of tfkit"), RunDocument()
    except (OSError, ValueError) as error:  # ValueError includes OtherVersionError
        problem = f"run.json: {reason_of(error)}"
    else:
        return _describe(path, document), document
    return ListedRun(str(path), "damaged", problem=problem, checkpoints=len(step_folders(path / "checkpoints"))), RunDocument()


def _describe(path: Path, run: RunDocument) -> ListedRun:
    root, result, last, status = path / "checkpoints", run.result or {}, run.last, run.status
    if status == "running" and not is_locked(path / "lock"):
        status = "killed"
    step, evaluation = _read_latest(path / "metrics.jsonl")
    saved = sum(len(step_folders(run / "checkpoints")) for run in runs_within(path))
    best = read_best(root)
    scores = result.get("metrics") or result.get("evaluation") or evaluation
    steps = result.get("steps") if status == "finished" else step if status == "running" else last.to_step or newest_step(root)
    if run.kind in (CHAIN, SWEEP):
        steps = sum(read_run(member).steps or 0 for member in member_folders(path).values() if member.exists())
    return ListedRun(
        str(path),
        status,
        _kind(run),
        steps if type(steps) is int else None,
        run.planned_steps,
        {name: value for name, value in scores.items() if strict_json.is_number(value)} if isinstance(scores, dict) else {},
        asdict(best) if best else None,
        run.totals.seconds,
        run.totals.energy_kwh,
        run.totals.emissions_g,
        saved,
        _resume_command(path, run, saved) if status in UNFINISHED else None,
        last.error if status == "failed" else None,
    )


def _kind(run: RunDocument) -> str | None:
    """Return the command that started the run (`stages` or `sweep` for a folder of runs); None if an older version did not record it."""
    if run.kind is not None:
        return _KINDS.get(run.kind, run.kind)
    name = (run.command or [])[1:2]
    return name[0] if name and name[0] in ("pretrain", "finetune", "evaluate", "generate") else None


def _resume_command(path: Path, run: RunDocument, saved: int) -> str | None:
    """Return the command that continues a run. A run without checkpoints is started again by its recorded command; None if that is neither
    `tfkit pretrain` nor `tfkit finetune`.
    """
    larger, command = [run.larger_budget] if run.larger_budget is not None else [], run.command or []
    if (saved or run.kind in (CHAIN, SWEEP)) and (path / "recipe.yaml").is_file():
        allowed = [word for word in command if word == "--allow-code"]
        return shlex.join(["tfkit", "resume", path_argument(path), *larger, *allowed])
    if command[:1] != ["tfkit"] or command[1:2] not in (["pretrain"], ["finetune"]):
        return None
    command = [word for word in command if not any(word.startswith(f"{budget.partition('=')[0]}=") for budget in larger)]
    return shlex.join([*command, *larger, *(["--resume"] if "--resume" not in command else [])])


def _read_latest(path: Path) -> tuple[int | None, dict[str, Any]]:
    """Return the last record's step and the latest evaluation in the last _TAIL_BYTES of a metrics.jsonl."""
    lines: list[bytes] = []
    if not path.is_file():  # opening a pipe would block
        return None, {}
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines(keepends=True)[size > _TAIL_BYTES :]
    records = [record for line in lines if (record := parse_record(line)) is not None]
    evaluations = [record["evaluation"] for record in records if "evaluation" in record]
    return (records[-1]["step"] if records else None), (evaluations[-1] if evaluations else {})
