"""Folders of several runs: that of a recipe with stages, in their order, and that of a sweep, with its trials. Torch-free.

runs/<name>/  recipe.yaml  run.json  lock  <stage or trial>/  <stage or trial>/ ...
"""

from contextlib import suppress
from pathlib import Path

from tfkit.run import strict_json

CHAIN = "stages"  # the kinds of such a folder, in its run.json
SWEEP = "sweep"
_MEMBERS = {CHAIN: "stages", SWEEP: "trials"}  # the field of run.json that names the runs in it


def stage_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each stage, there yet or not, in order; none for a folder of another kind."""
    return _members(path, CHAIN)


def trial_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each trial of a sweep that was begun, in order; none for a folder of another kind."""
    return _members(path, SWEEP)


def best_trial(path: Path) -> Path | None:
    """Return the run folder of a sweep's best trial; None if none is finished, and for a folder of another kind."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if trials := trial_folders(path):
            return trials.get(str(strict_json.loads((path / "run.json").read_bytes())["best_trial"]))
    return None


def member_folders(path: Path) -> dict[str, Path]:
    """Return the run folders of the stages or the trials; none for the folder of one run."""
    return stage_folders(path) or trial_folders(path)


def runs_within(path: Path) -> list[Path]:
    """Return the folders of single runs that a folder is of: of stages and trials, which may have stages, each; there yet or not."""
    members = member_folders(path)
    return [run for member in members.values() for run in runs_within(member)] if members else [path]


def _members(path: Path, kind: str) -> dict[str, Path]:
    with suppress(OSError, ValueError):
        document = strict_json.loads((path / "run.json").read_bytes())
        if isinstance(document, dict) and document.get("kind") == kind and isinstance(members := document.get(_MEMBERS[kind]), dict):
            return {name: path / name for name in members}
    return {}
