"""Shard the models of a training step over several ranks: each block after its initialization, then the parameters outside the blocks."""

import ctypes
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tfkit.errors import MachineError, first_line, is_out_of_memory
from tfkit.model.stack import Block
from tfkit.model.transformer import Transformer
from tfkit.training.depth import Unfreezing
from tfkit.training.device import KEPT_BYTES, M_MMAP_THRESHOLD
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from tfkit.parallel.sharding import OomAgreement, Sharding

OnBlock = Callable[[str, nn.Module], None]  # called with the prefix of a block's parameter names, and the block

_FREE_BYTES, _NEAR_PEAK = 1 << 26, 0.9  # FreedMemory.trim acts above both limits: free bytes, and memory in use as a fraction of its peak
_LARGE_BYTES = 1 << 25  # freed tensors below this size are kept; mapping the memory of a larger one anew takes less time than using it


def shard_models(
    stepper: Stepper, shards: int, *, reshard: bool, frozen: Sequence[Transformer] = (), on_block: OnBlock | None = None
) -> None:
    """Shard the stepper's model, its companions (the objective's other trained models) and the `frozen` models over groups of `shards`
    ranks. All ranks call it together. Blocks on the meta device are initialized one after the other, so that no rank ever holds all of
    them whole; `on_block` is called with each block. `reshard`: in the stepper's model, free a block's gathered weights after its forward
    pass, and sum gradients over ranks after every micro-batch, not only a step's last one. In the other models this is always done, since
    the last micro-batch may not use them.
    """
    from tfkit.parallel.sharding import CAN_REPEAT, OomAgreement, open_mesh  # here: loading PyTorch's distributed tensors takes a second

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
    """Shards the models of a run. `agreement`: lets all ranks raise an error if one runs out of memory; None: only that rank raises one.
    `on_block`: called with each block after its initialization.
    """

    mesh: "DeviceMesh"
    device: torch.device
    agreement: "OomAgreement | None"
    on_block: OnBlock | None = None

    def shard(self, model: Transformer, dtype: torch.dtype, *, root: nn.Module | None = None, reshard: bool = True) -> "Sharding":
        """Shard a model whose blocks may still be on the meta device. `dtype` is that of the gathered weights; `root`: the module around
        the model that also computes the loss (None: the model itself); `reshard`: free a block's gathered weights after its forward pass.
        """
        from tfkit.parallel.sharding import Sharding  # here: loading PyTorch's distributed tensors takes a second

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
    """A context for micro-batches on sharded weights, on GPUs or with a PyTorch before 2.13; raises MachineError if memory runs out.

    In these cases the ranks do not check before each collective whether one has run out of memory, so a rank cannot repeat its
    micro-batch: the others would have to gather weights again.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise MachineError(
            f"out of memory in a micro-batch ({reason}), and ranks with sharded weights cannot make it smaller in the middle of a step: "
            "continue with a larger parallel.shard or training.activation_checkpointing=true, or lower training.micro_batch_size"
        ) from error


class FreedMemory:
    """A limit on the freed memory that the C library keeps (Linux, glibc), for ranks with sharded weights. Such a rank keeps allocating
    and freeing whole weights and gradients beside its shards, which fragments the free memory.
    """

    def __init__(self, large: int):
        """Give free memory back to the system: now all, later that of freed tensors from `large` bytes on (clamped to 32 MiB ... 1 GiB)."""
        self._libc: ctypes.CDLL | None = None
        self._most_used = 0
        if sys.platform != "linux":
            return
        with suppress(OSError, AttributeError):  # another C library, or one without `mallinfo2`
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_THRESHOLD, min(max(large, _LARGE_BYTES), KEPT_BYTES))
            libc.mallinfo2.restype = _MallocInfo
            libc.malloc_trim(0)
            self._libc = libc
            self._other_bytes = self._resident() - self._used()  # resident, but not allocated from the C library

    def trim(self) -> None:
        """Give free memory back to the system if there is much of it while memory in use is near its peak, so that their sum peaks lower.

        At other times free memory is kept for the next tensors, so that the system need not zero its pages again.
        """
        if self._libc is None:
            return
        used = self._used()
        self._most_used = max(self._most_used, used)
        if used > _NEAR_PEAK * self._most_used and self._resident() - used - self._other_bytes > _FREE_BYTES:
            self._libc.malloc_trim(0)

    def _used(self) -> int:
        """Return the bytes that are allocated from the C library."""
        assert self._libc is not None
        info = self._libc.mallinfo2()
        return int(info.uordblks) + int(info.hblkhd)

    def _resident(self) -> int:
        resident, shared = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3])
        return (resident - shared) * resource.getpagesize()


class _MallocInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]
