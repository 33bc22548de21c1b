"""Weights that several ranks share (ZeRO-3, arXiv 1910.02054), by PyTorch's fully_shard.

Each rank holds some rows of every parameter, of its gradient and of its optimizer state. A block's whole weights are gathered for its
forward and backward pass; embeddings, final norm and head from the model's forward to the end of its backward, since the loss reads the
head outside of the forward. Gradients are added up in fp32 and never averaged: the loss is divided by the counts of all ranks.

With a second dimension of the mesh, groups of ranks hold replicas of all (HSDP); they add up their gradients, too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tfkit.parallel.around_blocks import REPLICAS, SHARDS, AroundBlocks
from tfkit.parallel.fsdp_internals import has_begun, whole_parameters
from tfkit.parallel.in_place import Agreements, GatherInPlace, ReduceInPlace

_PIECE = 1 << 20  # numbers


def open_mesh(device: torch.device, ranks: int, shards: int) -> DeviceMesh:
    """Return the ranks in rows: those of a row share the weights, those of a column have the same part."""
    if ranks == shards:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=(SHARDS,))
    return init_device_mesh(device.type, (ranks // shards, shards), mesh_dim_names=(REPLICAS, SHARDS))


class Sharding:
    """A model whose parameters this object has cut: from here on they are DTensors, of which a rank holds its part."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, nn.Module],
        mesh: DeviceMesh,
        dtype: torch.dtype,
        *,
        reshard: bool,
        in_place: Agreements | None,
        fill: Callable[[str, nn.Module], None] | None = None,
    ):
        """`blocks`: by the beginning of their parameters' names. `fill` gives each its weights, which are whole until the block is cut;
        None: all have theirs.

        `dtype` is that of the working weights. `reshard`: give a block's weights back after its forward, and add up gradients after
        every micro-batch; else they are kept for the backward pass, and whole gradients are added up once a step. `in_place`: by gloo,
        without copies, with these agreements among the ranks; None: by FSDP's own collectives, which overlap with what a GPU computes.
        """
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # or the tables of rotary positions would be rounded, too
        )
        for name, block in blocks.items():
            if fill is not None:
                fill(name, block)
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self._mesh, self._reshard, self._model = mesh, reshard, model
        self.is_frozen = not any(parameter.requires_grad for parameter in model.parameters())
        self._adds_up = self._is_last = False  # whether this micro-batch adds up the gradients of all ranks, is the last of its step
        self._agreements = in_place
        self._modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            if in_place is not None:
                module.set_modules_to_backward_prefetch([module])  # none: on a CPU nothing would overlap with gathering the next block
                module.set_custom_all_gather(GatherInPlace(in_place))
                module.set_custom_reduce_scatter(ReduceInPlace(in_place))
        self.parameters = dict(model.named_parameters())
        self.around = AroundBlocks(model, self.parameters, mesh, adds_up=in_place is not None, adds_rows=in_place is not None and reshard)

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Set whether the backward pass to come adds up the gradients of all ranks."""
        self.around.begin_micro_batch()
        self._adds_up, self._is_last = is_last or self._reshard, is_last
        for module in self._modules:
            module.set_requires_gradient_sync(self._adds_up and not (self.around.adds_up and module is self._model), recurse=False)

    def end_micro_batch(self) -> None:
        """Add up the gradients around the blocks, where FSDP does not; of a frozen model give back what is around them."""
        if self.is_frozen:
            self._give_back()
            return
        go_on = self._agreements.go_on if self._agreements is not None else lambda: None
        for name, own in self.around.take_gradients(go_on) if self._adds_up else ():
            parameter = self.parameters[name]
            if parameter.grad is None:  # of the last micro-batch it may stay in the memory of the whole: a copy would be needed beside it
                parameter.grad = self.distributed(name, own if self._is_last else own.clone())
            else:
                _local(parameter.grad).add_(own)

    def gradients(self) -> dict[str, Tensor]:
        """Take the sums of all ranks' gradients from the parameters: of each that has one, this rank's part."""
        found = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return {name: _local(gradient) for name, gradient in found.items()}

    def drop_micro_batch(self) -> None:
        """Drop what an error within a forward or a backward pass has left beside gradients of parameters; needs no other rank."""
        if has_begun(self._model):
            self._model.reset_iter_state()  # type: ignore[operator]
        for module in self._modules:
            for one in whole_parameters(module):
                one.drop_gradient()
        if self.is_frozen:
            self._give_back()

    def norm(self, parts: Iterable[Tensor]) -> float:
        """Return the 2-norm of a vector of which each rank has parts, the same number on all ranks."""
        squares = torch.zeros((), dtype=torch.float64, device=self._mesh.device_type)
        for part in parts:
            for piece in part.reshape(-1).split(_PIECE):  # PyTorch makes a copy of it in float64
                squares += torch.linalg.vector_norm(piece, dtype=torch.float64).square()
        dist.all_reduce(squares, group=self._mesh.get_group(SHARDS))
        return float(squares.sqrt())

    def is_true_everywhere(self, condition: bool) -> bool:
        """Whether a condition holds on all ranks that share the weights."""
        found = torch.tensor(int(condition), device=self._mesh.device_type)
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self._mesh.get_group(SHARDS))
        return bool(found)

    def own(self, name: str) -> Tensor:
        """Return this rank's part of a parameter, in the memory that the model gathers from."""
        return _local(self.parameters[name].detach())

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a tensor in the shape of a parameter."""
        parameter = self.parameters[name]
        assert isinstance(parameter, DTensor)
        assert whole.shape == parameter.shape, name
        whole = whole.detach().to(self._mesh.device_type)
        part = _local(distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None))
        return part.clone(memory_format=torch.contiguous_format)

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
        forward would continue with them, whatever has become of the parts.
        """
        self._give_back()
        try:
            with self._fitting():
                self._model.unshard()  # type: ignore[operator]  # generation calls parts of the model, which would not gather what is around them
                yield
        finally:
            self._give_back()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A context in which every rank has the whole weights, gathered once, and may run forwards without gradients for itself alone."""
        self._give_back()
        try:
            with self._fitting():
                for module in self._modules:
                    module.set_reshard_after_forward(False, recurse=False)
                    module.unshard()
            yield
        finally:
            for module in self._modules:
                module.set_reshard_after_forward(self._reshard and module is not self._model, recurse=False)
            self._give_back()

    def _fitting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._agreements is None else self._agreements.fitting()

    def _give_back(self) -> None:
        for module in self._modules:
            module.reshard()


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        return tensor.to_local()
