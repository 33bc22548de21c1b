"""training_state/ of a checkpoint: what only resuming needs. Tensors as safetensors, the rest as strict JSON: reading it can run no code.

The folder around it (complete or absent, newest, best, damaged) is tfkit/run/checkpoints.py.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tfkit.errors import ModelError
from tfkit.run import strict_json

FOLDER = "training_state"
_TENSORS = "optimizer.safetensors"
_STATE = "state.json"


def save_training_state(folder: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write `folder`/training_state. The states of random generators go among the tensors (uint8).

    Raises TypeError or ValueError for a `state` that JSON cannot hold exactly, and what safetensors raises for a full disk.
    """
    place = folder / FOLDER
    place.mkdir()
    text = strict_json.dumps(state, indent=1)
    if strict_json.loads(text) != state:
        raise ValueError(
            "the training state does not survive JSON: it holds a number that is not finite, a tuple, or keys that are not strings"
        )
    (place / _STATE).write_text(text + "\n", encoding="utf-8")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, place / _TENSORS)


def load_training_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the state that `save_training_state` was given. Raises ModelError naming the bad file."""
    tensors = folder / FOLDER / _TENSORS
    path = folder / FOLDER / _STATE
    for file in (tensors, path):
        if not file.is_file():
            raise ModelError(f"{file}: missing, so training cannot be resumed from {folder}; --from starts a new run from its weights")
    try:
        state = strict_json.loads(path.read_bytes())
        if not isinstance(state, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: unreadable ({error}); resume from another checkpoint") from error
    try:
        return load_file(tensors), state
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{tensors}: not a readable safetensors file ({error}); resume from another checkpoint") from error
