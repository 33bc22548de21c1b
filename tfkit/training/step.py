"""One optimizer step over its micro-batches, by the objective's sums and counts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tfkit.errors import UnhealthyError
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights


@dataclass(frozen=True)
class StepReport:
    """What one step did. `losses`: each term's mean over its targets; `loss`: their weighted sum."""

    loss: float
    losses: dict[str, float]
    grad_norm: float
    lr: float
    tokens: int  # positions that went through the model


class Stepper:
    """Takes steps: forward and backward of each micro-batch, then clip, check, update."""

    def __init__(
        self, model: Transformer, objective: Objective, weights: Weights, optimizer: Optimizer, *, device: torch.device, seed: int
    ):
        self.model, self.objective, self.weights, self.optimizer = model, objective, weights, optimizer
        self.device, self.seed = device, seed

    def take(self, step: int, batches: Sequence[Batch], lr_factor: float) -> StepReport:
        """Step number `step` (from 1). Raises UnhealthyError before anything is updated if the loss or the gradient is not finite."""
        counts = _add_up(self.objective.counts(batch) for batch in batches)
        if not all(counts.values()):
            empty = ", ".join(term for term, count in counts.items() if not count)
            raise UnhealthyError(f"step {step}: no token has a target for {empty}: there is nothing to learn from")
        self.model.train()
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            # Dropout is a function of (seed, step, micro-batch): a resumed run draws what the unbroken one would have drawn.
            torch.manual_seed(int(np.random.SeedSequence([self.seed, step, index]).generate_state(1, np.uint64)[0] >> 1))
            losses = self.objective.loss(self.model, batch.to(self.device))
            torch.stack([losses[term] * (weight / counts[term]) for term, weight in self.objective.terms.items()]).sum().backward()
            for term, value in losses.items():
                sums[term] = sums[term] + value.detach() if term in sums else value.detach()
        means = {term: float(value) / counts[term] for term, value in sums.items()}
        loss = sum(weight * means[term] for term, weight in self.objective.terms.items())
        grad_norm = self._clip()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise UnhealthyError(
                f"step {step}: the loss is {loss:g} and the gradient's norm {grad_norm:g}; no weight was changed by this step. "
                "A lower optimizer.lr, a longer schedule.warmup_steps, or precision: fp32 are the usual remedies"
            )
        self.optimizer.step(lr_factor)
        self.weights.publish()
        return StepReport(loss, means, grad_norm, self.optimizer.section.lr * lr_factor, sum(b.input_ids.numel() for b in batches))

    def _clip(self) -> float:
        """The 2-norm of the whole gradient; longer than clip_norm, it is scaled down to it."""
        grads = [parameter.grad for parameter in self.weights.master.values() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
        limit = self.optimizer.section.clip_norm
        if limit is not None and math.isfinite(norm) and norm > limit:
            torch._foreach_mul_(grads, limit / norm)
        return norm


def _add_up(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for found in counts:
        for term, count in found.items():
            total[term] = total.get(term, 0) + count
    return total
