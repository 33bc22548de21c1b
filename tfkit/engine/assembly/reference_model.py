"""Compute the log-probabilities of rows by the reference: the initial model, with which DPO, for example, compares the trained one.

The log-probabilities are computed before the first step, and cached by a hash of weights, configuration and data, so that no step
needs a second model.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfkit.adapters import load
from tfkit.data import ExampleBatch, ExampleSet
from tfkit.data.store.folder_cache import cache_folder, indexed_folder, is_built, write_index
from tfkit.data.store.hashes import digest
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.listener import Listener
from tfkit.errors import ModelError
from tfkit.generation.inference import inference
from tfkit.hub import Loaded, content_hash
from tfkit.hub.config_json import TRAINING_ONLY_FIELDS
from tfkit.model.transformer import Transformer, with_fewer_positions
from tfkit.objectives.context import Stored
from tfkit.objectives.labelled import LabelledObjective
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.training.replay import weights_sha256
from tfkit.training.step import Stepper

_VERSION = 1  # the version of the format of the cache's folders


def data_with_reference(data: TrainingData, stepper: Stepper, batch_size: int, listener: Listener) -> TrainingData:
    """Return the data with the reference's log-probabilities of the rows. `stepper` has taken no step, so its model is the reference."""
    weights, objective = stepper.weights, data.objective.labelled
    assert objective is not None, "an objective with a reference reads labelled rows"
    key = f"{weights_sha256(stepper)}\0{weights.dtype}\0{stepper.device.type}"
    lacks_any = None if weights.sharding is None else lambda lacks: bool(stepper.peers.agree(int(lacks)))

    def examples(stored: Stored) -> ExampleSet:
        assert isinstance(stored, ExampleSet), "rows of preferences are examples"
        return with_reference(stored, objective, stepper.model, key, batch_size, listener, lacks_any)

    with weights.use_latest():
        validation = [replace(held_out, stored=examples(held_out.stored)) for held_out in data.validation]
        return replace(data, train=[(examples(stored), weight) for stored, weight in data.train], validation=validation)


def with_reference(
    stored: ExampleSet,
    objective: LabelledObjective,
    model: Transformer,
    key: str,
    batch_size: int,
    listener: Listener,
    lacks_any: Callable[[bool], bool] | None = None,
) -> ExampleSet:
    """Return a set with the reference's log-probability of each sequence, from the cache or computed by `model`, the reference.

    `key`: a hash of the model's weights, their dtype and the device. `lacks_any`: for ranks with sharded weights, which can compute only
    together: its argument is whether this rank's cache lacks the values, and it returns whether any rank's does.

    The cache's folder has values.bin (float32, one value for each element of the set's array `sizes`) and, written last, index.json.
    """
    config = model.config.model_dump_json(exclude=TRAINING_ONLY_FIELDS)
    folder = cache_folder() / "computed" / digest(_VERSION, "reference", f"reference 2\0{key}\0{config}\0{batch_size}", stored.fingerprint)
    starts = stored.arrays["sizes"][1]

    def compute() -> NDArray[np.float32]:
        with listener.progress(f"the reference reads {stored.name}", len(stored), "rows") as bar, inference(model):
            return _log_probs(stored, objective, model, batch_size, bar.advance)

    computed = compute() if lacks_any is not None and lacks_any(not is_built(folder, _VERSION)) else None

    def write(path: Path) -> None:
        values = compute() if computed is None else computed
        assert len(values) == starts[-1], "one value for each sequence"
        (path / "values.bin").write_bytes(values.astype("<f4").tobytes())
        write_index(path, _VERSION, {})

    _, files, _ = indexed_folder(folder, _VERSION, write)
    return replace(stored, arrays={**stored.arrays, "reference": (files.array("values.bin", "<f4"), starts)})


def _log_probs(
    stored: ExampleSet, objective: LabelledObjective, model: Transformer, batch_size: int, advance: Callable[[int], None]
) -> NDArray[np.float32]:
    """Return the log-probability of each sequence by the model: (sequences of all examples,). The longest examples are read first."""
    device, log_probs = next(model.parameters()).device, [np.empty(0, np.float32)] * len(stored)
    order = np.argsort(-np.asarray(stored.lengths), kind="stable")
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size].astype(np.int64)
        rows = ExampleBatch([[stored[number]] for number in numbers.tolist()], np.zeros_like(numbers), numbers)
        values = objective.reference_values(model, objective.collate(rows).to(device)).float().cpu().numpy()
        sizes = [len(stored[number]["sizes"]) for number in numbers.tolist()]
        for number, part in zip(numbers.tolist(), np.split(values, np.cumsum(sizes)[:-1]), strict=True):
            log_probs[number] = part
        advance(len(numbers))
    return np.concatenate(log_probs)


def with_finished_reference(
    sets: Sequence[ExampleSet], objective: LabelledObjective, finished: Loaded, batch_size: int, listener: Listener
) -> list[ExampleSet]:
    """Return the sets with the log-probabilities by the reference, the model from which the training of `finished` started.

    The sets are returned unchanged if the objective reads no such log-probabilities. Raises ModelError if the finished model's folder does
    not name the reference, or if the reference is missing or was changed.
    """
    if objective.reference_use != "once" or not sets:
        return list(sets)
    folder, weight = finished.folder, next(finished.model.parameters())
    start = next((parent for parent in read_tfkit_json(folder).parents if parent.role == "start"), None)
    if start is None or start.path is None:
        raise ModelError(
            f"{folder}: tfkit.json does not name the model that the training started from, with which the answers are compared; evaluate a "
            "checkpoint of a run of this objective"
        )
    try:
        loaded = _load_first(start.path, finished)
    except ModelError as error:
        raise ModelError(f"the model that {folder} was trained from, with which its answers are compared: {error}") from None
    if (sha256 := content_hash(loaded.folder)) != start.sha256:
        raise ModelError(
            f"{start.path}: the model that {folder} was trained from has changed: the SHA-256 of its weights was {start.sha256} "
            f"and is now {sha256}; restore it, since the answers are compared with it"
        )
    key = f"{sha256}\0{weight.dtype}\0{weight.device.type}"
    return [with_reference(examples, objective, loaded.model, key, batch_size, listener) for examples in sets]


def _load_first(path: str, finished: Loaded) -> Loaded:
    """Load the model from which a training started, with the configuration of the finished model: as it was before the first step."""
    config, weight = finished.config, next(finished.model.parameters())
    cut = config.position.kind == "learned"  # the table of positions is cut after loading
    changes = config.model_dump(exclude={"head", "vocab_size", *(["context_length"] if cut else [])})
    loaded = load(path, head=config.head, changes=changes, device=weight.device, dtype=weight.dtype)
    fewer = cut and config.context_length < loaded.config.context_length
    return replace(loaded, model=with_fewer_positions(loaded.model, config.context_length)) if fewer else loaded
