"""The runs in a folder, as their receipts and checkpoints describe them; and what else is there. Torch-free, and quick on hundreds."""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfkit.run import strict_json
from tfkit.run.chain_folder import CHAIN, SWEEP, member_folders, runs_within
from tfkit.run.checkpoints import newest_step, read_best, step_folders
from tfkit.run.lock import is_locked
from tfkit.run.metrics import parse_record
from tfkit.run.receipt import read_receipt

_TAIL_BYTES = 1 << 16  # of metrics.jsonl, in which the latest lines are looked for
_KINDS = {"pre-training": "pretrain", "fine-tuning": "finetune"}
UNFINISHED = ("new", "stopped", "failed", "killed")


@dataclass(frozen=True)
class ListedRun:
    """A run, or a folder that is none: its `status` is damaged or foreign then, and `problem` says why. None: not known."""

    run: str
    status: str
    kind: str | None = None
    steps: int | None = None
    planned_steps: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)  # of its latest evaluation
    best: dict[str, Any] | None = None
    seconds: float | None = None
    energy_kwh: float | None = None
    emissions_g: float | None = None
    checkpoints: int = 0
    resume: str | None = None  # the command that continues it
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        document: dict[str, Any] = strict_json.loads(strict_json.dumps(asdict(self)))
        return document


def list_runs(folder: Path) -> list[ListedRun]:
    """Return what is in a folder of runs, by name, or the one run that the folder is. Raises OSError for a folder that cannot be read."""
    if (folder / "run.json").exists():
        return [*map(read_run, _with_members(folder))]
    found: list[ListedRun] = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        nested = [] if (path / "run.json").exists() else sorted(inner.parent for inner in path.glob("*/run.json"))  # a folder of runs
        found += map(read_run, nested or _with_members(path))
    return found


def unfinished_runs(found: Sequence[ListedRun], with_checkpoints: bool) -> list[ListedRun]:
    """Return the unfinished runs that may be deleted; the folder of several runs after all of its stages or trials, or not at all."""
    doomed = [one for one in found if one.status in UNFINISHED and (with_checkpoints or not one.checkpoints)]
    names = {one.run for one in doomed}
    members = {one.run: [str(path) for path in member_folders(Path(one.run)).values() if path.exists()] for one in doomed}
    doomed = [one for one in doomed if names.issuperset(members[one.run])]
    return sorted(doomed, key=lambda one: -len(Path(one.run).parts))  # what is within a folder before it


def _with_members(path: Path) -> list[Path]:
    """Return a run, and after it those of its stages or trials that are there, each with its own."""
    return [path, *(one for member in member_folders(path).values() if member.exists() for one in _with_members(member))]


def read_run(path: Path) -> ListedRun:
    """Describe one folder. Nothing in it is changed."""
    if path.is_symlink():
        return ListedRun(str(path), "foreign", problem="a link")
    try:
        receipt = read_receipt(path / "run.json")
    except FileNotFoundError:
        return ListedRun(str(path), "foreign", problem="no run.json: no run of tfkit")
    except (OSError, ValueError) as error:  # ValueError: ours, too, for a later version
        return ListedRun(str(path), "damaged", problem=f"run.json: {error}", checkpoints=len(step_folders(path / "checkpoints")))
    return _described(path, receipt)


def _described(path: Path, receipt: dict[str, Any]) -> ListedRun:
    root, attempts = path / "checkpoints", receipt["attempts"]
    result, totals = receipt.get("result") or {}, receipt.get("totals") or {}
    last = attempts[-1] if attempts else {}
    status = receipt["status"]
    if status == "running" and not is_locked(path / "lock"):
        status = "killed"
    step, evaluation = _latest(path / "metrics.jsonl")
    saved = sum(len(step_folders(run / "checkpoints")) for run in runs_within(path))
    best = read_best(root)
    scores = result.get("metrics") or result.get("evaluation") or evaluation
    steps = result.get("steps") if status == "finished" else step if status == "running" else last.get("to_step") or newest_step(root)
    if receipt.get("kind") in (CHAIN, SWEEP):
        steps = sum(read_run(each).steps or 0 for each in member_folders(path).values() if each.exists())
    return ListedRun(
        str(path),
        status,
        _kind(receipt),
        steps if type(steps) is int else None,
        receipt.get("planned_steps"),
        {name: value for name, value in scores.items() if strict_json.is_number(value)} if isinstance(scores, dict) else {},
        asdict(best) if best else None,
        totals.get("seconds"),
        totals.get("energy_kwh"),
        totals.get("emissions_g"),
        saved,
        _command(path, receipt, saved) if status in UNFINISHED else None,
        last.get("error") if status == "failed" else None,
    )


def _kind(receipt: dict[str, Any]) -> str | None:
    """Return the command that the run is of; None for a run of an older version, which did not record it, that was resumed since."""
    kind, command = receipt.get("kind"), receipt.get("command")
    if isinstance(kind, str):
        return _KINDS.get(kind, kind)
    name = command[1] if isinstance(command, list) and len(command) > 1 else None
    return name if name in ("pretrain", "finetune", "evaluate", "generate") else None


def _command(path: Path, receipt: dict[str, Any], saved: int) -> str | None:
    """Return the command that continues a run: without a checkpoint the one that began it. None: another program began it."""
    larger = [word] if isinstance(word := receipt.get("larger_budget"), str) else []
    if (saved or receipt.get("kind") in (CHAIN, SWEEP)) and (path / "recipe.yaml").is_file():
        return shlex.join(["tfkit", "resume", str(path), *larger])
    command = [str(word) for word in receipt.get("command") or ()]
    if command[:1] != ["tfkit"] or command[1:2] not in (["pretrain"], ["finetune"]):
        return None
    command = [word for word in command if not any(word.startswith(f"{one.partition('=')[0]}=") for one in larger)]
    return shlex.join([*command, *larger, *(["--resume"] if "--resume" not in command else [])])


def _latest(path: Path) -> tuple[int | None, dict[str, Any]]:
    """Return the step of the last line of a metrics.jsonl, and its last evaluation; only the end of the file is read."""
    lines: list[bytes] = []
    if not path.is_file():  # a pipe would block
        return None, {}
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines(keepends=True)[size > _TAIL_BYTES :]
    records = [record for line in lines if (record := parse_record(line)) is not None]
    evaluations = [record["evaluation"] for record in records if "evaluation" in record]
    return (records[-1]["step"] if records else None), (evaluations[-1] if evaluations else {})
