"""Shard a model over several ranks, block by block as each is initialized, then the parameters outside the blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from tfkit.model.stack import Block
from tfkit.model.transformer import Transformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from tfkit.parallel.sharding import OomAgreement, Sharding

OnBlock = Callable[[str, nn.Module], None]  # called with the prefix of a block's parameter names, and the block


@dataclass(frozen=True)
class ModelSharder:
    """How the models of a run are sharded. `agreement` is that of Sharding; `on_block` is called with each block that was initialized."""

    mesh: "DeviceMesh"
    device: torch.device
    agreement: "OomAgreement | None"
    on_block: OnBlock | None = None

    def shard(self, model: Transformer, dtype: torch.dtype, *, root: nn.Module | None = None, reshard: bool = True) -> "Sharding":
        """Shard a model whose blocks may still be on the meta device. `dtype` is that of the gathered weights; `root` and `reshard` as in
        Sharding.
        """
        from tfkit.parallel.sharding import Sharding  # importing it imports PyTorch's distributed tensors

        blocks = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, Block)}
        fill = self._filling(model.fill_block) if model.fill_block is not None else None
        sharding = Sharding(model, blocks, self.mesh, dtype, root=root or model, reshard=reshard, agreement=self.agreement, fill=fill)
        model.fill_block = None
        model.unsharded = sharding.unsharded
        return sharding

    def _filling(self, fill: OnBlock) -> OnBlock:
        def fill_on_device(name: str, block: nn.Module) -> None:
            fill(name, block)
            if self.on_block is not None:
                self.on_block(name, block)
            block.to(self.device)

        return fill_on_device
