"""Weights of a model folder, read one block or one tensor at a time, so that no process holds all of them."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from tfkit.families.rules import Family
from tfkit.hub.names import from_foreign, their_names
from tfkit.hub.weights import Tensors, Weight, read_weights
from tfkit.model.config import ModelConfig
from tfkit.model.init import BLOCK, put_weights
from tfkit.model.transformer import parameter_shapes


def read_ours(weights: Mapping[str, Weight], family: Family | None, config: ModelConfig) -> Tensors:
    """Read tensors from files that fit the model, under our names. `family` None: the files have our names."""
    foreign = read_weights(weights)
    return from_foreign(foreign, family, config) if family else foreign


class LazyBlocks:
    """The weights of a model's blocks, read from its files one block at a time on demand. `others`: the weights outside the blocks."""

    def __init__(self, weights: Mapping[str, Weight], family: Family | None, config: ModelConfig):
        self._family, self._config = family, config
        self._blocks: dict[str, dict[str, Weight]] = {}
        for ours, theirs in their_names(family, config).items():
            if (block := BLOCK.match(ours)) and theirs in weights:
                self._blocks.setdefault(block[0], {})[theirs] = weights[theirs]
        in_blocks = {name for tensors in self._blocks.values() for name in tensors}
        self.others = {name: weight for name, weight in weights.items() if name not in in_blocks}

    def __call__(self, prefix: str, block: nn.Module) -> None:
        """Load a block's weights; the names of its parameters in the model begin with `prefix`."""
        tensors = read_ours(self._blocks[prefix], self._family, self._config)
        put_weights(block, {name.removeprefix(prefix): tensor.contiguous() for name, tensor in tensors.items()})


class NamedTensors(Mapping[str, Tensor]):
    """The weights in files that fit the model, under our names, each read on demand."""

    def __init__(self, weights: Mapping[str, Weight], family: Family | None, config: ModelConfig):
        self._weights, self._family, self._config = weights, family, config
        self._theirs, self._names = their_names(family, config), parameter_shapes(config)

    def __getitem__(self, name: str) -> Tensor:
        theirs = self._theirs[name]
        return read_ours({theirs: self._weights[theirs]}, self._family, self._config)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
