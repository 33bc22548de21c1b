"""Two copies of the weights: an fp32 master that the optimizer steps, and the working copy that the model computes with.

In bf16 a step smaller than 1/256 of a weight would be rounded away; the master keeps it. The gradients of the working copy go over to
the master as the backward pass makes them, one parameter at a time, so that they are added up over micro-batches in fp32 and there is
never a whole second set of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Weights:
    """The master and the working copy of a model's parameters; in float32 they are the same tensors."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self.dtype = dtype
        self.working = dict(model.named_parameters())
        if dtype == torch.float32:
            self.master = self.working
            return
        self.master = {}
        for name, parameter in self.working.items():
            self.master[name] = nn.Parameter(parameter.data)
            parameter.data = parameter.data.to(dtype)
            parameter.register_post_accumulate_grad_hook(_hand_over(self.master[name]))

    @torch.no_grad()
    def publish(self) -> None:
        """Round the master to the working copy, after the optimizer has stepped it."""
        if self.master is not self.working:
            torch._foreach_copy_(list(self.working.values()), list(self.master.values()))

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(parameter.isfinite().all()) for parameter in self.master.values())

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up saved fp32 weights."""
        for name, parameter in self.master.items():
            parameter.copy_(tensors[name])
        self.publish()


def _hand_over(master: nn.Parameter) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return hook
