"""The report of a step, and the signs of an unhealthy step: a loss or gradient that is not finite, or a loss that jumps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfkit.errors import UnhealthyError

_WINDOW = 32  # the exponentially weighted mean and variance of the loss cover about this many steps
_MIN_STEPS = 10  # a jump is detected only after this many steps


@dataclass(frozen=True)
class StepReport:
    """The result of one step. `losses`: for each term of the loss, its mean over its targets; `loss`: the weighted sum of these means.

    `observed`: the objective's observations (numbers that are logged, not trained on) that are means; `largest`: those that are maxima.
    `grad_norm`, `companion_norms`: the 2-norm of the gradient before clipping, of the run's model and of each companion (another model of
    the objective) that the step trains.
    """

    loss: float
    losses: dict[str, float]
    grad_norm: float
    lr: float
    tokens: int  # tokens without padding that the step read on all ranks, including those of a decoder
    observed: Mapping[str, float] = field(default_factory=dict)
    largest: Mapping[str, float] = field(default_factory=dict)
    companion_norms: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """Whether the loss and the gradients of all models are finite."""
        return all(map(math.isfinite, (self.loss, self.grad_norm, *self.companion_norms.values())))

    @property
    def all_observed(self) -> dict[str, float]:
        """The values of `observed`, and the gradient norm of each companion as `<name>_grad_norm`."""
        return {**self.observed, **{f"{name}_grad_norm": norm for name, norm in self.companion_norms.items()}}


@dataclass
class LossHistory:
    """Mean and variance of the latest losses, exponentially weighted (West 1979, "Updating Mean and Variance Estimates")."""

    steps: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def add(self, loss: float) -> None:
        """Add the loss of a step that was taken, not skipped."""
        self.steps += 1
        weight = max(1 / self.steps, 1 / _WINDOW)
        difference = loss - self.mean
        self.mean += weight * difference
        self.variance = (1 - weight) * (self.variance + weight * difference**2)

    def highest(self, sigmas: float | None) -> float:
        """Return the highest loss that does not count as a jump: infinity after fewer than _MIN_STEPS steps, or if `sigmas` is None."""
        if sigmas is None or self.steps < _MIN_STEPS:
            return math.inf
        return self.mean + sigmas * math.sqrt(self.variance)


class UnhealthyStepError(UnhealthyError):
    """Error for an unhealthy step, which did not update the weights. `report`: the values that the step computed."""

    def __init__(self, step: int, report: StepReport, highest_loss: float):
        self.step, self.report = step, report
        if report.is_finite:
            problem = f"the loss jumps to {report.loss:.4g}, over the {highest_loss:.4g} that training.loss_jump_sigmas allows"
        else:
            norms = "".join(f", that of the {name} {norm:g}" for name, norm in report.companion_norms.items())
            problem = f"the loss is {report.loss:g} and the gradient's norm {report.grad_norm:g}{norms}"
        self.summary = f"step {step}: {problem}"
        super().__init__(
            f"{self.summary}; no weight was changed by this step. "
            "A lower optimizer.lr, a longer schedule.warmup_steps, or training.precision: fp32 are the usual remedies; "
            "training.max_skipped_steps lets a run skip a few such steps"
        )
