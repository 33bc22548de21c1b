"""A model that several ranks share: cut block by block, as each gets its weights; then what is around the blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from tfkit.model.stack import Block
from tfkit.model.transformer import Transformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from tfkit.parallel.in_place import Agreements
    from tfkit.parallel.sharding import Sharding

Filled = Callable[[str, nn.Module], None]  # called with each block that has got its weights, and the beginning of their names


@dataclass(frozen=True)
class Cutting:
    """How ranks share their models. `in_place` is that of Sharding."""

    mesh: "DeviceMesh"
    device: torch.device
    in_place: "Agreements | None"
    filled: Filled | None = None

    def cut(self, model: Transformer, dtype: torch.dtype, *, reshard: bool = True) -> "Sharding":
        """Cut a model whose blocks may still be on the meta device. `dtype`: of the working weights; `reshard`: as of Sharding."""
        from tfkit.parallel.sharding import Sharding  # which imports PyTorch's distributed tensors

        blocks = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, Block)}
        fill = self._filling(model.fill_block) if model.fill_block is not None else None
        sharding = Sharding(model, blocks, self.mesh, dtype, reshard=reshard, in_place=self.in_place, fill=fill)
        model.fill_block = None
        model.whole_at_work = sharding.whole
        if not sharding.is_frozen:
            sharding.around.free_after(model.embedding.tokens)
        return sharding

    def _filling(self, fill: Filled) -> Filled:
        def fill_on_device(name: str, block: nn.Module) -> None:
            fill(name, block)
            if self.filled is not None:
                self.filled(name, block)
            block.to(self.device)

        return fill_on_device


def numbers_around_blocks(model: Transformer) -> int:
    """Return the numbers of the parameters that stay whole from a forward of a cut model to the end of its backward pass."""
    blocks = sum(one.numel() for stack in model.stacks for block in stack.blocks for one in block.parameters())
    return sum(one.numel() for one in model.parameters()) - blocks
