"""training_state/ of a checkpoint, needed only for resuming: tensors as safetensors, the rest as strict JSON, so that reading runs no code.

tfkit/run/checkpoints.py handles the checkpoint's folder (complete or absent, newest, best, damaged), run/state_json.py the JSON.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tfkit.errors import ModelError
from tfkit.hub.tensor_files import write_tensors
from tfkit.run.safetensors_header import read_header
from tfkit.run.state_json import FOLDER, TrainingState, find_training_file, read_state_json, unread_state, write_state_json
from tfkit.training.loop import Progress

_TENSORS = f"{FOLDER}/optimizer.safetensors"


def save_training_state(folder: Path, tensors: Mapping[str, torch.Tensor], state: TrainingState) -> None:
    """Write `folder`/training_state. The states of random generators are among the tensors (uint8).

    Raises TypeError or ValueError for a `state` that JSON cannot represent exactly, and OSError, for example if the disk is full.
    """
    (folder / FOLDER).mkdir()
    write_state_json(folder, state)
    write_tensors(folder / _TENSORS, tensors)


def load_training_state(folder: Path) -> tuple[dict[str, torch.Tensor], TrainingState]:
    """Load the tensors (on the CPU) and the state that `save_training_state` wrote. Raises ModelError naming the bad file."""
    path = find_training_file(folder, _TENSORS)
    state = read_state_json(folder)
    try:
        Progress.from_state(state.progress)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise unread_state(folder, error) from error
    read_header(path)
    try:
        return load_file(path), state
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error}); resume from another checkpoint") from error
