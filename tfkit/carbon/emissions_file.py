"""emissions.csv: one row per phase, attempt and node, in CodeCarbon's columns and units (kg, kWh), derived from the ledgers.

The file is replaced atomically. Rows of other trackers are kept; a file that cannot be merged is first copied to emissions.csv.bak.
Writers of the same run folder need no lock: after replacing the file, each checks whether another has written its ledger meanwhile, and
if so derives the rows again, so the last writer has read all ledgers. A row that another program appends to the old file while it is
replaced is read from there and kept. Only a row that is written to the old file later, through a descriptor opened before, is lost.
"""

import contextlib
import csv
import io
import os
import random
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from tfkit.carbon.columns import installed_columns
from tfkit.carbon.ledger import Attempt, LedgerReader, Phase
from tfkit.durable import write_once

NAME = "emissions.csv"
TRIES = 200
PAUSE_SECONDS = 0.02  # the longest pause between two tries: random, so that writers who collide do not collide again
Stamp = tuple[int, int, int] | None


def write_emissions(run_folder: Path, ledgers: LedgerReader | None = None) -> None:
    """Derive the file from the ledgers in `run_folder`/carbon; without ledgers, only its header.

    Raises OSError if the file cannot be written, or if other programs kept replacing it; it may then lack rows, which the next call adds.
    """
    ledgers = ledgers or LedgerReader(run_folder / "carbon")
    path, columns = run_folder / NAME, installed_columns()
    rescued: list[dict[str, str]] = []
    for _ in range(TRIES):
        sizes, stamp = ledgers.sizes(), _stamp(path)
        rows = emission_rows(ledgers.attempts())
        ours = {row["run_id"] for row in rows}
        with _open(path, columns) as old:
            data = old.read()
            present = [row for row in _parse(path, data, columns) if row["run_id"] not in ours]
            others = present + [row for row in rescued if row not in present]
            if not _replace(path, columns, [*others, *rows], stamp):
                time.sleep(random.uniform(0, PAUSE_SECONDS))
                continue
            late = old.read()
        if not late and ledgers.sizes() == sizes:
            return
        rescued = [row for row in _parse(path, data + late, columns) if row["run_id"] not in ours] if late else []
    raise OSError(f"{path}: other programs kept writing it during {TRIES} tries")


def emission_rows(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Return the rows of the ledgers. They do not overlap, so their sums are those of the run."""
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
        "tracking_mode": "machine" if attempt.outcome == "ok" else attempt.outcome,  # no other column could have the outcome
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


def _open(path: Path, columns: tuple[str, ...]) -> BinaryIO:
    """Open the present file, from which rows that are appended after its replacement can still be read. A missing file has only a header.

    Its existence is checked only here, since another writer may create it at any moment.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        return io.BytesIO((",".join(columns) + "\n").encode())


def _parse(path: Path, data: bytes, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of the file. A file that is empty, has other columns or torn rows is backed up before these are dropped."""
    try:
        header, *lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
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
    """Copy to emissions.csv.bak, emissions.csv_0.bak, ..., as CodeCarbon names backups; the same content is copied only once."""
    for suffix in (".bak", *(f"_{index}.bak" for index in range(1000))):
        backup = path.with_name(path.name + suffix)
        with contextlib.suppress(FileExistsError), backup.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return
        if backup.read_bytes() == data:
            return


def _replace(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]], stamp: Stamp) -> bool:
    """Replace the file with the rows, unless it has changed since they were derived."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_once(path, table.getvalue(), unless=lambda: _stamp(path) != stamp)


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
