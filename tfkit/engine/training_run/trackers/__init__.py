"""Trackers, which send a run's metrics elsewhere; metrics.jsonl is the authoritative record. No tracker can stop or slow a run."""

from collections.abc import Callable

from tfkit.engine.training_run.trackers.tensorboard import tensorboard_writer
from tfkit.engine.training_run.trackers.tracker_queue import TrackerQueue
from tfkit.recipe.schema.sections import Recipe, TensorBoardSection
from tfkit.run.folder import RunFolder


def open_trackers(recipe: Recipe, folder: RunFolder, first_step: int, warn: Callable[[str], None]) -> list[TrackerQueue]:
    """Start the trackers of a recipe, each kind once; points that an earlier attempt left from `first_step` on are hidden.

    `warn` is called at most once for each tracker, when it is closed. Raises MachineError if a tracker's extra is not installed.
    """
    alias = [TensorBoardSection(kind="tensorboard")] if recipe.training.tensorboard else []
    queues = []
    for section in dict.fromkeys([*recipe.trackers, *alias]):
        match section:
            case TensorBoardSection():
                queues.append(TrackerQueue("TensorBoard", folder.tensorboard, tensorboard_writer(folder.tensorboard, first_step), warn))
    return queues
