"""emissions.csv: one row per phase (train, ...), attempt (start) and node, in CodeCarbon's columns and units (kg, kWh), from the ledgers.

The columns and their order are those of the installed version of CodeCarbon, which would rename a file that has other columns. The
file is replaced atomically. Rows that another program added by means of CodeCarbon are kept. If the present file has other columns or
incomplete rows, which cannot be kept, it is copied to a new emissions.csv*.bak. Each node of a run writes the file, without a lock: if a
ledger has grown while a node wrote the file, the node writes it again, so the last file has the rows of all ledgers.
"""

import ast
import contextlib
import csv
import functools
import io
import os
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from tfkit.carbon.ledger import Attempt, LedgerReader, Phase
from tfkit.carbon.place import codecarbon_folder
from tfkit.durable import write_once

NAME = "emissions.csv"
CODECARBON_3_3 = (
    "timestamp project_name run_id experiment_id duration emissions emissions_rate cpu_power gpu_power ram_power cpu_energy gpu_energy "
    "ram_energy energy_consumed water_consumed country_name country_iso_code region cloud_provider cloud_region os python_version "
    "codecarbon_version cpu_count cpu_model gpu_count gpu_model longitude latitude ram_total_size tracking_mode cpu_utilization_percent "
    "gpu_utilization_percent ram_utilization_percent ram_used_gb on_cloud pue wue"
)


@functools.cache
def installed_columns() -> tuple[str, ...]:
    """Return the field names of CodeCarbon's class `EmissionsData`; those of version 3.3 if the class is not found.

    They are read from the class's source code, since importing CodeCarbon takes 0.2 s, and may fail or hang.
    """
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        path = codecarbon_folder() / "output_methods" / "emissions_data.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == "EmissionsData":
                names = [line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
                if {"run_id", "emissions", "energy_consumed"} <= set(names):
                    return tuple(names)
    return tuple(CODECARBON_3_3.split())


def write_emissions(run_folder: Path, ledgers: LedgerReader | None = None) -> None:
    """Write emissions.csv from the ledgers in `run_folder`/carbon. Present rows of other runs or programs are kept. Raises OSError."""
    ledgers = ledgers or LedgerReader(run_folder / "carbon")
    path, columns = run_folder / NAME, installed_columns()
    while True:
        sizes = ledgers.sizes()
        rows = emission_rows(ledgers.attempts())
        ours = {row["run_id"] for row in rows}
        others = [row for row in _read(path, columns) if row["run_id"] not in ours]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, *rows])
        write_once(path, table.getvalue())
        if ledgers.sizes() == sizes:
            return


def emission_rows(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Return a row for each phase of each ledger. The rows do not overlap, so their energies and emissions add up to those of the run."""
    return [_row(attempt, index, phase) for attempt in attempts for index, phase in enumerate(attempt.phases.values())]


def _row(attempt: Attempt, index: int, phase: Phase) -> dict[str, Any]:
    header, sums, use = attempt.header, phase.sums, phase.utilization
    seconds, kilograms, place = sums["seconds"], sums["emissions_g"] / 1000, attempt.place
    hours = seconds / 3600
    return {
        "on_cloud": "N",
        "gpu_count": 0,
        "os": header.get("os"),
        "python_version": header.get("python_version"),
        **attempt.machine.get("record", {}),
        "tracking_mode": "machine" if attempt.outcome == "ok" else attempt.outcome,  # CodeCarbon has no column for the outcome
        "timestamp": datetime.fromtimestamp(phase.ended_at).strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": header.get("project"),
        "run_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{header['run_id']}/{attempt.name}/{index}")),
        "experiment_id": header["run_id"],
        "duration": seconds,
        "emissions": kilograms,
        "emissions_rate": kilograms / seconds if seconds else 0.0,
        **{f"{part}_power": sums[f"{part}_wh"] / hours if hours else 0.0 for part in ("cpu", "gpu", "ram")},
        **{f"{part}_energy": sums[f"{part}_wh"] / 1000 for part in ("cpu", "gpu", "ram")},
        "energy_consumed": sums["energy_wh"] / 1000,
        "water_consumed": 0.0,
        "country_name": place.get("country_name"),
        "country_iso_code": place.get("country_iso_code"),
        "codecarbon_version": header.get("codecarbon_version"),
        **{f"{part}_utilization_percent": use[f"{part}_percent"] for part in ("cpu", "gpu", "ram")},
        "ram_used_gb": use["ram_used_gb"],
        "pue": header.get("pue"),
        "wue": 0.0,
    }


def _read(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the complete rows of the file `path`; [] if it is missing or has other columns. If rows are left out, it is backed up."""
    try:
        data = path.read_bytes()
        header, *lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error, ValueError):
        header, lines = [], []
    if sorted(header) != sorted(columns):
        _back_up(path, data)
        return []
    complete = [line for line in lines if len(line) == len(header)]
    if len(complete) < sum(bool(line) for line in lines):
        _back_up(path, data)
    return [dict(zip(header, line, strict=True)) for line in complete]


def _back_up(path: Path, data: bytes) -> None:
    """Write the data to the first unused path of emissions.csv.bak, emissions.csv_0.bak, ..., unless such a backup has the same data."""
    for suffix in (".bak", *(f"_{index}.bak" for index in range(1000))):
        backup = path.with_name(path.name + suffix)
        with contextlib.suppress(FileExistsError), backup.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return
        if backup.read_bytes() == data:
            return
