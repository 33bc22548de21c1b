"""Trackers, which send a run's metrics elsewhere; metrics.jsonl is the authoritative record.

No tracker can stop or slow a run: each gets its points from a queue, on a daemon thread of its own, where it may raise, hang or exit.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tfkit.carbon import Footprint
from tfkit.model.config import ModelConfig
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.schema.output_sections import TensorBoardSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.folder import RunFolder

WAITING = 1000  # lines of the log that may wait; further ones are dropped
CLOSE_SECONDS = 3.0


class Tracker(Protocol):
    """Sends metrics to another program. It runs on the thread of its queue, and may raise, hang or exit there."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Store the values of one step so that a killed run has them. If this raises, they count as lost; the next step is still tried."""

    def close(self) -> None:
        """Send what was added and is not sent yet, and finish."""


class TrackerQueue:
    """Feeds one tracker. Points that the tracker does not accept are counted and reported by `close`; if it ends early, `add` reports that.

    `name` and `place` are for messages; `open_tracker` is called on the thread of the queue.
    """

    def __init__(self, name: str, place: Path, open_tracker: Callable[[], Tracker], warn: Callable[[str], None]):
        self._name, self._place, self._open, self._warn = name, place, open_tracker, warn
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._given = self._taken = 0  # points
        self._trouble = "the queue was full"
        self._end_is_reported = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Queue the values of one step, at once; None is left out."""
        points = {name: value for name, value in values.items() if value is not None}
        self._given += len(points)
        if not self._thread.is_alive() and not self._end_is_reported:
            self._end_is_reported = True
            self._warn(f"{self._place}: {self._name} takes no points ({self._trouble}); tfkit track sends them later")
        with contextlib.suppress(queue.Full):  # then these points are counted as given, and never as taken
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
        except BaseException as error:  # SystemExit, too: this thread only ends itself
            self._note(error)

    def _pass_on(self, tracker: Tracker, step: int, points: dict[str, float]) -> None:
        try:
            tracker.add(step, points)
            self._taken += len(points)
        except Exception as error:
            self._note(error)

    def _note(self, error: BaseException) -> None:
        self._trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def open_trackers(
    recipe: Recipe, config: ModelConfig, folder: RunFolder, first_step: int, totals: Callable[[], Footprint], warn: Callable[[str], None]
) -> list[TrackerQueue]:
    """Start the trackers of a recipe, each section once; points that an earlier attempt left from `first_step` on are not doubled.

    `totals` gives the run's energy and emissions, on the thread of a tracker that is closed. `warn` is called if a tracker ends early, or
    lacks points when it is closed. Raises MachineError if a tracker's extra is not installed.
    """
    from tfkit.engine.training_run.tracker_adapters import TrackedRun, tracker_of

    alias = [TensorBoardSection(kind="tensorboard")] if recipe.training.tensorboard else []
    run = TrackedRun(folder.path, folder.run_id, recipe_document(recipe, config), totals, first_step, CLOSE_SECONDS)
    queues = []
    for section in dict.fromkeys([*recipe.trackers, *alias]):
        is_own = isinstance(section, TensorBoardSection)
        name, place = ("TensorBoard", folder.tensorboard) if is_own else (section.kind, folder.path)
        queues.append(TrackerQueue(name, place, tracker_of(section, run), warn))
    return queues
