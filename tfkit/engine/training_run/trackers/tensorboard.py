"""TensorBoard's event files, in the folder `tensorboard` of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfkit.engine.training_run.trackers.tracker_queue import Tracker
from tfkit.errors import MachineError, how_to_install


def tensorboard_writer(folder: Path, first_step: int) -> Callable[[], Tracker]:
    """Return a function that opens the writer; points of an earlier attempt from `first_step` on are hidden. Raises MachineError."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MachineError(f"TensorBoard {how_to_install('tensorboard')}") from None
    return lambda: _EventFiles(SummaryWriter(str(folder), purge_step=first_step if first_step > 1 else None))


class _EventFiles:
    """Writes a curve for each name, and flushes the files after each line, so that a killed run has its points."""

    def __init__(self, writer: Any):
        self._writer = writer

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
