"""checkpoints/best.json: which checkpoint of a run is the best, and by which metric."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from tfkit.durable import write_atomically
from tfkit.run import strict_json
from tfkit.run.checkpoints import checkpoint_folder
from tfkit.run.manifest import is_complete

NAME = "best.json"


@dataclass(frozen=True)
class Best:
    """The content of checkpoints/best.json: the step of the best checkpoint, and the metric by which it is the best."""

    step: int
    metric: str
    value: float


def record_best(root: Path, step: int, metric: str, value: float, higher_is_better: bool = False, *, wins_ties: bool = False) -> bool:
    """Record the checkpoint of `step` as the best if its `value` is better than the recorded one. Return whether it was recorded.

    `wins_ties`: record it also if the values are equal. A value that is not finite is never recorded. A finite value always replaces a
    record of another metric, of the same `step` (a resumed run has repeated it), or of a checkpoint that is missing or not complete. Raises
    OSError if the record cannot be written.
    """
    if not math.isfinite(value):
        return False
    old = read_best(root) if best_checkpoint(root) else None
    if old and old.metric == metric and old.step != step:
        is_better = value > old.value if higher_is_better else value < old.value
        if not (is_better or (wins_ties and value == old.value)):
            return False
    write_atomically(root / NAME, strict_json.dumps(asdict(Best(step, metric, float(value)))) + "\n")
    return True


def read_best(root: Path) -> Best | None:
    """Return the content of best.json; None if it is missing or invalid."""
    try:
        best = Best(**strict_json.loads((root / NAME).read_bytes()))
        valid = type(best.step) is int and isinstance(best.metric, str) and type(best.value) in (int, float) and math.isfinite(best.value)
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return best if valid else None


def best_checkpoint(root: Path) -> Path | None:
    """Return the folder of the best checkpoint; None if best.json names none, or if its folder is not complete."""
    best = read_best(root)
    path = checkpoint_folder(root, best.step) if best else None
    return path if path and is_complete(path) else None
