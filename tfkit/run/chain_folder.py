"""Folders of several runs: the stages of a recipe, in order, or the trials of a sweep. Free of torch.

runs/<name>/  recipe.yaml  run.json  lock  <stage or trial>/  <stage or trial>/ ...
"""

from pathlib import Path

from tfkit.run.run_json import known_of

CHAIN = "stages"  # the field `kind` in run.json of such a folder
SWEEP = "sweep"


def stage_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each stage, whether it exists yet or not, in order; none for a folder of another kind."""
    run = known_of(path)
    return {name: path / name for name in (run.kind == CHAIN and run.stages) or ()}


def trial_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each trial of a sweep that was started, in order; none for a folder of another kind."""
    run = known_of(path)
    return {name: path / name for name in (run.kind == SWEEP and run.trials) or ()}


def best_trial(path: Path) -> Path | None:
    """Return the run folder of a sweep's best trial; None if no trial is finished, or for a folder of another kind."""
    return trial_folders(path).get(known_of(path).best_trial or "")


def member_folders(path: Path) -> dict[str, Path]:
    """Return the run folders of the stages or trials by name; none for the folder of a single run."""
    return stage_folders(path) or trial_folders(path)


def runs_within(path: Path) -> list[Path]:
    """Return the folders of all single runs in `path`, whether they exist yet or not; for a single run, `path` itself."""
    members = member_folders(path)
    return [run for member in members.values() for run in runs_within(member)] if members else [path]
