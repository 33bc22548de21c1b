"""Ledgers written line by line, as the sidecar writes them: half of the energy is the processor's, half the memory's, at 100 g/kWh."""

from tiny_files import emissions_rows

from tfkit.carbon.attempt_files import Ledger, tick_line
from tfkit.carbon.footprint import Totals
from tfkit.carbon.ledger import LedgerReader

PLACE = {"country_iso_code": "WLD", "country_name": "World", "text": "here"}
HEADER = {"kind": "header", "schema_version": 1, "run_id": "run", "attempt": 1, "node": 0, "project": "p", "place": PLACE, "pue": 1.0}


def tick(phase, seconds, energy_wh, status="ok"):
    totals = Totals(seconds, energy_wh, energy_wh / 2, 0, energy_wh / 2, energy_wh / 10)
    return tick_line(1e9 + seconds, phase, seconds, totals, 1.0, status)


def write(folder, lines=(), attempt=1, node=0, previous=None, **header):
    """Begin a ledger with these lines after its header, and return its writer."""
    ledger = Ledger(folder / "carbon", node, attempt, previous)
    for line in [HEADER | {"attempt": attempt, "node": node} | header, *lines]:
        ledger.append(line)
    return ledger


def attempts(folder):
    return LedgerReader(folder / "carbon").attempts()


def row_sums(folder):
    """Return the seconds and the watt-hours in emissions.csv."""
    rows = emissions_rows(folder)
    return sum(float(row["duration"]) for row in rows), sum(float(row["energy_consumed"]) for row in rows) * 1000
