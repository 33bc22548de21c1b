"""The totals of a run in its run.json: time, energy and emissions of all attempts, from its ledgers. Torch-free."""

from dataclasses import replace
from typing import Any

from tfkit.carbon import Footprint, Reading, ledger_totals, read_seconds
from tfkit.carbon.footprint import MEASURED, REWORK, RunTotals
from tfkit.run.folder import RunFolder


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
