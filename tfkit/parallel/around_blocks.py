"""The weights around the blocks of a model that ranks share: embeddings, final norm and head.

They may be as large as all blocks, and the loss reads the head outside of the forward, so they are whole from the forward of the model to
the end of its backward. Here is what keeps their memory small: when they are freed, and how their gradients are added up.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tfkit.parallel.fsdp_internals import WholeParameter, whole_parameters

REPLICAS, SHARDS = "replicas", "shards"  # the dimensions of a mesh


class AroundBlocks:
    """The parameters of a cut model that are in none of its cut blocks.

    `adds_up`: their gradients are added up here, in their own memory, where FSDP makes two copies. `adds_rows`: the gradient of a lookup
    is added to its table's gradient as a head, which starts again with each micro-batch.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], mesh: DeviceMesh, *, adds_up: bool, adds_rows: bool):
        self._model, self._mesh, self._adds_rows = model, mesh, adds_rows
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._own: list[tuple[str, WholeParameter]] = [(names[id(one.part)], one) for one in whole_parameters(model)] if adds_up else []
        self._lookups = 0  # of this micro-batch, whose gradients are still to come
        self._freed: set[str] = set()  # parameters that are freed by themselves

    @property
    def adds_up(self) -> bool:
        """Whether gradients are added up here, and not by FSDP."""
        return bool(self._own)

    def begin_micro_batch(self) -> None:
        """Forget the lookups of a micro-batch that was dropped."""
        self._lookups = 0

    def free_after(self, lookup: nn.Embedding) -> None:
        """Free the tables around the blocks as soon as the gradient of the last output of `lookup`, the first module of a forward, is
        there: what is left of the backward pass, their own gradients, does without them.

        Where micro-batches are added up one by one on a CPU, the gradient of the lookup is added to the rows of its table's gradient as a
        head, so that there is one whole gradient and not two; and each table is freed when its gradient as a head is there.
        """

        def looked_up(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
            if not output.requires_grad:
                return None
            self._lookups += 1
            if not self._adds_rows:
                output.register_hook(arrived)
                return None
            self._free_one_by_one()
            table = lookup.weight

            def add_rows(gradient: Tensor) -> None:
                _add_rows(table, inputs[0].flatten(), gradient.flatten(0, -2))
                arrived(gradient)

            found: Tensor = _Rows.apply(output.detach(), torch.empty(0, requires_grad=True), add_rows)  # type: ignore[no-untyped-call]
            return found

        def arrived(gradient: Tensor) -> None:
            self._lookups -= 1
            if not self._lookups:
                self._model.reshard()  # type: ignore[operator]

        lookup.register_forward_hook(looked_up)

    def _free_one_by_one(self) -> None:
        """Let each parameter around the blocks be freed when its whole gradient is there."""
        self._freed |= {name for name, one in self._own if name not in self._freed and one.free_once_gradient_is_there()}

    def take_gradients(self, agree: Callable[[], None]) -> Iterator[tuple[str, Tensor]]:
        """Take the whole gradients, and yield this rank's part of the sum over all ranks of each; `agree` is called before each."""
        for name, one in self._own:
            if (whole := one.take_gradient()) is not None:
                agree()
                yield name, self._sum(whole)

    def _sum(self, whole: Tensor) -> Tensor:
        group = self._mesh.get_group(SHARDS)
        parts = whole.chunk(group.size())  # of few rows, fewer than there are ranks
        for rank, part in enumerate(parts):
            dist.reduce(part, group=group, group_dst=rank)
        own = parts[group.rank()] if group.rank() < len(parts) else whole[:0]
        if REPLICAS in (self._mesh.mesh_dim_names or ()):
            dist.all_reduce(own, group=self._mesh.get_group(REPLICAS))
        return own


class _Rows(torch.autograd.Function):
    """Rows of a table, whose gradient goes to `add_rows` instead of the table."""

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
    """Add the gradients (N, D) of looked up rows (N,) to that of their table: first those of equal rows to each other, as PyTorch does."""
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    rows, places = ids.unique(return_inverse=True)
    table.grad.index_add_(0, rows, torch.ops.aten.embedding_dense_backward(gradient, places, len(rows), -1, False))
