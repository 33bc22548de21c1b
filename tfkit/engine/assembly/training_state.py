"""Write and restore the training state of a checkpoint, for resuming: optimizer, weights, loader, companions (such as a value model).

The folder training_state/ has tensors as safetensors and all else as JSON (run/state_json.py), so reading it runs no code.
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

# Prefixes for the names of the latest weights, of their moving average, of companions' tensors and of the loader's tensors. No parameter's
# name begins with one of them. The names of the optimizer's state have no prefix.
_LATEST, _MEAN, COMPANIONS, _LOADER = "latest/", "mean/", "companions/", "loader/"

_TENSORS = f"{FOLDER}/optimizer.safetensors"
Reading = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]  # returns the weights, unchanged or so that each is hashed when it is read


def state_tensors(
    weights: Weights, optimizer: Optimizer, companions: Mapping[str, TrainedModel] = MappingProxyType({}), *, factors: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a training state: optimizer state, trained companions, and the latest weights if the model's files lack these.

    If there is a moving average of the weights, the model's files have that average instead of the latest weights. `factors`: the trained
    weights are LoRA matrices. The model's files have these in another layout, or merged, so the state has them and their average, too.
    """
    trained = weights.trained
    latest = {f"{_LATEST}{name}": parameter for name, parameter in trained.items()} if weights.mean or factors else {}
    mean = {f"{_MEAN}{name}": weights.mean[name] for name in trained} if weights.mean and factors else {}
    return optimizer.state() | latest | mean | companion_tensors(companions)


def owner_of(key: str) -> tuple[str, str]:
    """Return to which companion ("": the run's model) and to which of its parameters a tensor of the training state belongs.

    `key`: the tensor's name in `state_tensors`, or a weight's name in the model.
    """
    if key.startswith(COMPANIONS):
        companion, kind, name = key.removeprefix(COMPANIONS).split("/", 2)
        return companion, name if kind == "weights" else name.rpartition("/")[0]
    return "", key.removeprefix(_LATEST).removeprefix(_MEAN) if key.startswith((_LATEST, _MEAN)) else key.rpartition("/")[0] or key


def weight_key(companion: str, parameter: str) -> str:
    """Return the name of a companion's weight in the training state; for the run's model (""), the name of the parameter."""
    return f"{COMPANIONS}{companion}/weights/{parameter}" if companion else parameter


def companion_tensors(trained: Mapping[str, TrainedModel]) -> dict[str, Tensor]:
    """Return the weights and the optimizer state of trained companions, for the training state of a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, companion in trained.items():
        tensors |= {weight_key(name, parameter): tensor for parameter, tensor in companion.weights.trained.items()}
        tensors |= {f"{COMPANIONS}{name}/optimizer/{state}": tensor for state, tensor in companion.optimizer.state().items()}
    return tensors


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_companion_tensors(
    trained: Mapping[str, TrainedModel], tensors: Mapping[str, Tensor], reading: Reading = lambda weights: weights
) -> None:
    """Load the result of `companion_tensors` into the companions; other tensors are ignored. `reading` may hash the weights."""
    for name, companion in trained.items():
        companion.optimizer.load_state(_below(f"{COMPANIONS}{name}/optimizer/", tensors))
        companion.weights.load(reading(_below(f"{COMPANIONS}{name}/weights/", tensors)))


def loader_state(loader: StepLoader[Batch], step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the loader's tensors and JSON document for a checkpoint of step `step`. Both are empty unless the loader samples responses."""
    tensors, state = loader.state(step)
    return {f"{_LOADER}{name}": tensor for name, tensor in tensors.items()}, dict(state)


def restore(stepper: Stepper, loader: StepLoader[Batch], checkpoint: Path) -> Progress:
    """Load the weights and the training state of a checkpoint into a run's stepper and loader; return its progress. Raises ModelError."""
    tensors, state = load_training_state(checkpoint)
    prefixes = (_LATEST, _MEAN, _LOADER, COMPANIONS)
    stepper.optimizer.load_state({name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)})
    digest = WeightsHash()  # with sharding, each rank reads all weights; the ranks compare hashes of them
    shards = stepper.weights.sharding is not None
    reading: Reading = digest.reading if shards else lambda weights: weights
    load_companion_tensors(stepper.companions, tensors, reading)
    latest: Mapping[str, Tensor] = _below(_LATEST, tensors)
    mean: Mapping[str, Tensor] = _below(_MEAN, tensors)
    _restore_loader(loader, checkpoint, tensors, state.loader)
    with ExitStack() as stack:
        if not latest or (state.mean_steps and not mean):  # the model's files have the weights that the state lacks
            saved = stack.enter_context(open_tensors(checkpoint))
            latest, mean = latest or saved, saved
        if state.mean_steps:
            stepper.weights.load_mean(mean, state.mean_steps)
        stepper.weights.load(reading(latest))
    if shards:
        digest.require_same(stepper.peers)
    return Progress.from_state(state.progress)


def _restore_loader(loader: StepLoader[Batch], checkpoint: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Restore the loader from the tensors and the document of `loader_state`. Raises ModelError if they are incomplete."""
    try:
        loader.restore(_below(_LOADER, tensors), state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{checkpoint}: its training state has no whole iteration of responses ({error!r}); resume from another checkpoint"
        ) from error


def save_training_state(folder: Path, tensors: Mapping[str, Tensor], state: TrainingState) -> None:
    """Write `folder`/training_state. Raises TypeError or ValueError for a `state` that JSON cannot represent exactly, and OSError."""
    (folder / FOLDER).mkdir()
    write_state_json(folder, state)
    write_tensors(folder / _TENSORS, tensors)


def load_training_state(folder: Path) -> tuple[dict[str, Tensor], TrainingState]:
    """Load the tensors (on the CPU) and the state that `save_training_state` wrote. Raises ModelError that names the damaged file."""
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
