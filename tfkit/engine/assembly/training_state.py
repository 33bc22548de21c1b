"""The training state of a checkpoint, which only resuming reads: tensors by name, taken from the parts of a run and put back into them.

training_state/ holds the tensors as safetensors and the rest as strict JSON (run/state_json.py), so that reading runs no code.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tfkit.data import StepLoader
from tfkit.engine.assembly.weight_sharding import WeightsHash
from tfkit.errors import ModelError
from tfkit.hub import open_tensors
from tfkit.hub.tensor_files import write_tensors
from tfkit.objectives.objective import Batch
from tfkit.run.safetensors_header import read_header
from tfkit.run.state_json import FOLDER, TrainingState, find_training_file, read_state_json, unread_state, write_state_json
from tfkit.training.loop import Progress
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper, TrainedModel

# Prefixes for the names of the latest weights, of the mean of the weights, of companions' tensors and of the loader's. No name of a
# parameter begins with one of them. The optimizer's state has no prefix.
_LATEST, _MEAN, COMPANIONS, _LOADER = "latest/", "mean/", "companions/", "loader/"

_TENSORS = f"{FOLDER}/optimizer.safetensors"
Reading = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]  # wraps the weights, to hash each when it is read


def state_tensors(
    weights: Weights, optimizer: Optimizer, companions: Mapping[str, TrainedModel] = MappingProxyType({}), *, factors: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's training state: the optimizer's state, the trained companions, and the latest weights if they
    are not in the model's files.

    The model's files hold the mean of the weights, if there is one. `factors`: the trained weights are LoRA matrices, which those files
    have in another layout, or merged; then the matrices and their mean are returned, too.
    """
    trained = weights.trained
    latest = {f"{_LATEST}{name}": parameter for name, parameter in trained.items()} if weights.mean or factors else {}
    mean = {f"{_MEAN}{name}": weights.mean[name] for name in trained} if weights.mean and factors else {}
    return optimizer.state() | latest | mean | companion_tensors(companions)


def owner_of(key: str) -> tuple[str, str]:
    """Return the names of the companion and the parameter to which a tensor of the training state belongs; "" for the trained model itself.

    `key`: its name in `state_tensors`, or the plain name of a weight.
    """
    if key.startswith(COMPANIONS):
        companion, kind, name = key.removeprefix(COMPANIONS).split("/", 2)
        return companion, name if kind == "weights" else name.rpartition("/")[0]
    return "", key.removeprefix(_LATEST).removeprefix(_MEAN) if key.startswith((_LATEST, _MEAN)) else key.rpartition("/")[0] or key


def weight_key(companion: str, parameter: str) -> str:
    """Return the name of a companion's weight in the training state; the parameter's own name if `companion` is empty."""
    return f"{COMPANIONS}{companion}/weights/{parameter}" if companion else parameter


def companion_tensors(trained: Mapping[str, TrainedModel]) -> dict[str, Tensor]:
    """Return the weights and the optimizer state of trained companions, for the training state of a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, companion in trained.items():
        tensors |= {weight_key(name, parameter): tensor for parameter, tensor in companion.weights.trained.items()}
        tensors |= {f"{COMPANIONS}{name}/optimizer/{state}": tensor for state, tensor in companion.optimizer.state().items()}
    return tensors


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have this prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_companion_tensors(
    trained: Mapping[str, TrainedModel], tensors: Mapping[str, Tensor], reading: Reading = lambda weights: weights
) -> None:
    """Load the result of `companion_tensors` into the companions, the weights through `reading`; other tensors are ignored."""
    for name, companion in trained.items():
        companion.optimizer.load_state(_below(f"{COMPANIONS}{name}/optimizer/", tensors))
        companion.weights.load(reading(_below(f"{COMPANIONS}{name}/weights/", tensors)))


def loader_state(loader: StepLoader[Batch], step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the loader's tensors and document for the training state of a checkpoint of this step; usually both are empty."""
    tensors, state = loader.state(step)
    return {f"{_LOADER}{name}": tensor for name, tensor in tensors.items()}, dict(state)


def restore(stepper: Stepper, loader: StepLoader[Batch], checkpoint: Path) -> Progress:
    """Load the weights and the training state of a checkpoint into a run's stepper and loader; return the checkpoint's progress. Raises
    ModelError.
    """
    tensors, state = load_training_state(checkpoint)
    stepper.optimizer.load_state(
        {name: tensor for name, tensor in tensors.items() if not name.startswith((_LATEST, _MEAN, _LOADER, COMPANIONS))}
    )
    digest = WeightsHash()  # the ranks read all weights, and compare them before the first step
    shards = stepper.weights.sharding is not None
    reading: Reading = digest.reading if shards else lambda weights: weights
    load_companion_tensors(stepper.companions, tensors, reading)
    latest: Mapping[str, Tensor] = _below(_LATEST, tensors)
    mean: Mapping[str, Tensor] = _below(_MEAN, tensors)
    _restore_loader(loader, checkpoint, tensors, state.loader)
    with ExitStack() as stack:
        if not latest or (state.mean_steps and not mean):  # the model's own files hold what is missing
            saved = stack.enter_context(open_tensors(checkpoint))
            latest, mean = latest or saved, saved
        if state.mean_steps:
            stepper.weights.load_mean(mean, state.mean_steps)
        stepper.weights.load(reading(latest))
    if shards:
        digest.require_same(stepper.peers)
    return Progress.from_state(state.progress)


def _restore_loader(loader: StepLoader[Batch], checkpoint: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Restore the loader from what `loader_state` returned. Raises ModelError for anything else."""
    try:
        loader.restore(_below(_LOADER, tensors), state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{checkpoint}: its training state has no whole iteration of responses ({error!r}); resume from another checkpoint"
        ) from error


def save_training_state(folder: Path, tensors: Mapping[str, Tensor], state: TrainingState) -> None:
    """Write `folder`/training_state. The states of random generators are among the tensors (uint8).

    Raises TypeError or ValueError for a `state` that JSON cannot represent exactly, and OSError, for example if the disk is full.
    """
    (folder / FOLDER).mkdir()
    write_state_json(folder, state)
    write_tensors(folder / _TENSORS, tensors)


def load_training_state(folder: Path) -> tuple[dict[str, Tensor], TrainingState]:
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
