"""Energy and CO2 of a run: CodeCarbon behind a guard, in a process of its own. Free of torch, light to import.

Meter (meter.py)            in the trainer: starts the process, sends it the phases, keeps its latest Reading
  | JSON lines over pipes
sidecar.py                  the process: a tick every few seconds, a last one when the trainer is gone
  gauge.py, probe.py        CodeCarbon, in a thread that may fail or hang
  ledger.py                 carbon/<node>-<attempt>.jsonl, one fsynced line a tick: the truth; ledger_writer.py writes it
  chain.py                  the hash in each of its lines of the line before
  totals.py                 the sums over attempts, with their ranges (ranges.py) and what was done again (rework.py)
  emissions_file.py         emissions.csv, derived from the ledgers, in CodeCarbon's own columns
"""

from tfkit.carbon.ledger import FINISH
from tfkit.carbon.meter import Meter
from tfkit.carbon.place import Place, resolve_place
from tfkit.carbon.reading import Reading
from tfkit.carbon.rework import read_rework
from tfkit.carbon.totals import attempts_of, measuring_fields, missing_nodes, read_seconds, read_totals, reading_of

__all__ = [
    "FINISH",
    "Meter",
    "Place",
    "Reading",
    "attempts_of",
    "measuring_fields",
    "missing_nodes",
    "read_rework",
    "read_seconds",
    "read_totals",
    "reading_of",
    "resolve_place",
]
