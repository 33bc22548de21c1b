"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): no first moment, and R + C numbers for the second moment of an R x C matrix.

The recipe's defaults are T5's settings. The updates equal those of `transformers.optimization.Adafactor` with relative_step=False; the
rate that it computes with relative_step=True, 1 / sqrt(max(step, 10000)), is lr 0.01 with schedule inverse_sqrt and flat_steps 10000.
torch.optim.Adafactor differs: it bounds every learning rate by 1 / sqrt(step), and adds epsilon in other places than the paper. T5's own
code does not factor the second moment of matrices with a side below 128; this code factors those, too.
"""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from tfkit.recipe.schema.optimizer_sections import AdafactorSection


class Adafactor:
    """The optimizer. State of a matrix: `step`, and `row` (..., R) and `column` (..., C), moving averages of the squared gradient's mean
    over columns and over rows. State of a vector: `step`, and `second`, the moving average of the squared gradient. Scalars such as
    `step` are tensors, too, so that an update never waits for the device.
    """

    def __init__(self, groups: list[dict[str, Any]], section: AdafactorSection):
        """`groups`: parameter groups as in torch.optim, with params, lr and weight_decay."""
        self.param_groups, self._section = groups, section
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """Update a parameter: a matrix by algorithm 4 of the paper, a vector by algorithm 5."""
        section, state = self._section, self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=grad.device)
            shapes = {"row": grad.shape[:-1], "column": grad.shape[:-2] + grad.shape[-1:]} if grad.dim() > 1 else {"second": grad.shape}
            state |= {name: grad.new_zeros(shape) for name, shape in shapes.items()}
        state["step"] += 1
        fraction = state["step"] ** -section.decay_rate  # the weight of the new squared gradient in moving averages: 1 in the first step
        squared = grad.square().add_(section.eps)
        if grad.dim() > 1:
            row, column = state["row"], state["column"]
            row.lerp_(squared.mean(dim=-1), fraction)
            column.lerp_(squared.mean(dim=-2), fraction)
            update = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1) * column.rsqrt().unsqueeze(-2)  # (..., R, C)
        else:
            update = state["second"].lerp_(squared, fraction).rsqrt()
        update.mul_(grad)
        update.div_((_rms(update) / section.clip_threshold).clamp_(min=1.0))
        rate: float | Tensor = group["lr"]
        if section.scale_parameter:
            rate = _rms(parameter).clamp_(min=section.min_scale) * rate
        if group["weight_decay"]:
            parameter.mul_(1 - group["weight_decay"] * rate)
        parameter.sub_(update.mul_(rate))


def _rms(tensor: Tensor) -> Tensor:
    """Return the root mean square of all entries."""
    norm: Tensor = torch.linalg.vector_norm(tensor)
    return norm / math.sqrt(tensor.numel())
