"""Shard the weights of a run at its start: each block is sharded once its weights are set, so that no rank ever holds all blocks whole."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tfkit.adapters import FrozenReference
from tfkit.errors import ModelError, UsageError
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import Peers
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.model_sharder import shard_models
from tfkit.training.step import Stepper


def shard_weights(recipe: Recipe, stepper: Stepper, reference: FrozenReference | None = None) -> None:
    """Shard the run's model, companions (such as a teacher) and reference (initial model) as the recipe says. All ranks call this together.

    Raises UsageError for bf16 if checkpoints store numbers that the objective computes in fp32; ModelError if ranks differ in weights.
    """
    if stepper.objective.has_facts and stepper.weights.dtype != torch.float32:
        raise UsageError(
            f"parallel.shard: {recipe.objective.kind} reads its checkpoints in fp32, and ranks with sharded weights gather them in bf16: "
            "give training.precision=fp32, or parallel.shard=1"
        )
    weights_hash = WeightsHash()

    def add(prefix: str, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if not parameter.is_meta:
                weights_hash.add(prefix + name, parameter)

    frozen = [one.model for one in stepper.objective.companions if not one.trained]
    frozen += [reference.model] if reference is not None and reference.is_copy else []
    for model in (stepper.model, *(one.model for one in stepper.companions.values()), *frozen):
        add("", model)
    shard_models(stepper, recipe.parallel.shard, reshard=recipe.parallel.reshard is not False, frozen=frozen, on_block=add)
    weights_hash.require_same(stepper.peers)


class WeightsHash:
    """A hash of all unsharded weights, in the order in which they are initialized or read. It must be the same on all ranks."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Hash the name and the bytes of a tensor."""
        self._digest.update(name.encode())
        self._digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def reading(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a mapping of the same tensors, which hashes each tensor when it is read."""
        return _HashedTensors(tensors, self)

    def require_same(self, peers: Peers) -> None:
        """Raise ModelError on all ranks if their hashes differ."""
        if isinstance(peers, ProcessGroup):
            require_same(peers, self._digest.hexdigest())


class _HashedTensors(Mapping[str, Tensor]):
    def __init__(self, tensors: Mapping[str, Tensor], weights_hash: WeightsHash):
        self._tensors, self._hash = tensors, weights_hash

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._hash.add(name, tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def require_same(group: ProcessGroup, sha256: str) -> None:
    """Raise ModelError on all ranks if they differ in `sha256`, the hash of the weights with which the steps begin."""
    if not group.is_same(int(sha256[:15], 16)):
        raise ModelError(
            "the ranks do not start with the same weights: their machines, versions or files differ. Start all of them with the same "
            "tfkit, PyTorch and checkpoint, on processors of one kind"
        )
