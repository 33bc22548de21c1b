"""Sharded weights (ZeRO-3, arXiv 1910.02054), by PyTorch's fully_shard.

Each rank holds some rows of every parameter, of its gradient and of its optimizer state. The weights of a block are gathered for its
forward and backward pass; embeddings, final norm and head stay gathered from the model's forward to the end of its backward pass, since
the loss reads the head outside of the forward. Gradients are summed in fp32 and never averaged: the loss is divided by the counts of all
ranks.

With a two-dimensional mesh, there are several replicas of the shards (HSDP), whose gradients are summed, too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tfkit.parallel.fsdp_internals import has_begun, unsharded_parameters
from tfkit.parallel.in_place import GatherInPlace, OomAgreement, ReduceInPlace
from tfkit.parallel.root_parameters import REPLICAS, SHARDS, RootParameters

_PIECE = 1 << 20  # elements that are converted to float64 at once


def open_mesh(device: torch.device, ranks: int, shards: int) -> DeviceMesh:
    """Return the mesh (replicas, shards): the ranks of a row hold one copy of the weights, those of a column hold the same shard."""
    if ranks == shards:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=(SHARDS,))
    return init_device_mesh(device.type, (ranks // shards, shards), mesh_dim_names=(REPLICAS, SHARDS))


class Sharding:
    """A sharded model: its parameters are DTensors, of which each rank holds one shard."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, nn.Module],
        mesh: DeviceMesh,
        dtype: torch.dtype,
        *,
        reshard: bool,
        in_place: OomAgreement | None,
        fill: Callable[[str, nn.Module], None] | None = None,
    ):
        """Shard the model, block by block.

        `blocks`: by the prefix of their parameters' names. `fill` initializes a block just before it is sharded; None: all blocks have
        their weights. `dtype`: of the gathered weights. `reshard`: free the weights of a block after its forward, and reduce gradients
        after every micro-batch; otherwise weights are kept for the backward pass, and gradients are reduced once per step. `in_place`: use
        gloo without copies, with these agreements among the ranks; None: use FSDP's own collectives, which overlap with computation on a
        GPU.
        """
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # True would also round the rotary tables
        )
        for name, block in blocks.items():
            if fill is not None:
                fill(name, block)
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self._mesh, self._reshard, self._model = mesh, reshard, model
        self.is_frozen = not any(parameter.requires_grad for parameter in model.parameters())
        self._reduces = self._is_last = False  # whether this micro-batch reduces gradients, and is the last of its step
        self._agreements = in_place
        self._modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            if in_place is not None:
                module.set_modules_to_backward_prefetch([module])  # no prefetch: on a CPU it would not overlap with computation
                module.set_custom_all_gather(GatherInPlace(in_place))
                module.set_custom_reduce_scatter(ReduceInPlace(in_place))
        self.parameters = dict(model.named_parameters())
        self.root = RootParameters(model, self.parameters, mesh, reduces=in_place is not None, adds_rows=in_place is not None and reshard)

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Prepare a micro-batch, whose backward pass reduces gradients if it is the last, or if all do."""
        self.root.begin_micro_batch()
        self._reduces, self._is_last = is_last or self._reshard, is_last
        for module in self._modules:
            module.set_requires_gradient_sync(self._reduces and not (self.root.reduces and module is self._model), recurse=False)

    def end_micro_batch(self) -> None:
        """Reduce the gradients of the root parameters, if FSDP does not; free the root parameters of a frozen model."""
        if self.is_frozen:
            self._reshard_all()
            return
        go_on = self._agreements.go_on if self._agreements is not None else lambda: None
        for name, shard in self.root.take_gradients(go_on) if self._reduces else ():
            parameter = self.parameters[name]
            if parameter.grad is None:  # that of the last micro-batch may stay a view of the whole: copying it would need more memory
                parameter.grad = self.as_dtensor(name, shard if self._is_last else shard.clone())
            else:
                _local(parameter.grad).add_(shard)

    def take_gradients(self) -> dict[str, Tensor]:
        """Remove the reduced gradients from the parameters, and return this rank's shards of them."""
        gradients = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return {name: _local(gradient) for name, gradient in gradients.items()}

    def drop_micro_batch(self) -> None:
        """Clear the state that an exception in a forward or backward pass leaves, apart from parameter gradients. Local to this rank."""
        if has_begun(self._model):
            self._model.reset_iter_state()  # type: ignore[operator]
        for module in self._modules:
            for parameter in unsharded_parameters(module):
                parameter.drop_gradient()
        if self.is_frozen:
            self._reshard_all()

    def norm(self, shards: Iterable[Tensor]) -> float:
        """Return the 2-norm of all ranks' shards together, the same number on all ranks."""
        squares = torch.zeros((), dtype=torch.float64, device=self._mesh.device_type)
        for shard in shards:
            for piece in shard.reshape(-1).split(_PIECE):  # PyTorch copies the piece to float64
                squares += torch.linalg.vector_norm(piece, dtype=torch.float64).square()
        dist.all_reduce(squares, group=self._mesh.get_group(SHARDS))
        return float(squares.sqrt())

    def is_true_everywhere(self, condition: bool) -> bool:
        """Whether a condition holds on all ranks of this replica."""
        result = torch.tensor(int(condition), device=self._mesh.device_type)
        dist.all_reduce(result, dist.ReduceOp.MIN, group=self._mesh.get_group(SHARDS))
        return bool(result)

    def local(self, name: str) -> Tensor:
        """Return this rank's shard of a parameter: a view of the memory from which the model gathers."""
        return _local(self.parameters[name].detach())

    def shard_of(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's shard of a tensor that has the shape of a parameter."""
        parameter = self.parameters[name]
        assert isinstance(parameter, DTensor)
        assert whole.shape == parameter.shape, name
        whole = whole.detach().to(self._mesh.device_type)
        shard = _local(distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None))
        return shard.clone(memory_format=torch.contiguous_format)

    def as_dtensor(self, name: str, shard: Tensor) -> DTensor:
        """Return the DTensor with the shape of a parameter that consists of each rank's shard. Involves no other rank."""
        like = self.parameters[name]
        assert isinstance(like, DTensor)
        return DTensor.from_local(
            shard.detach(), like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def gather(self, name: str, shard: Tensor) -> Tensor:
        """Return the whole tensor, which has the shape of a parameter. All ranks of the replica call it together."""
        return self.as_dtensor(name, shard).full_tensor()

    @contextmanager
    def at_inference(self) -> Iterator[None]:
        """A context for forwards without gradients, of the model or of its modules, which all ranks run together. At its end all weights
        are freed: otherwise the next forward would use the gathered ones, even if the shards have changed since.
        """
        self._reshard_all()
        try:
            with self._fitting():
                self._model.unshard()  # type: ignore[operator]  # generation calls modules of the model, which do not gather the root parameters
                yield
        finally:
            self._reshard_all()

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """A context in which every rank has all weights, gathered once, and can run forwards without gradients independently."""
        self._reshard_all()
        try:
            with self._fitting():
                for module in self._modules:
                    module.set_reshard_after_forward(False, recurse=False)
                    module.unshard()
            yield
        finally:
            for module in self._modules:
                module.set_reshard_after_forward(self._reshard and module is not self._model, recurse=False)
            self._reshard_all()

    def _fitting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._agreements is None else self._agreements.fitting()

    def _reshard_all(self) -> None:
        for module in self._modules:
            module.reshard()


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        return tensor.to_local()
