"""Energy and CO2 of a run, measured by CodeCarbon in a separate process. Importing the package is fast, since it does not import torch.

Meter (meter.py)            in the trainer: starts the sidecar, sends it the phases of the run (train, evaluate, ...), and stores the
                            sidecar's latest Reading
  | JSON lines over pipes
sidecar.py                  the separate process: takes a reading (a tick) every few seconds, and a last one even if the trainer is killed
  probe.py                  CodeCarbon, in a thread that may fail or hang
  ledger.py                 carbon/<node>-<attempt>.jsonl, from which all totals are computed: a fsynced line per tick, and a hash chain
                            over the lines; an attempt is one start of a run; attempt_files.py writes the file
  totals.py                 the sums over attempts, with their ranges of uncertainty, and the sums of work that was lost and repeated
  emissions_file.py         emissions.csv, derived from the ledgers, in CodeCarbon's own columns
"""

from tfkit.carbon.footprint import Footprint as Footprint
from tfkit.carbon.footprint import Reading as Reading
from tfkit.carbon.ledger import FINISH as FINISH
from tfkit.carbon.meter import Meter as Meter
from tfkit.carbon.place import Place as Place
from tfkit.carbon.place import resolve_place as resolve_place
from tfkit.carbon.totals import attempts_of as attempts_of
from tfkit.carbon.totals import ledger_totals as ledger_totals
from tfkit.carbon.totals import missing_nodes as missing_nodes
from tfkit.carbon.totals import read_seconds as read_seconds
from tfkit.carbon.totals import read_totals as read_totals
from tfkit.carbon.totals import reading_of as reading_of
