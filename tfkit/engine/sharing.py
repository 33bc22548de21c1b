"""The beginning of weights that ranks share: each block is cut as soon as it has its weights, and no rank ever holds all of them."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tfkit.adapters import FrozenReference
from tfkit.errors import ModelError, UsageError
from tfkit.parallel.agreement import Peers
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.step import Stepper


def is_to_share(recipe: Recipe, peers: Peers) -> bool:
    """Whether these ranks share the weights."""
    return recipe.parallel.shard > 1 and not peers.ranks.is_alone


def copies_here(recipe: Recipe, ranks: Ranks) -> float:
    """Return how many copies of the weights, with gradients and optimizer state, the ranks of this machine hold together."""
    return ranks.local_size / (recipe.parallel.shard if ranks.size > 1 else 1)


def share_weights(recipe: Recipe, stepper: Stepper, reference: FrozenReference | None = None) -> None:
    """Let the ranks share the weights of all models as the recipe says: from here on each keeps its part alone. All ranks do it together.

    Raises UsageError, and ModelError if they do not begin with the same bits.
    """
    if stepper.objective.has_facts and stepper.weights.dtype != torch.float32:
        raise UsageError(
            f"parallel.shard: {recipe.objective.kind} reads its checkpoints in fp32, and ranks that share weights gather them in bf16: "
            "give training.precision=fp32, or parallel.shard=1"
        )
    seen = SeenWeights()

    def see(prefix: str, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if not parameter.is_meta:
                seen.add(prefix + name, parameter)

    frozen = [one.model for one in stepper.objective.companions if not one.trained]
    frozen += [reference.model] if reference is not None and reference.is_copy else []
    for model in (stepper.model, *(one.model for one in stepper.companions.values()), *frozen):
        see("", model)
    stepper.share_weights(recipe.parallel.shard, reshard=recipe.parallel.reshard is not False, frozen=frozen, filled=see)
    seen.require_same(stepper.peers)


class SeenWeights:
    """The hash of whole weights in the order in which they come: all ranks must have seen the same, before each keeps its part."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Add the name and the bytes of a tensor."""
        self._digest.update(name.encode())
        self._digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def reading(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors, each of which is added when it is read."""
        return _Reading(tensors, self)

    def require_same(self, peers: Peers) -> None:
        """Raise ModelError on all ranks if they have not seen the same."""
        if isinstance(peers, ProcessGroup):
            require_same(peers, self._digest.hexdigest())


class _Reading(Mapping[str, Tensor]):
    def __init__(self, tensors: Mapping[str, Tensor], seen: SeenWeights):
        self._tensors, self._seen = tensors, seen

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._seen.add(name, tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def require_same(group: ProcessGroup, sha256: str) -> None:
    """Raise ModelError on all ranks if they have different hashes of the weights that they begin with."""
    if not group.is_same(int(sha256[:15], 16)):
        raise ModelError(
            "the ranks do not start with the same weights: their machines, versions or files differ. Start all of them with the same "
            "tfkit, PyTorch and checkpoint, on processors of one kind"
        )
