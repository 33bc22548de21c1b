"""The totals of a run in its run.json, of all attempts; also those of a run whose process was killed, which the next command completes.

Torch-free.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkit.carbon import Footprint, Reading, ledger_totals, read_seconds, read_totals
from tfkit.carbon.footprint import MEASURED, REWORK, RunTotals
from tfkit.engine.request.chain_result import recorded_trials, stage_facts, sweep_facts
from tfkit.run.chain_folder import stage_folders, trial_folders
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.folder import RunFolder
from tfkit.run.listing import read_run
from tfkit.run.run_json import read_run_json
from tfkit.run.state_json import read_state_json


def record_totals(folder: RunFolder, reading: Reading, counts: dict[str, Any]) -> None:
    """Record the totals of all attempts of a run, however the last one ended: time, energy, rework, and the caller's counts.

    Time and energy are those of the ledgers. `reading`, the meter's last one, replaces them if the disk did not store all of theirs.
    """
    seconds = round(folder.recorded.seconds(read_seconds(folder.path, folder.run_id)), 3)
    stored = ledger_totals(folder.path, folder.run_id, seconds)
    totals = stored or RunTotals()
    if stored is None or (reading.outcome == "ok" and reading.energy_wh > 1000 * (stored.energy_kwh or 0.0) * (1 + 1e-6)):
        totals = RunTotals(**vars(Footprint.from_reading(reading)), **totals.document(REWORK))
    elif reading.outcome == "degraded" and stored.carbon_status == "ok":
        totals = replace(stored, carbon_status="degraded")
    folder.record_totals({"seconds": seconds} | counts | totals.document((*MEASURED, *REWORK)))


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
