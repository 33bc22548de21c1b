"""training_state/state.json of a checkpoint: what a resume needs besides the saved tensors. This module does not import torch."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from tfkit.errors import ModelError, argument
from tfkit.run import strict_json
from tfkit.run.model_files import MIB, check_version, find_file, read_object

FOLDER = "training_state"
NAME = f"{FOLDER}/state.json"
SCHEMA_VERSION = 1
_LIMIT = 64 * MIB


@dataclass(frozen=True)
class SavedLog:
    """The part of the training log that a checkpoint contains, so that a run resumes exactly even if its metrics.jsonl was lost."""

    lines: int  # the number of records of training steps in the log
    loss: float | None  # the loss in the latest record of a training step; None: not finite, or no such record yet
    evaluations: list[tuple[int, dict[str, float | None]]]  # each: the step, and the scores (None: not finite)
    before: dict[str, float | str] | None = None  # the scores before the first step, as text if not finite; None: not recorded

    @classmethod
    def of(cls, lines: int, loss: float | None, evaluations: dict[int, dict[str, Any]], before: dict[str, float] | None) -> Self:
        """Return the log with values that JSON can represent: a number that is not finite becomes None, or a text in `before`."""
        finite = [(step, {name: finite_or_none(value) for name, value in values.items()}) for step, values in evaluations.items()]
        texts = None if before is None else {name: value if math.isfinite(value) else str(value) for name, value in before.items()}
        return cls(lines, finite_or_none(loss), finite, texts)

    @property
    def scores_before(self) -> dict[str, float] | None:
        """The scores before the first step as numbers; None if they were not recorded."""
        return None if self.before is None else {name: float(value) for name, value in self.before.items()}


@dataclass(frozen=True)
class TrainingState:
    """The content of a state.json."""

    progress: dict[str, Any] = field(default_factory=dict)  # the counters and sums of the training loop, such as `step` and `tokens`
    micro_batch_size: int = 0
    data: dict[str, list[str]] = field(default_factory=dict)  # fingerprints of the data, by part (train, validation, ...)
    mean_steps: int = 0  # the number of steps in the moving average of the weights (training.ema_decay)
    log: SavedLog | None = None  # None: written by an older version
    loader: dict[str, Any] = field(default_factory=dict)  # the state of the data loader, without its tensors


_STATE = TypeAdapter(TrainingState)


def finite_or_none(value: float | None) -> float | None:
    """Return the value, or None if it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def write_state_json(folder: Path, state: TrainingState) -> None:
    """Write the state.json of a checkpoint. Raises OSError, and TypeError or ValueError for values that JSON cannot represent exactly."""
    fields = {name: value for name, value in asdict(state).items() if name != "loader" or value}
    if state.log is not None:
        fields["log"]["evaluations"] = [list(pair) for pair in state.log.evaluations]
    document = {"schema_version": SCHEMA_VERSION, **fields}
    text = strict_json.dumps(document, indent=1)
    if strict_json.loads(text) != document:
        raise ValueError(
            "JSON cannot represent the training state: it holds a number that is not finite, a tuple, or keys that are not strings"
        )
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read_state_json(folder: Path) -> TrainingState:
    """Return the content of the state.json of a checkpoint. Raises ModelError if it is missing, damaged, or of a later version."""
    path = find_training_file(folder, NAME)
    document = read_object(path, _LIMIT)
    check_version(document, path, SCHEMA_VERSION)
    try:
        if not document.keys() >= {"progress", "micro_batch_size", "data", "mean_steps"}:
            raise ValueError("a field is missing")
        return _STATE.validate_python(document)
    except ValueError as error:
        raise unread_state(folder, error) from error


def unread_state(checkpoint: Path, error: Exception) -> ModelError:
    """Return a ModelError for a training state that this version of tfkit cannot read. `error`: the reason."""
    first = str(error.errors()[0]["loc"]) if isinstance(error, ValidationError) else repr(error)
    return ModelError(
        f"{checkpoint}: this version of tfkit cannot read its training state ({first}); {argument('start')} starts a new run from its "
        "weights"
    )


def find_training_file(folder: Path, name: str) -> Path:
    """Return the path of the file `name` of a checkpoint's training state. Raises ModelError if it is missing."""
    path = find_file(folder, name)
    if path is None:
        raise ModelError(
            f"{folder / name}: missing, so training cannot be resumed from {folder}; {argument('start')} starts a new run from its weights"
        )
    return path
