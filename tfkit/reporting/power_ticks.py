"""The power and emissions of a run over time, for charts: a bounded number of ticks from its ledgers.

The sums of a run are read by carbon/ledger.py.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.regular_files import open_regular
from tfkit.reporting.bounded_lines import ThinnedSeries, complete_lines

MOST_FILES = 200
MOST_TICKS = 4_000  # per ledger
_LONGEST_LINE = 1 << 16
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Tick:
    """A reading of an attempt on a node: time, energy and emissions since its start, and the power since the previous reading."""

    attempt: int
    node: int
    phase: str
    seconds: float
    power_w: float
    energy_wh: float
    emissions_g: float


def read_ticks(folder: Path) -> list[Tick]:
    """Return the ticks in a folder of ledgers, ordered by attempt, node and time, without those that cannot be read."""
    ticks: list[Tick] = []
    for path in sorted(folder.glob("*.jsonl"))[:MOST_FILES]:
        kept = ThinnedSeries[Tick](MOST_TICKS)
        try:
            with open_regular(path) as file:
                attempt, node = 0, 0
                for line in complete_lines(file, 0, _MOST_BYTES, _LONGEST_LINE):
                    fields = _parse(line)
                    if fields.get("kind") == "header":
                        attempt, node = _integer(fields.get("attempt")), _integer(fields.get("node"))
                    elif fields.get("kind") == "tick" and (tick := _tick(fields, attempt, node)) is not None:
                        kept.add(tick)
        except OSError:
            continue  # the reader of the sums reports it
        ticks += kept.items
    return sorted(ticks, key=lambda tick: (tick.attempt, tick.node, tick.seconds))


def _parse(line: bytes | None) -> dict[str, Any]:
    try:
        fields = json.loads(line or b"")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _tick(fields: dict[str, Any], attempt: int, node: int) -> Tick | None:
    values = [fields.get(name) for name in ("seconds", "power_w", "energy_wh", "emissions_g")]
    numbers = [float(value) for value in values if isinstance(value, int | float) and abs(value) < math.inf]
    return Tick(attempt, node, str(fields.get("phase", ""))[:40], *numbers) if len(numbers) == len(values) else None


def _integer(value: object) -> int:
    return value if type(value) is int else 0
