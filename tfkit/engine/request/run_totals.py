"""The totals of a run in its run.json and in results: time, energy and emissions of all attempts, from its ledgers. Torch-free."""

from pathlib import Path
from typing import Any

from tfkit.carbon import Reading, attempts_of, measurement_fields, read_rework, read_seconds, reading_of
from tfkit.run.folder import RunFolder


def energy_fields(reading: Reading) -> dict[str, Any]:
    """Return energy and emissions, None (not 0) if nothing was measured, and `carbon_status`: ok, degraded, failed or off."""
    measured = reading.outcome in ("ok", "degraded")
    parts = {"cpu": reading.cpu_wh / 1000, "gpu": reading.gpu_wh / 1000, "ram": reading.ram_wh / 1000}
    return {
        "energy_kwh": reading.energy_wh / 1000 if measured else None,
        "energy_kwh_parts": parts if measured else None,
        "emissions_g": reading.emissions_g if measured else None,
        "carbon_status": reading.outcome,
    }


def place_fields(reading: Reading) -> dict[str, Any]:
    """Return `place`: where the energy was used, as far as that is known, and its grams per kWh; None if nothing was metered."""
    return {"place": reading.place or None}


def record_totals(folder: RunFolder, reading: Reading, totals: dict[str, Any]) -> None:
    """Record the totals of all attempts of a run, however the last one ended: time, energy, rework, and the caller's counts.

    Time and energy are those of the ledgers. `reading`, the meter's last one, replaces them if the disk did not store all of theirs.
    """
    seconds = round(folder.seconds(read_seconds(folder.path, folder.run_id)), 3)
    measured = ledger_fields(folder.path, folder.run_id, seconds)
    if measured is None or (reading.outcome == "ok" and reading.energy_wh > 1000 * (measured["energy_kwh"] or 0.0) * (1 + 1e-6)):
        measured = energy_fields(reading) | place_fields(reading) | measurement_fields([], seconds)
    elif reading.outcome == "degraded" and measured["carbon_status"] == "ok":
        measured["carbon_status"] = "degraded"
    folder.record(totals=folder.totals | {"seconds": seconds} | totals | measured | rework_fields(folder.path, folder.run_id))


def ledger_fields(run_folder: Path, run_id: str, seconds: float) -> dict[str, Any] | None:
    """Return the totals that follow from the ledgers of a run; `seconds`: of all attempts. None without a readable ledger."""
    try:
        attempts = attempts_of(run_folder, run_id)
    except OSError:
        return None
    reading = reading_of(attempts)
    return energy_fields(reading) | place_fields(reading) | measurement_fields(attempts, seconds) if attempts else None


def rework_fields(run_folder: Path, run_id: str) -> dict[str, float | None]:
    """Return the part of the totals that was spent on steps that were lost and repeated; None without a ledger."""
    lost = read_rework(run_folder, run_id)
    return {
        "rework_kwh": lost["energy_wh"] / 1000 if lost else None,
        "rework_g": lost["emissions_g"] if lost else None,
        "rework_seconds": round(lost["seconds"], 3) if lost else None,
    }
