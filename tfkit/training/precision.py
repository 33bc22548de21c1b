"""Mixed precision: fp32 master weights, which the optimizer updates, and working weights in the run's precision, used by the model.

In bf16, an update smaller than 1/512 of a weight would be lost to rounding; the master weights keep it. During the backward pass, the
gradient of each working weight is moved to its master weight, one parameter at a time, so that there is never a second full set of
gradients. The gradient of the first micro-batch stays in bf16 (from torch 2.10 on); with the second one, summing in fp32 begins.

With ema_decay, there is also a moving average in fp32 of the master weights over the steps, which is then the result of the run.

A frozen parameter has an fp32 master weight only if checkpoints hold the whole model. A frozen parameter is its own moving average.

If weights are sharded, the master weights and the moving average are this rank's shards; working weights are rounded when gathered.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tfkit.parallel.sharding import Sharding

HOLDS_NARROW_GRADIENTS = hasattr(torch.Tensor, "grad_dtype")  # a gradient may have another type than its parameter: torch 2.10 and later
_PART = 2**19  # elements of a bf16 gradient that are converted to fp32 at a time, for its norm on a CPU


class Weights:
    """The master and the working weights of a model; in fp32 they are the same tensors.

    With `ema_decay`, also `mean`, the moving average of the master weights: after step t, the sum of decay^(t - i) master_i over the steps
    i = 1 ... t, divided by the sum of the decay^(t - i). The initial weights thus do not contribute. Skipped steps do not count.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, ema_decay: float | None = None, *, whole: bool = True):
        """`whole`: keep frozen parameters in fp32, too. False saves memory if checkpoints do not hold them, as with an adapter."""
        self.dtype, self.ema_decay = dtype, ema_decay
        self.mean: dict[str, Tensor] = {}  # by parameter; empty before the first step, or without `ema_decay`
        self.mean_steps = 0  # the number of steps in the mean
        self.gradient_factor = 1.0  # the next update multiplies gradients by this, so that clipping needs no pass of its own over them
        self.working = dict(model.named_parameters())
        self._trained = [name for name, parameter in self.working.items() if parameter.requires_grad]
        self.sharding: Sharding | None = None
        if dtype == torch.float32:
            self.master = self.working
            return
        self.master = {}
        for name, parameter in self.working.items():
            if not (parameter.requires_grad or whole):
                parameter.data = parameter.data.to(dtype)
                self.master[name] = parameter
                continue
            self.master[name] = nn.Parameter(parameter.data, parameter.requires_grad)
            parameter.data = parameter.data.to(dtype)
            if parameter.requires_grad:
                if HOLDS_NARROW_GRADIENTS:
                    self.master[name].grad_dtype = None  # the gradient may have any type
                parameter.register_post_accumulate_grad_hook(_move_gradient_to_master(self.master[name]))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The master weights of the parameters that were not frozen when this object was created."""
        return {name: self.master[name] for name in self._trained}

    @property
    def result(self) -> dict[str, Tensor]:
        """The weights for evaluations and checkpoints: the moving average if there is one, else the master weights."""
        return self.mean or dict(self.master)

    def unround(self) -> None:
        """Make the model compute with the master weights themselves, as is required before they are sharded."""
        for name, parameter in self.working.items():
            parameter.data = self.master[name].data

    def shard(self, sharding: "Sharding") -> None:
        """Replace the master weights by this rank's shards, which share memory with the model's parameters. Called after `unround`, before
        the first step.
        """
        self.sharding, self.working = sharding, sharding.parameters
        self.master = {name: nn.Parameter(sharding.local(name), one.requires_grad) for name, one in self.working.items()}

    def take_gradients(self) -> None:
        """Move this rank's shards of the gradients from the model's parameters to the master weights; without sharding, do nothing."""
        for name, gradient in (self.sharding.take_gradients() if self.sharding is not None else {}).items():
            self.master[name].grad = gradient

    def clip_gradients(self, limit: float | None) -> float:
        """Return the 2-norm of the whole gradient. If it exceeds `limit`, the next update scales the gradient down to a norm of `limit`."""
        grads = [parameter.grad for parameter in self.master.values() if parameter.grad is not None]
        norm = _norm(grads) if self.sharding is None else self.sharding.norm(grads)
        self.gradient_factor = limit / norm if limit is not None and math.isfinite(norm) and norm > limit else 1.0
        return norm

    def drop_gradients(self) -> None:
        """Discard the gradients of an abandoned step."""
        for parameter in (*self.master.values(), *self.working.values()):
            parameter.grad = None

    def after_step(self) -> None:
        """Update the working weights and the moving average, after the optimizer has updated the master weights."""
        self.sync_working_weights()
        if self.ema_decay is not None:
            self._average(self.ema_decay)

    def use_latest(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model computes with the latest weights. If these are sharded, all ranks must run the same passes."""
        return contextlib.nullcontext() if self.sharding is None else self.sharding.at_inference()

    def use_result(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model computes with `result`."""
        if self.sharding is not None:
            return self._shared_result(self.sharding)
        return _in_place(self.working, {name: self.mean[name].to(self.dtype) for name in self.trained} if self.mean else {})

    def use_unrounded_result(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model computes in fp32 with `result`, as if loaded from a checkpoint.

        If frozen parameters have no fp32 master, as with an adapter, this is the same as `use_result`: fp32 copies would need much memory.
        """
        assert self.sharding is None or self.dtype == torch.float32, "sharded weights are rounded when they are gathered"
        result = self.result
        if self.sharding is not None or any(tensor.dtype != torch.float32 for tensor in result.values()):
            return self.use_result()
        return _in_place(self.working, result)

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether every weight is finite. With sharded weights, all ranks call this together."""
        own = all(bool(parameter.isfinite().all()) for parameter in self.master.values())
        return own if self.sharding is None else self.sharding.is_true_everywhere(own)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load saved fp32 weights of trained parameters (if sharded, this rank's part). Frozen parameters were loaded with the model."""
        for name, parameter in self.trained.items():
            parameter.copy_(self._own(name, tensors[name]))
        self.sync_working_weights()

    def load_mean(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Load a saved moving average over `steps` steps, in the same way as `load`."""
        self.mean = {name: parameter.detach() for name, parameter in self.master.items()}
        self.mean |= {name: self._own(name, tensors[name]).to(one.device, torch.float32, copy=True) for name, one in self.trained.items()}
        self.mean_steps = steps

    def _own(self, name: str, whole: Tensor) -> Tensor:
        return whole if self.sharding is None else self.sharding.shard_of(name, whole)

    @torch.no_grad()
    def sync_working_weights(self) -> None:
        """Set the working weights to the rounded master weights."""
        if self.master is not self.working and self.sharding is None:
            trained = self.trained
            torch._foreach_copy_([self.working[name] for name in trained], list(trained.values()))

    @contextlib.contextmanager
    def _shared_result(self, sharding: "Sharding") -> Iterator[None]:
        """Implement `use_result` for sharded weights: in the block, the master weights, from which the model gathers, hold the result."""
        latest = {name: self.master[name].detach().clone() for name in self.trained} if self.mean else {}
        for name in latest:
            self.master[name].data.copy_(self.mean[name])
        try:
            with sharding.at_inference():
                yield
        finally:
            for name, tensor in latest.items():
                self.master[name].data.copy_(tensor)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        self.mean_steps += 1
        if not self.mean:
            self.mean = {name: parameter.detach() for name, parameter in self.master.items()}
            self.mean |= {name: parameter.detach().clone() for name, parameter in self.trained.items()}
            return
        weight = (1 - decay) / (1 - decay**self.mean_steps)  # the coefficient of the latest weights; the coefficients of all steps sum to 1
        trained = self.trained
        torch._foreach_lerp_([self.mean[name] for name in trained], [parameter.data for parameter in trained.values()], weight)


@contextlib.contextmanager
def _in_place(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, replace the data of parameters by the tensors of the same names."""
    before = {name: parameters[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            parameters[name].data = tensor.detach()
        yield
    finally:
        for name, data in before.items():
            parameters[name].data = data


def _norm(grads: Sequence[Tensor]) -> float:
    """Return the 2-norm of all gradients together, in fp32. On a CPU, bf16 gradients are converted in parts, faster than by torch."""
    narrow = [grad for grad in grads if grad.dtype != torch.float32 and grad.device.type == "cpu"]
    others = [grad for grad in grads if grad.dtype == torch.float32 or grad.device.type != "cpu"]
    norms = [*torch._foreach_norm(others, 2, torch.float32)] if others else []
    norms += [part.float().square_().sum().sqrt_() for grad in narrow for part in grad.flatten().split(_PART)]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def _move_gradient_to_master(master: nn.Parameter) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad if HOLDS_NARROW_GRADIENTS else parameter.grad.float()
        else:
            master.grad = master.grad.float().add_(parameter.grad)
        parameter.grad = None

    return hook
