"""A fault for tests: a step whose numbers are not finite, from a module of the model on."""

import math
from collections.abc import Callable
from typing import Any

import torch
from tiny_runs import After, Replaced
from torch import Tensor, nn

from tfkit.training.optimizer import Optimizer
from tfkit.training.step import Stepper


def spoil(module: str, step: int, value: float = math.nan, backward: bool = False) -> Replaced:
    """A fault: in one step, the output of a module, or the gradient that comes back to it, holds a number that is not finite."""

    def spoilt(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if backward:
            output.register_hook(lambda gradient: gradient * value)
            return output
        return output * value

    def make(accumulate: Callable[..., Any]) -> Callable[..., Any]:
        def struck(self: Stepper, now: int, *arguments: Any) -> Any:
            handle = self.model.get_submodule(module).register_forward_hook(spoilt, prepend=True) if now == step else None
            try:
                return accumulate(self, now, *arguments)
            finally:
                if handle:
                    handle.remove()

        return struck

    return Replaced(Stepper, "_accumulate", make)


def spoil_weight(update: int) -> After:
    """A fault: after this update of the optimizer, counted from 1, a weight is no longer finite."""

    def spoilt(_: None, optimizer: Optimizer, *factors: float) -> None:
        with torch.no_grad():
            optimizer.parameters["decoder.norm.weight"][0] = math.inf

    return After(Optimizer, "step", spoilt, update)
