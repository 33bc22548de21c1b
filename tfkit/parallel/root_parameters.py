"""The parameters in the root group of a sharded model, outside its blocks: embeddings, final norm and head.

They may be as large as all blocks together, and they stay gathered from the model's forward to the end of its backward pass, because the
loss reads the head outside of the forward. This module reduces their memory: it frees them early, and reduces their gradients in place.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tfkit.parallel.fsdp_internals import UnshardedParameter, unsharded_parameters

REPLICAS, SHARDS = "replicas", "shards"  # names of the mesh dimensions


class RootParameters:
    """The parameters of a sharded model that are in none of its sharded blocks.

    `reduces`: their gradients are reduced here, in place, where FSDP would make two copies. `adds_rows`: the gradient of the token lookup
    is added to the rows of the embedding's gradient as the head, which starts from zero in each micro-batch.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], mesh: DeviceMesh, *, reduces: bool, adds_rows: bool):
        self._model, self._mesh, self._adds_rows = model, mesh, adds_rows
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._own: list[tuple[str, UnshardedParameter]] = (
            [(names[id(one.sharded)], one) for one in unsharded_parameters(model)] if reduces else []
        )
        self._lookups = 0  # lookups of this micro-batch whose gradients are still to come
        self._freed: set[str] = set()  # parameters that are freed individually

    @property
    def reduces(self) -> bool:
        """Whether gradients are reduced here, rather than by FSDP."""
        return bool(self._own)

    def begin_micro_batch(self) -> None:
        """Reset the count of lookups, which an abandoned micro-batch may have left."""
        self._lookups = 0

    def free_after(self, lookup: nn.Embedding) -> None:
        """Free the root parameters as soon as the gradient of the last output of `lookup`, the first module of a forward, is known: the
        rest of the backward pass, which computes their own gradients, does not read them.

        If gradients are reduced after every micro-batch on a CPU, the gradient of the lookup is added to the rows of the embedding's
        gradient as the head, so that there is one unsharded gradient instead of two, and each parameter is freed when its gradient is
        complete.
        """

        def on_lookup(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
            if not output.requires_grad:
                return None
            self._lookups += 1
            if not self._adds_rows:
                output.register_hook(on_gradient)
                return None
            self._free_individually()
            table = lookup.weight

            def add_rows(gradient: Tensor) -> None:
                _add_rows(table, inputs[0].flatten(), gradient.flatten(0, -2))
                on_gradient(gradient)

            found: Tensor = _Rows.apply(output.detach(), torch.empty(0, requires_grad=True), add_rows)  # type: ignore[no-untyped-call]
            return found

        def on_gradient(gradient: Tensor) -> None:
            self._lookups -= 1
            if not self._lookups:
                self._model.reshard()  # type: ignore[operator]

        lookup.register_forward_hook(on_lookup)

    def _free_individually(self) -> None:
        """Free each root parameter when its gradient is complete."""
        self._freed |= {name for name, one in self._own if name not in self._freed and one.free_after_gradient()}

    def take_gradients(self, go_on: Callable[[], None]) -> Iterator[tuple[str, Tensor]]:
        """Remove the unsharded gradients, and yield this rank's shard of the sum of each over all ranks. `go_on` is called before each
        reduction.
        """
        for name, one in self._own:
            if (gradient := one.take_gradient()) is not None:
                go_on()
                yield name, self._reduced(gradient)

    def _reduced(self, gradient: Tensor) -> Tensor:
        group = self._mesh.get_group(SHARDS)
        shards = gradient.chunk(group.size())  # fewer than there are ranks, if there are few rows
        for rank, shard in enumerate(shards):
            dist.reduce(shard, group=group, group_dst=rank)
        own = shards[group.rank()] if group.rank() < len(shards) else gradient[:0]
        if REPLICAS in (self._mesh.mesh_dim_names or ()):
            dist.all_reduce(own, group=self._mesh.get_group(REPLICAS))
        return own


class _Rows(torch.autograd.Function):
    """Rows of a table; their gradient is passed to `add_rows` instead of the table."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, _requires_grad: Tensor, add_rows: Callable[[Tensor], None]) -> Tensor:
        ctx.add_rows = add_rows
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.add_rows(gradient)
        return None, None, None


@torch.no_grad()
def _add_rows(table: Tensor, ids: Tensor, gradient: Tensor) -> None:
    """Add the gradients (N, D) of the rows `ids` (N,) to the table's gradient. Gradients of equal rows are summed first, as in PyTorch."""
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    rows, places = ids.unique(return_inverse=True)
    table.grad.index_add_(0, rows, torch.ops.aten.embedding_dense_backward(gradient, places, len(rows), -1, False))
