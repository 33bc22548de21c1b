"""Energy and CO2 of a run, measured by CodeCarbon in a separate process. Free of torch, fast to import.

Meter (meter.py)            in the trainer: starts the process, sends it the phases, keeps its latest Reading
  | JSON lines over pipes
sidecar.py                  the process: a tick every few seconds, a last one when the trainer has exited
  gauge.py, probe.py        CodeCarbon, in a thread that may fail or hang
  ledger.py                 carbon/<node>-<attempt>.jsonl, the source of all totals: a fsynced line per tick; ledger_writer.py writes it,
                            with a hash chain over its lines
  totals.py                 the sums over attempts, with their ranges and repeated work
  emissions_file.py         emissions.csv, derived from the ledgers, in CodeCarbon's own columns
"""

from tfkit.carbon.footprint import Footprint
from tfkit.carbon.ledger import FINISH
from tfkit.carbon.meter import Meter
from tfkit.carbon.place import Place, resolve_place
from tfkit.carbon.reading import Reading
from tfkit.carbon.totals import attempts_of, ledger_totals, missing_nodes, read_seconds, read_totals, reading_of, totals_of

__all__ = [
    "FINISH",
    "Footprint",
    "Meter",
    "Place",
    "Reading",
    "attempts_of",
    "ledger_totals",
    "missing_nodes",
    "read_seconds",
    "read_totals",
    "reading_of",
    "resolve_place",
    "totals_of",
]
