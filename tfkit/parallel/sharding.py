"""Weights that several ranks share (ZeRO-3, arXiv 1910.02054), by PyTorch's fully_shard.

Each rank holds some rows of every parameter, of its gradient and of its optimizer state. A block's whole weights are gathered for its
forward and backward pass; embeddings, final norm and head from the model's forward to the end of its backward, since the loss reads the
head outside of the forward. Gradients are added up in fp32 and never averaged: the loss is divided by the counts of all ranks.

With a second dimension of the mesh, groups of ranks hold replicas of all (HSDP); they add up their gradients, too.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
from torch.distributed.tensor import DTensor, distribute_tensor

_REPLICAS, _SHARDS = "replicas", "shards"


def open_mesh(device: torch.device, ranks: int, shards: int) -> DeviceMesh:
    """Return the ranks in rows: those of a row share the weights, those of a column have the same part."""
    if ranks == shards:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=(_SHARDS,))
    return init_device_mesh(device.type, (ranks // shards, shards), mesh_dim_names=(_REPLICAS, _SHARDS))


class Sharding:
    """A model whose parameters this object has cut: from here on they are DTensors, of which a rank holds its part."""

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, dtype: torch.dtype, *, reshard: bool):
        """`dtype` is that of the working weights. `reshard`: give a block's weights back after its forward, and add up gradients after
        every micro-batch; else they are kept for the backward pass, and whole gradients are added up once a step.
        """
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # or the tables of rotary positions would be rounded, too
        )
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self._mesh, self._reshard, self._model = mesh, reshard, model
        self._lookups = 0  # of this micro-batch, whose gradients are still to come
        self._modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            if mesh.device_type == "cpu":
                module.set_custom_all_gather(_GatherInPlace())
                module.set_custom_reduce_scatter(_ReduceInPlace())
        self.parameters = dict(model.named_parameters())

    def free_after(self, lookup: nn.Module) -> None:
        """Free the tables around the blocks as soon as the gradient of the last output of `lookup`, the first module of a forward, is
        there: what is left of the backward pass, their own gradients, does without them.
        """

        def looked_up(module: nn.Module, inputs: object, output: Tensor) -> None:
            if output.requires_grad:
                self._lookups += 1
                output.register_hook(arrived)

        def arrived(gradient: Tensor) -> None:
            self._lookups -= 1
            if not self._lookups:
                self._model.reshard()  # type: ignore[operator]

        lookup.register_forward_hook(looked_up)

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Set whether the backward pass to come adds up the gradients of all ranks."""
        self._lookups = 0
        for module in self._modules:
            module.set_requires_gradient_sync(is_last or self._reshard)

    def gradients(self) -> dict[str, Tensor]:
        """Take the sums of all ranks' gradients from the parameters: of each that has one, this rank's part."""
        found = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        self.drop_gradients()
        return {name: _local(gradient) for name, gradient in found.items()}

    def drop_gradients(self) -> None:
        """Drop the gradients of a step that was not taken."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def norm(self, parts: Iterable[Tensor]) -> float:
        """Return the 2-norm of a vector of which each rank has parts, the same number on all ranks."""
        squares = torch.zeros((), dtype=torch.float64, device=self._mesh.device_type)
        for part in parts:
            squares += torch.linalg.vector_norm(part, dtype=torch.float64).square()
        dist.all_reduce(squares, group=self._mesh.get_group(_SHARDS))
        return float(squares.sqrt())

    def is_true_everywhere(self, condition: bool) -> bool:
        """Whether a condition holds on all ranks that share the weights."""
        found = torch.tensor(int(condition), device=self._mesh.device_type)
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self._mesh.get_group(_SHARDS))
        return bool(found)

    def own(self, name: str) -> Tensor:
        """Return this rank's part of a parameter, in the memory that the model gathers from."""
        return _local(self.parameters[name].detach())

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a tensor in the shape of a parameter."""
        parameter = self.parameters[name]
        assert isinstance(parameter, DTensor)
        assert whole.shape == parameter.shape, name
        return _local(distribute_tensor(whole.detach(), parameter.device_mesh, parameter.placements, src_data_rank=None)).clone()

    def distributed(self, name: str, part: Tensor) -> DTensor:
        """Return the tensor in the shape of a parameter of which each rank has a part; no rank needs another for this."""
        like = self.parameters[name]
        assert isinstance(like, DTensor)
        return DTensor.from_local(part.detach(), like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())

    def gather(self, name: str, part: Tensor) -> Tensor:
        """Return the whole of a tensor in the shape of a parameter. All ranks that share the weights do it together."""
        return self.distributed(name, part).full_tensor()

    @contextmanager
    def at_inference(self) -> Iterator[None]:
        """A context of forwards without gradients, of the model or of parts of it. Afterwards no whole weights are left: the next
        forward would go on with them, whatever has become of the parts.
        """
        self._give_back()
        self._model.unshard()  # type: ignore[operator]  # generation calls parts of the model, which would not gather what is around them
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for module in self._modules:
            module.reshard()


class _OnCpu:
    """Memory of a collective that gloo carries out in place: its own ones make a copy of all ranks' numbers."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for the numbers of a collective."""
        return torch.empty(*size, dtype=dtype, device=device)


class _GatherInPlace(_OnCpu, AllGather):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False) -> None:
        """Fill the output with the inputs of all ranks, in their order."""
        parts = output_tensor.chunk(group.size())
        own = parts[group.rank()]
        if own.data_ptr() != input_tensor.data_ptr():
            own.copy_(input_tensor)
        for rank, part in enumerate(parts):
            dist.broadcast(part, group=group, group_src=rank)


class _ReduceInPlace(_OnCpu, ReduceScatter):
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp | dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> None:
        """Add up each rank's part of the inputs on that rank."""
        parts = input_tensor.chunk(group.size())
        for rank, part in enumerate(parts):
            dist.reduce(part, op=op, group=group, group_dst=rank)
        output_tensor.copy_(parts[group.rank()])


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        return tensor.to_local()
