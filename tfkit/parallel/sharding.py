"""Sharded weights (ZeRO-3, arXiv 1910.02054), by PyTorch's fully_shard.

Each rank holds some rows of every parameter, and of the parameter's gradient and optimizer state. The weights of a block are gathered for
the block's forward and backward pass; embeddings, final norm and head stay gathered from the forward to the end of the backward pass.
Gradients are summed in fp32 and not averaged, since the loss is already divided by counts over all ranks (of tokens, for example).

With a two-dimensional mesh, there are several replicas of the shards (HSDP), whose gradients are summed, too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

REPLICAS, SHARDS = "replicas", "shards"  # names of the mesh dimensions
CAN_REPEAT = hasattr(FSDPModule, "reset_iter_state")  # whether a failed forward or backward pass can be repeated (PyTorch >= 2.13)
_PIECE = 1 << 20  # the largest number of elements that are converted to float64 at the same time


def open_mesh(device: torch.device, ranks: int, shards: int) -> DeviceMesh:
    """Return a mesh of replicas x shards: the ranks of a row together hold one copy of the weights, those of a column the same shard.

    With a single replica, the mesh has only the dimension of the shards. `shards`: the number of shards of a copy.
    """
    if ranks == shards:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=(SHARDS,))
    return init_device_mesh(device.type, (ranks // shards, shards), mesh_dim_names=(REPLICAS, SHARDS))


@dataclass(frozen=True)
class OomAgreement:
    """The functions by which all ranks raise an error if one of them runs out of memory, so that the others do not wait for it.

    `go_on` is called before each collective of FSDP, and raises an error if another rank has run out of memory. `fitting` encloses forward
    passes without gradients, and reports this rank's lack of memory to the others.
    """

    go_on: Callable[[], None]
    fitting: Callable[[], AbstractContextManager[None]]


class AgreedCollective:
    """A collective that first calls `go_on`. It implements FSDP's protocols `AllGather` and `ReduceScatter`."""

    def __init__(self, collective: Callable[..., Any], go_on: Callable[[], None]):
        self._collective, self._go_on = collective, go_on

    def allocate(self, size: Iterable[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Allocate the buffer of the collective."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, **options: Any) -> Any:
        """Run the collective, which fills `output_tensor`."""
        self._go_on()
        return self._collective(output_tensor, input_tensor, group=group, **options)


class Sharding:
    """A sharded model: its parameters are DTensors, of which each rank holds one shard."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, nn.Module],
        mesh: DeviceMesh,
        dtype: torch.dtype,
        *,
        root: nn.Module,
        reshard: bool,
        agreement: OomAgreement | None,
        fill: Callable[[str, nn.Module], None] | None = None,
    ):
        """Shard the model, block by block.

        `blocks`: by the prefix of their parameters' names. `fill` initializes a block just before it is sharded; None: all blocks have
        their weights already. `dtype`: that of the gathered weights. `root`: the module whose forward reads the parameters outside the
        blocks: the model itself, or a module around it that also computes the loss. `reshard`: free the weights of a block after its
        forward, and reduce gradients after every micro-batch; otherwise, keep the weights for the backward pass, and reduce gradients once
        per step. `agreement`; None: only a rank that lacks memory raises an error, as on GPUs, which would wait at each collective.
        """
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # True would also convert the tables of rotary positions to `dtype`
        )
        for name, block in blocks.items():
            if fill is not None:
                fill(name, block)
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        self._root: FSDPModule = fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self._mesh, self._reshard, self._agreement = mesh, reshard, agreement
        self._modules = [module for module in root.modules() if isinstance(module, FSDPModule)]
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            if agreement is not None:
                module.set_custom_all_gather(AgreedCollective(dist.all_gather_single, agreement.go_on))  # type: ignore[arg-type]
                module.set_custom_reduce_scatter(AgreedCollective(dist.reduce_scatter_single, agreement.go_on))  # type: ignore[arg-type]
        self.parameters = dict(model.named_parameters())
        self.is_frozen = not any(parameter.requires_grad for parameter in self.parameters.values())
        # A loss that depends on no parameter, but whose backward pass makes FSDP reduce gradients and end its step.
        root.empty_pass = lambda: torch.zeros((), requires_grad=True)  # type: ignore[assignment]
        register_fsdp_forward_method(root, "empty_pass")
        self._empty_pass: Callable[[], Tensor] = root.empty_pass  # type: ignore[assignment]
        with self._fitting():
            self._empty_pass()  # makes `root` the root of FSDP, which takes the first module that is called
        self._reshard_all()

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Prepare a micro-batch. Its backward pass reduces gradients if it is the step's last or `reshard` is set."""
        self._root.set_requires_gradient_sync(is_last or self._reshard)

    def end_micro_batch(self) -> None:
        """If the model is frozen, free its gathered parameters outside the blocks, since no backward pass frees them."""
        if self.is_frozen:
            self._reshard_all()

    def take_gradients(self) -> dict[str, Tensor]:
        """Remove the reduced gradients from the parameters, and return this rank's shards of them."""
        gradients = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return {name: _local(gradient) for name, gradient in gradients.items()}

    def drop_micro_batch(self) -> None:
        """Clear the state that an exception in a forward or backward pass leaves behind, except the parameters' gradients.

        All ranks call this method together, since it runs a backward pass, in which FSDP reduces the unsharded gradients that it still has.
        """
        if CAN_REPEAT:
            self._root.reset_iter_state()
            if not self.is_frozen:
                self._root.set_requires_gradient_sync(True)
                self._root.set_reduce_scatter_unused_params(True)  # ranks may have gradients of different parameters
                self._empty_pass().backward()
                self._root.set_reduce_scatter_unused_params(False)
        self._reshard_all()

    def norm(self, shards: Iterable[Tensor]) -> float:
        """Return the 2-norm of the shards on all ranks of a replica together, the same number on all ranks."""
        squares = torch.zeros((), dtype=torch.float64, device=self._mesh.device_type)
        for shard in shards:
            for piece in shard.reshape(-1).split(_PIECE):  # in pieces, since PyTorch copies its argument to float64
                squares += torch.linalg.vector_norm(piece, dtype=torch.float64).square()
        dist.all_reduce(squares, group=self._mesh.get_group(SHARDS))
        return float(squares.sqrt())

    def is_true_everywhere(self, condition: bool) -> bool:
        """Whether `condition` is true on all ranks that together hold this copy of the weights (the replica)."""
        result = torch.tensor(int(condition), device=self._mesh.device_type)
        dist.all_reduce(result, dist.ReduceOp.MIN, group=self._mesh.get_group(SHARDS))
        return bool(result)

    def local(self, name: str) -> Tensor:
        """Return this rank's shard of a parameter: a view of the memory from which FSDP gathers the weights."""
        return _local(self.parameters[name].detach())

    def shard_of(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's shard of the tensor `whole`, which has the shape of the parameter `name`."""
        parameter = self.parameters[name]
        assert isinstance(parameter, DTensor)
        assert whole.shape == parameter.shape, name
        whole = whole.detach().to(self._mesh.device_type)
        shard = _local(distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None))
        return shard.clone(memory_format=torch.contiguous_format)

    def as_dtensor(self, name: str, shard: Tensor) -> DTensor:
        """Return a DTensor with the shape of the parameter `name`, of which `shard` is this rank's part. Nothing is communicated."""
        like, local = self.parameters[name], shard.detach()
        assert isinstance(like, DTensor)
        return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())

    def gather(self, name: str, shard: Tensor) -> Tensor:
        """Return the whole tensor, shaped as the parameter `name`, of which `shard` is a part. All ranks of the replica call this."""
        return self.as_dtensor(name, shard).full_tensor()

    @contextmanager
    def at_inference(self) -> Iterator[None]:
        """A context for forward passes without gradients, of the model or of its modules, which all ranks run together.

        When it ends, the gathered weights are freed; otherwise the next forward would use them even if the shards have changed.
        """
        self._reshard_all()
        try:
            with self._fitting():
                self._root.unshard()  # generation calls modules, not the root, whose forward would gather its parameters
                yield
        finally:
            self._reshard_all()

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """A context in which every rank has all weights, gathered once, and can run forward passes without gradients independently."""
        self._reshard_all()
        try:
            with self._fitting():
                for module in self._modules:
                    module.set_reshard_after_forward(False, recurse=False)
                    module.unshard()
            yield
        finally:
            for module in self._modules:
                module.set_reshard_after_forward(self._reshard and module is not self._root, recurse=False)
            self._reshard_all()

    def _fitting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._agreement is None else self._agreement.fitting()

    def _reshard_all(self) -> None:
        for module in self._modules:
            module.reshard()


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        return tensor.to_local()
