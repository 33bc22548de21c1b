"""FSDP's collectives over gloo, in place where that sends no more bytes: gloo's own ones copy the data of all ranks.

Before each collective the ranks agree whether to go on: a rank that has run out of memory would leave the others waiting.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tfkit.parallel.fsdp_internals import AllGather, ReduceScatter


@dataclass(frozen=True)
class OomAgreement:
    """How the ranks learn that one of them has run out of memory, so that all of them raise an error.

    `go_on` is called before each collective of this module, and may raise that error. `fitting` encloses forwards without gradients, and
    reports a rank's own lack of memory to the others.
    """

    go_on: Callable[[], None]
    fitting: Callable[[], AbstractContextManager[None]]


class _Agreed:
    def __init__(self, agreement: OomAgreement):
        self._go_on = agreement.go_on

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Allocate the buffer of a collective."""
        return torch.empty(*size, dtype=dtype, device=device)


class GatherInPlace(_Agreed, AllGather):
    """Gather the shards of all ranks."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False) -> None:
        """Fill the output with the inputs of all ranks, in order. This rank's input may already be in its place."""
        self._go_on()
        if group.size() > 2:  # a broadcast from each rank would send more bytes than gloo's ring
            dist.all_gather_single(output_tensor, input_tensor, group)
            return
        shards = output_tensor.chunk(2)
        own = shards[group.rank()]
        if not _is_same_memory(own, input_tensor):
            own.copy_(input_tensor)
        for rank, shard in enumerate(shards):
            dist.broadcast(shard, group=group, group_src=rank)


class ReduceInPlace(_Agreed, ReduceScatter):
    """Sum the gradients of all ranks, and keep this rank's shard."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp | dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> None:
        """Fill the output with this rank's shard of the sum of all inputs. The input is overwritten and freed."""
        self._go_on()
        shards = input_tensor.chunk(group.size())
        for rank, shard in enumerate(shards):
            dist.reduce(shard, op=op, group=group, group_dst=rank)
        output_tensor.copy_(shards[group.rank()])
        input_tensor.untyped_storage().resize_(0)  # FSDP keeps it until the next collective, for the sake of GPU streams


def _is_same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two contiguous tensors begin at the same address; works for fake tensors, which have none (engine/planning)."""
    return one.storage_offset() == other.storage_offset() and one.untyped_storage()._cdata == other.untyped_storage()._cdata
