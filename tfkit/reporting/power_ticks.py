"""The course of power and emissions over the time of a run, from the ticks of its ledgers; within bounds.

The sums of a run come from carbon/ledger.py. Here only the course between its start and its end is read, for curves.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.reporting.bounded_lines import Thinned, open_regular, whole_lines

MOST_FILES = 200
MOST_TICKS = 4_000  # of a ledger
_LONGEST_LINE = 1 << 16
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Tick:
    """A reading of an attempt on a node: seconds, energy and emissions since its start, and the power since the reading before."""

    attempt: int
    node: int
    phase: str
    seconds: float
    power_w: float
    energy_wh: float
    emissions_g: float


def read_ticks(folder: Path) -> list[Tick]:
    """Return the ticks of a folder of ledgers by attempt and node, in order; none of what cannot be read."""
    ticks: list[Tick] = []
    for path in sorted(folder.glob("*.jsonl"))[:MOST_FILES]:
        kept = Thinned[Tick](MOST_TICKS)
        try:
            with open_regular(path) as file:
                numbers = (0, 0)
                for line in whole_lines(file, 0, _MOST_BYTES, _LONGEST_LINE):
                    found = _parse(line)
                    if found.get("kind") == "header":
                        numbers = _whole(found.get("attempt")), _whole(found.get("node"))
                    elif found.get("kind") == "tick" and (tick := _tick(found, *numbers)) is not None:
                        kept.add(tick)
        except OSError:
            continue  # the reader of the sums names it
        ticks += kept.items
    return sorted(ticks, key=lambda tick: (tick.attempt, tick.node, tick.seconds))


def _parse(line: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(line or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tick(line: dict[str, Any], attempt: int, node: int) -> Tick | None:
    values = [line.get(name) for name in ("seconds", "power_w", "energy_wh", "emissions_g")]
    numbers = [float(value) for value in values if isinstance(value, int | float) and abs(value) < math.inf]
    return Tick(attempt, node, str(line.get("phase", ""))[:40], *numbers) if len(numbers) == len(values) else None


def _whole(value: object) -> int:
    return value if type(value) is int else 0
