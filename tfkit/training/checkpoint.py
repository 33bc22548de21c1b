"""training_state/ of a checkpoint, needed only for resuming: tensors as safetensors, the rest as strict JSON, so that reading runs no code.

tfkit/run/checkpoints.py handles the checkpoint's folder (complete or absent, newest, best, damaged).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tfkit.errors import ModelError, argument
from tfkit.hub.tensor_files import write_tensors
from tfkit.run import strict_json
from tfkit.run.model_files import MIB, check_version, find_file, read_object
from tfkit.run.safetensors_header import read_header

FOLDER = "training_state"
_TENSORS = "optimizer.safetensors"
_STATE = "state.json"
_STATE_LIMIT = 64 * MIB
_VERSION = "schema_version"
SCHEMA_VERSION = 1  # of both files


def save_training_state(folder: Path, tensors: Mapping[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write `folder`/training_state. The states of random generators are among the tensors (uint8).

    Raises TypeError or ValueError for a `state` that JSON cannot represent exactly, and OSError, for example if the disk is full.
    """
    subfolder = folder / FOLDER
    subfolder.mkdir()
    document = {_VERSION: SCHEMA_VERSION, **state}
    text = strict_json.dumps(document, indent=1)
    if strict_json.loads(text) != document:
        raise ValueError(
            "the training state does not survive JSON: it holds a number that is not finite, a tuple, or keys that are not strings"
        )
    (subfolder / _STATE).write_text(text + "\n", encoding="utf-8")
    write_tensors(subfolder / _TENSORS, tensors)


def load_training_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load the tensors (on the CPU) and the state that `save_training_state` wrote. Raises ModelError naming the bad file."""
    tensors, state = (_find(folder, name) for name in (_TENSORS, _STATE))
    document = read_object(state, _STATE_LIMIT)
    check_version(document, state, SCHEMA_VERSION)
    document.pop(_VERSION, None)
    read_header(tensors)
    try:
        return load_file(tensors), document
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{tensors}: not a readable safetensors file ({error}); resume from another checkpoint") from error


def _find(folder: Path, name: str) -> Path:
    path = find_file(folder, f"{FOLDER}/{name}")
    if path is None:
        missing = folder / FOLDER / name
        raise ModelError(
            f"{missing}: missing, so training cannot be resumed from {folder}; {argument('start')} starts a new run from its weights"
        )
    return path
