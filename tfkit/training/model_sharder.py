"""Shard the models of a stepper over several ranks: block by block as each is initialized, then the parameters outside the blocks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from tfkit.errors import MachineError, is_out_of_memory
from tfkit.model.stack import Block
from tfkit.model.transformer import Transformer
from tfkit.training.depth import Unfreezing
from tfkit.training.device import FreedMemory
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from tfkit.parallel.sharding import OomAgreement, Sharding

OnBlock = Callable[[str, nn.Module], None]  # called with the prefix of a block's parameter names, and the block


def shard_models(
    stepper: Stepper, shards: int, *, reshard: bool, frozen: Sequence[Transformer] = (), on_block: OnBlock | None = None
) -> None:
    """Shard the stepper's model, its trained companions and the `frozen` models over groups of this many ranks. All ranks call it together.

    Blocks on the meta device are initialized one after the other, so that no rank ever holds all of them; `on_block` is called with
    each of them. `reshard` applies to the model; the gradients of companions are reduced after every micro-batch, since a step may end
    with a micro-batch that does not involve them.
    """
    from tfkit.parallel.sharding import CAN_REPEAT, OomAgreement, open_mesh  # importing it imports PyTorch's distributed tensors

    for weights in stepper.all_weights.values():
        weights.unround()
    models = [stepper.model, *(one.model for one in stepper.companions.values()), *frozen]
    freed = FreedMemory(max(one.numel() * one.element_size() for model in models for one in model.parameters()))

    def before_collective() -> None:
        freed.trim()
        stepper.peers.go_on()

    def attach(sharding: "Sharding", weights: Weights, optimizer: Optimizer) -> None:
        weights.shard(sharding)
        optimizer.shard(weights.trained, sharding)
        stepper.shardings.append(sharding)

    mesh = open_mesh(stepper.device, stepper.peers.ranks.size, shards)
    agreement = None
    if CAN_REPEAT and stepper.device.type == "cpu":
        agreement = OomAgreement(before_collective, stepper.peers.fitting)
    else:
        stepper.fitting = _fitting_together
    sharder = _ModelSharder(mesh, stepper.device, agreement, on_block)
    main = sharder.shard(stepper.model, stepper.weights.dtype, root=stepper.loss_module, reshard=reshard)
    attach(main, stepper.weights, stepper.optimizer)
    for one in stepper.companions.values():
        attach(sharder.shard(one.model, one.weights.dtype), one.weights, one.optimizer)
    stepper.shardings += [sharder.shard(model, next(model.parameters()).dtype) for model in frozen]
    if stepper.unfreezing is not None:
        stepper.unfreezing = Unfreezing(stepper.weights.working, stepper.unfreezing.every)


@dataclass(frozen=True)
class _ModelSharder:
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


@contextmanager
def _fitting_together() -> Iterator[None]:
    """Enclose micro-batches on sharded weights on GPUs, or with a PyTorch before 2.13. No agreement precedes the collectives there, so a
    rank that runs out of memory cannot repeat its micro-batch, for which the others would have to gather weights again.

    Raises MachineError if memory runs out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MachineError(
            f"out of memory in a micro-batch ({reason}), and ranks with sharded weights cannot make it smaller in the middle of a step: "
            "continue with a larger parallel.shard or training.activation_checkpointing=true, or lower training.micro_batch_size"
        ) from error
