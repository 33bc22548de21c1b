"""The power and emissions of a run over time, for charts, from its ledgers; carbon/ledger.py reads their sums."""

import math
from dataclasses import dataclass
from pathlib import Path

from tfkit.carbon.hash_chain import parse_line
from tfkit.regular_files import open_regular
from tfkit.reporting.bounded_lines import ThinnedSeries, complete_lines

MOST_FILES = 200
MOST_TICKS = 4_000  # per ledger
_LONGEST_LINE = 1 << 16
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Tick:
    """A reading of an attempt on a node: time and emissions since its start, and the power since the previous reading."""

    attempt: int
    node: int
    seconds: float
    power_w: float
    emissions_g: float


def read_ticks(folder: Path) -> list[Tick]:
    """Return the ticks in a folder of ledgers, ordered by attempt, node and time, without those that cannot be read."""
    ticks: list[Tick] = []
    for path in sorted(folder.glob("*.jsonl"))[:MOST_FILES]:
        kept = ThinnedSeries[Tick](MOST_TICKS)
        attempt, node = 0, 0
        try:
            with open_regular(path) as file:
                for line in complete_lines(file, 0, _MOST_BYTES, _LONGEST_LINE):
                    fields = parse_line(line or b"") or {}
                    values = [fields.get(name) for name in ("seconds", "power_w", "emissions_g")]
                    numbers = [float(value) for value in values if isinstance(value, int | float) and abs(value) < math.inf]
                    if fields.get("kind") == "header":
                        attempt, node = (value if type(value := fields.get(name)) is int else 0 for name in ("attempt", "node"))
                    elif fields.get("kind") == "tick" and len(numbers) == len(values):
                        kept.add(Tick(attempt, node, *numbers))
        except OSError:
            continue  # the reader of the sums reports it
        ticks += kept.items
    return sorted(ticks, key=lambda tick: (tick.attempt, tick.node, tick.seconds))
