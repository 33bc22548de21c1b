"""The process group of the ranks of a command: gloo sends tensors on CPUs, NCCL those on GPUs, and messages are JSON in the store, a
server of keys and values that rank 0 or torchrun runs. Nothing is pickled.

A process that ends closes its connections. Ranks that wait for it in gloo notice that within milliseconds; those in NCCL may notice it
only by the time-out, as if it hung. The time-out is half an hour until the first step is timed, later 5 to 30 minutes, by the longest
step. To find the rank that hangs, all ranks that have waited in vain report themselves in the store.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tfkit.errors import PeerLostError, argument, is_out_of_memory
from tfkit.parallel.rank_store import STEP_SECONDS, Heartbeat, await_key, first_sentence, meet, silent_ranks
from tfkit.parallel.ranks import Peers, RankOutOfMemoryError, Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

# The time-out after the first step: _TIMES_A_STEP times the longest step, but at least _LEAST_SECONDS and at most STEP_SECONDS.
_LEAST_SECONDS, _TIMES_A_STEP = 300.0, 20.0
_set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # public only in later versions of torch
_BUCKET = 1 << 22  # the most elements in an all-reduce of several gradients
_FIT, _DOES_NOT_FIT = 0, 1  # codes for `agree`: this rank has enough memory, or has run out of it


class ProcessGroup(Peers):
    """The ranks of a command with several processes. In addition to what `Peers` offers, rank 0 can announce messages to the others."""

    def __init__(self, ranks: Ranks, store: "Store"):
        self.ranks, self._store, self._announced = ranks, store, 0
        self.given_by_first = ""  # the argument `given` with which rank 0 called `join`
        self._longest = 0.0  # the longest step of any rank, in seconds
        self._heartbeat: Heartbeat | None = None

    @classmethod
    def join(
        cls, ranks: Ranks, *, watch: Callable[[], None] | None = None, say: Callable[[str], None] | None = None, given: str = ""
    ) -> Self:
        """Connect to the other ranks. `watch` is called while this rank waits for them, `say` at most once, with the ranks that are late.

        `given`: a hash of the recipe and overrides of this rank's command; rank 0's hash is `given_by_first` on all ranks. Raises
        PeerLostError if a rank does not connect in time, and MachineError if rank 0 cannot listen at its port.
        """
        with lost(ranks, f"did not meet all {ranks.size} ranks at {ranks.address}:{ranks.port}"):
            store = meet(ranks, given, watch, say)
            backends = backends_of(torch.cuda.is_available() and dist.is_nccl_available())
            timeout = timedelta(seconds=STEP_SECONDS)
            dist.init_process_group(backends, store=store, rank=ranks.rank, world_size=ranks.size, timeout=timeout)
        group = cls(ranks, store)
        group._heartbeat = Heartbeat(store) if ranks.is_first else None
        group.given_by_first = store.get("here/0").decode()
        return group

    def close(self) -> None:
        """Disconnect from the other ranks."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
        dist.destroy_process_group()

    def announce(self, message: Mapping[str, Any]) -> None:
        """Send a message that all other ranks `receive`. Called by rank 0 alone."""
        with lost(self.ranks, "could not announce anything"):
            self._store.set(f"announcement/{self._announced}", json.dumps(message))
        self._announced += 1

    def receive(self) -> dict[str, Any]:
        """Return the next message of rank 0. There is no time-out while rank 0 is alive, since its own work may take long."""
        with lost(self.ranks, "heard nothing more of rank 0"):
            message: dict[str, Any] = json.loads(await_key(self._store, f"announcement/{self._announced}"))
        self._announced += 1
        return message

    def agree(self, code: int) -> int:
        """Return the maximum of `code` over all ranks."""
        return int(self._reduced(torch.tensor([code], dtype=torch.int64), dist.ReduceOp.MAX)[0])

    def agree_after_step(self, code: int, seconds: float) -> int:
        """Return the maximum of `code` over all ranks, and derive the time-out from the longest step so far; this step took `seconds`."""
        found, milliseconds = self._reduced(torch.tensor([code, math.ceil(1000 * seconds)], dtype=torch.int64), dist.ReduceOp.MAX).tolist()
        if milliseconds / 1000 > self._longest:
            self._longest = milliseconds / 1000
            for group in dist.distributed_c10d._world.pg_map:  # all process groups, also those of the sharding
                limit = min(STEP_SECONDS, max(_LEAST_SECONDS, _TIMES_A_STEP * self._longest))
                _set_timeout(timedelta(seconds=limit), group)
        return int(found)

    def is_same(self, number: int) -> bool:
        """Whether all ranks call this with the same number, of at most 62 bits."""
        highest, lowest = self._reduced(torch.tensor([number, -number], dtype=torch.int64), dist.ReduceOp.MAX).tolist()
        return bool(highest == -lowest)

    def total(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the sum of each count over all ranks. All ranks pass the same names."""
        names = sorted(counts)
        sums = self._reduced(torch.tensor([counts[name] for name in names], dtype=torch.int64), dist.ReduceOp.SUM).tolist()
        return dict(zip(names, sums, strict=True))

    def in_order(self, parts: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the values of all micro-batches of a step, in order: of N ranks, rank i mod N computes micro-batch i.

        `parts`: one mapping for each micro-batch of this rank. The k-th micro-batches of all ranks have values of the same names. Values
        are sent in float64, which represents each of them exactly, and returned in their own dtype, on the CPU.
        """
        layouts = [[(name, value.dtype) for name, value in sorted(part.items())] for part in parts]  # the same on all ranks
        own = torch.stack([value.detach().double().cpu() for part in parts for _, value in sorted(part.items())])
        gathered = [torch.empty_like(own) for _ in range(self.ranks.size)]
        with self._within_step():
            dist.all_gather(gathered, own)
        by_rank = [of_rank.split([*map(len, layouts)]) for of_rank in gathered]
        return [
            {name: value.to(dtype) for (name, dtype), value in zip(layout, values, strict=True)}
            for layout, of_ranks in zip(layouts, zip(*by_rank, strict=True), strict=True)
            for values in of_ranks
        ]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all ranks in fp32, in buckets of many parameters; all ranks get the same bits."""
        found = list(parameters)
        present = torch.tensor([parameter.grad is not None for parameter in found], dtype=torch.int8)
        for parameter, is_there in zip(found, self._reduced(present, dist.ReduceOp.MAX).tolist(), strict=True):
            if is_there:  # `float()`, since the gradient of a single micro-batch may be in bf16
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.float()
        for bucket in _buckets([parameter.grad for parameter in found if parameter.grad is not None]):
            flat = self._reduced(torch.cat([gradient.flatten() for gradient in bucket]), dist.ReduceOp.SUM)
            for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Enclose work that calls `go_on` before each of its collectives. If one rank runs out of memory in that work, all ranks raise
        RankOutOfMemoryError. Such contexts may be nested.
        """
        try:
            yield
        except RankOutOfMemoryError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.agree(_DOES_NOT_FIT)
            raise RankOutOfMemoryError(str(error) or type(error).__name__) from error
        self.go_on()

    def go_on(self) -> None:
        """Raise RankOutOfMemoryError if another rank has run out of memory in the block of `fitting`."""
        if self.agree(_FIT) != _FIT:
            raise RankOutOfMemoryError("another rank ran out of memory")

    @contextmanager
    def to_the_end(self, ordinary: tuple[type[Exception], ...], last: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Enclose the training steps. After them, or an `ordinary` error on all ranks, call `last`; wait for all ranks before and after."""
        try:
            # Converts the errors of gloo and NCCL in FSDP's own collectives, within a forward or backward pass.
            with lost(self.ranks, "lost another rank within a step", only_of_backends=True):
                yield
        except ordinary:
            self._end(last)
            raise
        self._end(last)

    def _end(self, last: Callable[[], object]) -> None:
        self.agree(0)
        last()
        self.agree(0)

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        with self._within_step():
            dist.all_reduce(tensor, operation)
        return tensor

    @contextmanager
    def _within_step(self) -> Iterator[None]:
        with lost(self.ranks, "lost another rank within a step"):
            try:
                yield
            except RuntimeError as error:
                if "Timed out" not in str(error):
                    raise
                raise RuntimeError(f"no answer of {silent_ranks(self._store, self.ranks)}; {str(error).splitlines()[0]}") from error


def backends_of(has_nccl: bool) -> str:
    """Return the backends in PyTorch's notation. CPU tensors always use gloo, so that an agreement of the ranks never stalls a GPU.

    NCCL connects the ranks only when the first GPU tensor is sent.
    """
    return "cpu:gloo,cuda:nccl" if has_nccl else "gloo"


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups of at most _BUCKET elements; a larger tensor is a group of its own."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and size + gradient.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket


@contextmanager
def lost(ranks: Ranks, what: str, *, only_of_backends: bool = False) -> Iterator[None]:
    """Convert connection errors in the block to PeerLostError. `what`: the text after "rank n" in the message, such as "lost another rank".

    `only_of_backends`: convert only errors of gloo and NCCL.
    """
    try:
        yield
    except RuntimeError as error:  # errors of gloo, NCCL and the store are RuntimeErrors
        if only_of_backends and not any(sign in str(error) for sign in ("/gloo/", "NCCL")):
            raise
        reason = first_sentence(str(error)) or type(error).__name__
        raise PeerLostError(
            f"rank {ranks.rank} {what} ({reason}): its process ended, hangs, or cannot be reached. The last whole checkpoint is untouched: "
            f"look at what the other ranks reported, and continue with {argument('resume', True)}"
        ) from error
