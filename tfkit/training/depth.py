"""The depth of each parameter below the head, for discriminative learning rates and gradual unfreezing (ULMFiT, Howard & Ruder 2018,
arXiv 1801.06146, sections 3.2 and 3.3).

depth 0      the head, and the norm at the end of a stack
depth 1      the top block; 2: the block below it, and so on; in an encoder-decoder, each stack counts from its own top
greatest     the embeddings of tokens, positions and segments, their norm and projection, and the position bias that blocks share
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from tfkit.model.init import BLOCK


def parameter_depths(names: Iterable[str]) -> dict[str, int]:
    """Return the depth of each parameter of a model; `names`: the names of all its parameters."""
    names = list(names)
    layers: dict[str, int] = {}
    for name in names:
        if block := BLOCK.match(name):
            layers[block[1]] = max(layers.get(block[1], 0), int(block[2]) + 1)
    lowest = max(layers.values(), default=0) + 1
    depths = {name: lowest if name.startswith("embedding.") or ".position_bias." in name else 0 for name in names}
    return depths | {name: layers[block[1]] - int(block[2]) for name in names if (block := BLOCK.match(name))}


class Unfreezing:
    """Gradual unfreezing: at first, only parameters of the smallest depth are trained; every `every` steps, those of the next depth join.

    Which depths are frozen depends on the step alone, so that a resumed run continues exactly. A matrix that is both embedding and head
    (tied) counts as an embedding and joins last. A depth without trained parameters is skipped.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], every: int):
        """`parameters`: all parameters of the model (if sharded, this rank's shards), by name."""
        depths = parameter_depths(parameters)
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        stages = sorted({depths[name] for name in trained})
        self.every = every
        self._stages = [[parameter for name, parameter in trained.items() if depths[name] == depth] for depth in stages]

    @contextlib.contextmanager
    def at(self, step: int) -> Iterator[None]:
        """A context for step `step` (from 1) in which parameters that are still frozen require no gradient."""
        frozen = [parameter for stage in self._stages[1 + (step - 1) // self.every :] for parameter in stage]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_()
