"""Detect contention for the processor: before a run by the system's load average, during the run also by the run's processor time.

A parallel step waits for its slowest thread, so one competing process can halve the speed of the run. The number of threads is not changed
automatically, since that would change the last bits of a run's numbers.
"""

import contextlib
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tfkit.errors import path_argument
from tfkit.run.machine import usable_cores

WINDOW_SECONDS = 60.0  # the time of the steps that are judged together: a minute, as in the shortest load average of the system
_MARGIN = 0.5  # up to this mean number of processes that wait for a core, there is no warning
_LOOKS = 20  # number of times that ready threads are counted; the largest count is used, since a busy thread may briefly wait for data
_LOST = 0.25  # up to this loss of processor time, in cores, there is no warning


def busy_neighbours() -> int:
    """Return the number of busy threads of other processes: the average over a minute or, if it is smaller, the number that are ready now.

    The average may be too large: it still counts processes that have just ended. Return 0 if the system has no load average.
    """
    try:
        average = os.getloadavg()[0]
    except (OSError, AttributeError):  # a system without load averages
        return 0
    ready = average
    with contextlib.suppress(OSError, ValueError, IndexError):  # only Linux has this file
        counts = (int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]) for _ in range(_LOOKS))
        ready = max(counts) - 1  # without this process, which is ready, too
    return max(0, round(min(average, ready)))


class Contention:
    """Watches the steps of a run on the CPU for processes that compete with it; calls `warn` at most once."""

    def __init__(self, run: Path, warn: Callable[[str], None]):
        self.run, self.warn = run, warn
        self.threads, self.cores, self.machine = torch.get_num_threads(), usable_cores(), os.cpu_count() or 1
        self.watching = self.threads > 1 and hasattr(os, "getloadavg")
        self._wall, self._processor = time.perf_counter(), time.process_time()
        self._step_seconds, self._used = 0.0, 0.0  # wall and processor seconds of the steps since the last `_judge`

    def stepped(self, seconds: float) -> None:
        """Count a step that took `seconds` and has just ended. A step that follows an evaluation or a save is left out."""
        if not self.watching:
            return
        wall, processor = time.perf_counter(), time.process_time()
        if wall - self._wall < 1.1 * seconds + 0.1:
            self._step_seconds, self._used = self._step_seconds + wall - self._wall, self._used + processor - self._processor
        self._wall, self._processor = wall, processor
        if self._step_seconds >= WINDOW_SECONDS:
            self._judge(self._used / self._step_seconds)
            self._step_seconds, self._used = 0.0, 0.0

    def _judge(self, used: float) -> None:
        """Warn if more threads are ready than there are cores, and the run's threads get `used` cores on average, fewer than they could."""
        load = os.getloadavg()[0]
        if load <= self.machine + _MARGIN or used >= min(self.threads, self.cores) - _LOST:
            return
        self.watching = False
        fewer = min(max(round(self.machine - (load - self.threads)), 1), self.threads - 1)
        self.warn(
            f"other processes compete for the processor: at a load of {load:.1f} on {self.machine} cores this run's {self.threads} threads "
            f"get the time of {used:.1f}, and each step waits for its slowest thread. Fewer threads may be faster: stop the run, and "
            f"`tfkit resume {shlex.quote(path_argument(self.run))} --threads {fewer}` continues it, with the same results up to rounding"
        )
