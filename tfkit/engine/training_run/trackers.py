"""Trackers, which send a run's metrics to other programs; metrics.jsonl stays the authoritative record.

No tracker can stop a run or slow down its steps: each takes its points (values of a step) from a queue, on a daemon thread of its own.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tfkit.carbon import Footprint
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.schema.output_sections import TensorBoardSection

if TYPE_CHECKING:
    from tfkit.engine.training_run.run import Run

WAITING = 1000  # number of log lines and evaluations that may wait in a queue; when it is full, new ones are dropped
CLOSE_SECONDS = 3.0  # the time that a tracker has at the end of the run for what still waits in its queue


class Tracker(Protocol):
    """Sends metrics to another program. It runs on the thread of its queue, and may raise, hang or exit there."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Store the values of one step so that a kill cannot lose them. If this raises, they are lost, and the next step is still added."""

    def close(self) -> None:
        """Send the added values that are not sent yet, and finish."""


class TrackerQueue:
    """Feeds one tracker. `close` reports the number of points that the tracker did not take; `add` reports a tracker that ended early.

    `name` and `place` are for messages; `open_tracker` is called on the thread of the queue.
    """

    def __init__(self, name: str, place: Path, open_tracker: Callable[[], Tracker], warn: Callable[[str], None]):
        self._name, self._place, self._open, self._warn = name, place, open_tracker, warn
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._given = self._taken = 0  # numbers of points queued, and taken by the tracker
        self._trouble = "the queue was full"
        self._end_is_reported = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Queue the values of one step without waiting; values of None are left out."""
        points = {name: value for name, value in values.items() if value is not None}
        self._given += len(points)
        if not self._thread.is_alive() and not self._end_is_reported:
            self._end_is_reported = True
            self._warn(f"{self._place}: {self._name} takes no points ({self._trouble}); tfkit track sends them later")
        with contextlib.suppress(queue.Full):  # dropped points count as queued, but not as taken
            self._lines.put_nowait((step, points))

    def close(self) -> None:
        """Let the tracker take the waiting lines, for a few seconds at most, and warn of points that it did not take."""
        deadline = time.monotonic() + CLOSE_SECONDS
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        trouble = "it did not answer in time" if self._thread.is_alive() else self._trouble
        if lost := self._given - self._taken:
            self._warn(
                f"{self._place}: {lost} of {self._given} points for {self._name} were not written ({trouble}); tfkit track sends them"
            )

    def _run(self) -> None:
        try:
            tracker = self._open()
            while (line := self._lines.get()) is not None:
                self._pass_on(tracker, *line)
            tracker.close()
        except BaseException as error:  # also SystemExit, since an exit here ends only this thread
            self._note(error)

    def _pass_on(self, tracker: Tracker, step: int, points: dict[str, float]) -> None:
        try:
            tracker.add(step, points)
            self._taken += len(points)
        except Exception as error:
            self._note(error)

    def _note(self, error: BaseException) -> None:
        self._trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_trackers(run: "Run", first_step: int) -> Callable[[], list[TrackerQueue]]:
    """Return a function that starts a run's trackers; equal entries of the recipe share one. Points from `first_step` on that an earlier
    attempt sent are replaced in TensorBoard and Aim, and not sent again to the rest. Raises MachineError if a tracker's library is missing.
    """
    from tfkit.engine.training_run.tracker_adapters import TrackedRun, tracker_of

    recipe, folder = run.recipe, run.folder
    alias = [TensorBoardSection(kind="tensorboard")] if recipe.training.tensorboard else []

    def totals() -> Footprint:  # each tracker calls this on its own thread while it is being closed
        return Footprint.from_reading(run.meter.reading())

    tracked = TrackedRun(folder.path, folder.run_id, recipe_document(recipe, run.data.config), totals, first_step, CLOSE_SECONDS)
    trackers = []
    for section in dict.fromkeys([*recipe.trackers, *alias]):
        is_own = isinstance(section, TensorBoardSection)
        name, place = ("TensorBoard", folder.tensorboard) if is_own else (section.kind, folder.path)
        trackers.append((name, place, tracker_of(section, tracked)))
    return lambda: [TrackerQueue(*tracker, run.listener.warn) for tracker in trackers]
