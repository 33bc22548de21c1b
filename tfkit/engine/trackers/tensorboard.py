"""TensorBoard files, written beside training: whatever the writer does (raise, hang, fill the disk), training neither stops nor waits."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfkit.errors import MachineError, how_to_install

WAITING = 1000  # lines of the log that wait at most; beyond, new ones are dropped
CLOSE_SECONDS = 3.0


class TensorBoard:
    """Points for TensorBoard, through a queue and a daemon thread. What could not be written is counted, and told once, by `close`.

    `first_step`: what an earlier attempt wrote from there on is hidden. MachineError where the extra is not installed.
    """

    def __init__(self, folder: Path, first_step: int, warn: Callable[[str], None]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MachineError(f"training.tensorboard: {how_to_install('tensorboard')}") from None
        self._folder, self._warn = folder, warn
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._given = self._written = 0  # points
        self._trouble = "the queue was full"
        self._make: Callable[[], Any] = lambda: SummaryWriter(str(folder), purge_step=first_step if first_step > 1 else None)
        self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)
        self._thread.start()

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Points of one step, at once; those that are None are left out."""
        points = {name: value for name, value in values.items() if value is not None}
        self._given += len(points)
        with contextlib.suppress(queue.Full):  # then they are given, and never written
            self._lines.put_nowait((step, points))

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and warn of what was not written."""
        deadline = time.monotonic() + CLOSE_SECONDS
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        trouble = "it did not answer in time" if self._thread.is_alive() else self._trouble
        if lost := self._given - self._written:
            self._warn(f"{self._folder}: {lost} of {self._given} points for TensorBoard were not written ({trouble})")

    def _run(self) -> None:
        try:
            writer = self._make()
            while (line := self._lines.get()) is not None:
                self._write(writer, *line)
            writer.close()
        except BaseException as error:  # SystemExit, too: this thread only ends itself
            self._note(error)

    def _write(self, writer: Any, step: int, points: dict[str, float]) -> None:
        """One line of the log; after a point that fails the others are still tried."""
        for name, value in points.items():
            try:
                writer.add_scalar(name, value, step)
                if self._lines.empty():
                    writer.flush()  # a run that is killed has its points
                self._written += 1
            except Exception as error:
                self._note(error)

    def _note(self, error: BaseException) -> None:
        self._trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
