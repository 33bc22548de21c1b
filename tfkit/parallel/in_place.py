"""The collectives of weights that ranks share, over gloo: in place where that sends no more, since gloo's own ones make a copy of all
ranks' numbers.

Before each of them the ranks may agree whether all of them go on: one whose memory has ended would leave the others waiting.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tfkit.parallel.fsdp_internals import AllGather, ReduceScatter


@dataclass(frozen=True)
class Agreements:
    """How ranks learn that one of them has run out of memory: all of them then raise an error.

    `go_on` is called before each collective of this module, and may raise that error. `fitting` encloses forwards without gradients, and
    reports a rank's own lack of memory to the others.
    """

    go_on: Callable[[], None]
    fitting: Callable[[], AbstractContextManager[None]]


class _Agreed:
    def __init__(self, agreements: Agreements):
        self._go_on = agreements.go_on

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for the numbers of a collective."""
        return torch.empty(*size, dtype=dtype, device=device)


class GatherInPlace(_Agreed, AllGather):
    """Gather the parts of all ranks."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False) -> None:
        """Fill the output with the inputs of all ranks, in their order; the own one may lie there already."""
        self._go_on()
        if group.size() > 2:  # many broadcasts would send more than gloo's ring does
            dist.all_gather_single(output_tensor, input_tensor, group)
            return
        parts = output_tensor.chunk(2)
        own = parts[group.rank()]
        if not _is_same_memory(own, input_tensor):
            own.copy_(input_tensor)
        for rank, part in enumerate(parts):
            dist.broadcast(part, group=group, group_src=rank)


class ReduceInPlace(_Agreed, ReduceScatter):
    """Add up the parts of all ranks."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp | dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> None:
        """Fill the output with the sum of this rank's part of all inputs, which are overwritten, and freed."""
        self._go_on()
        parts = input_tensor.chunk(group.size())
        for rank, part in enumerate(parts):
            dist.reduce(part, op=op, group=group, group_dst=rank)
        output_tensor.copy_(parts[group.rank()])
        input_tensor.untyped_storage().resize_(0)  # FSDP keeps it until the next one, for the streams of GPUs


def _is_same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two contiguous tensors begin in the same place; also of fake ones, which have no address (engine/planning)."""
    return one.storage_offset() == other.storage_offset() and one.untyped_storage()._cdata == other.untyped_storage()._cdata
