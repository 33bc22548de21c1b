"""Folders of several runs: the stages of a recipe, in order, or the trials of a sweep. Free of torch.

runs/<name>/  recipe.yaml  run.json  lock  <stage or trial>/  <stage or trial>/ ...
"""

from contextlib import suppress
from pathlib import Path

from tfkit.run import strict_json

CHAIN = "stages"  # the field `kind` in run.json of such a folder
SWEEP = "sweep"
_MEMBERS = {CHAIN: "stages", SWEEP: "trials"}  # the field of run.json that names the runs in the folder


def stage_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each stage, whether it exists yet or not, in order; none for a folder of another kind."""
    return _members(path, CHAIN)


def trial_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each trial of a sweep that was started, in order; none for a folder of another kind."""
    return _members(path, SWEEP)


def best_trial(path: Path) -> Path | None:
    """Return the run folder of a sweep's best trial; None if no trial is finished, or for a folder of another kind."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if trials := trial_folders(path):
            return trials.get(str(strict_json.loads((path / "run.json").read_bytes())["best_trial"]))
    return None


def member_folders(path: Path) -> dict[str, Path]:
    """Return the run folders of the stages or trials by name; none for the folder of a single run."""
    return stage_folders(path) or trial_folders(path)


def runs_within(path: Path) -> list[Path]:
    """Return the folders of all single runs in `path`, whether they exist yet or not; for a single run, `path` itself."""
    members = member_folders(path)
    return [run for member in members.values() for run in runs_within(member)] if members else [path]


def _members(path: Path, kind: str) -> dict[str, Path]:
    with suppress(OSError, ValueError):
        document = strict_json.loads((path / "run.json").read_bytes())
        if isinstance(document, dict) and document.get("kind") == kind and isinstance(members := document.get(_MEMBERS[kind]), dict):
            return {name: path / name for name in members}
    return {}
