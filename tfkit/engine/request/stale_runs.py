"""A run whose process was killed: the next command that reads it completes its receipt. Torch-free."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tfkit.carbon import read_totals
from tfkit.engine.request.chain_result import stage_facts
from tfkit.engine.request.run_totals import record_totals
from tfkit.engine.request.sweep_result import recorded_trials, sweep_facts
from tfkit.run.chain_folder import stage_folders, trial_folders
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.folder import RunFolder
from tfkit.run.listing import read_run
from tfkit.run.run_json import read_run_json
from tfkit.run.state_json import read_state_json


def finalize_killed_run(path: str | Path) -> None:
    """Mark a killed attempt in run.json, and record its totals. `path`: a value of --from; anything but a killed run is left unchanged.

    So is a folder that cannot be written.
    """
    folder = Path(path)
    if folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    with suppress(OSError, ValueError):  # ValueError: also a TfkitError
        if read_run_json(folder).status == "running" and read_run(folder).status == "killed":
            stages, trials = stage_folders(folder), trial_folders(folder)
            for member in (*stages.values(), *trials.values()):
                finalize_killed_run(member)
            with RunFolder.open(folder, resume=True, command=None) as run:
                if stages:
                    return run.record(**stage_facts(stages))
                if trials:
                    return run.record(**sweep_facts(folder, recorded_trials(folder)))
                record_totals(run, read_totals(run.path, run.run_id), _step_totals(folder / "checkpoints"))


def _step_totals(root: Path) -> dict[str, Any]:
    """Return seconds and tokens of the saved steps, as a training records them."""
    newest = newest_checkpoint(root)
    with suppress(OSError, ValueError, KeyError, TypeError):
        if newest is not None:
            progress = read_state_json(newest).progress
            return {"train_seconds": round(progress["seconds"], 3), "tokens": progress["tokens"]}
    return {}
