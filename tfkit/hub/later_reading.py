"""Weights of a model folder that are read one block, or one tensor, at a time, so that no process holds all of them."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from tfkit.families.rules import Family
from tfkit.hub.names import from_foreign, our_shapes, their_names
from tfkit.hub.weights import Tensors, Weight, read_weights
from tfkit.model.config import ModelConfig
from tfkit.model.init import BLOCK, put_weights


def read_ours(weights: Mapping[str, Weight], family: Family | None, config: ModelConfig) -> Tensors:
    """Read tensors of files that fit the model, under our names."""
    foreign = read_weights(weights)
    return from_foreign(foreign, family, config) if family else foreign


class UnreadBlocks:
    """The weights of a model's blocks in its files, each block's read when it is asked for. `others`: those around the blocks."""

    def __init__(self, weights: Mapping[str, Weight], family: Family | None, config: ModelConfig):
        self._family, self._config = family, config
        self._blocks: dict[str, dict[str, Weight]] = {}
        for ours, theirs in their_names(family, config).items():
            if (found := BLOCK.match(ours)) and theirs in weights:
                self._blocks.setdefault(found[0], {})[theirs] = weights[theirs]
        read_later = {name for block in self._blocks.values() for name in block}
        self.others = {name: weight for name, weight in weights.items() if name not in read_later}

    def __call__(self, prefix: str, block: nn.Module) -> None:
        """Give a block its weights; the names of its parameters in the model begin with `prefix`."""
        tensors = read_ours(self._blocks[prefix], self._family, self._config)
        put_weights(block, {name.removeprefix(prefix): tensor.contiguous() for name, tensor in tensors.items()})


class NamedTensors(Mapping[str, Tensor]):
    """The weights of files that fit the model, under our names, each read when it is asked for."""

    def __init__(self, weights: Mapping[str, Weight], family: Family | None, config: ModelConfig):
        self._weights, self._family, self._config = weights, family, config
        self._theirs, self._names = their_names(family, config), our_shapes(config)

    def __getitem__(self, name: str) -> Tensor:
        theirs = self._theirs[name]
        return read_ours({theirs: self._weights[theirs]}, self._family, self._config)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
