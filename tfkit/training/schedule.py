"""Learning-rate schedules: the factor of optimizer.lr, a pure function of the step.

The decay of linear, cosine and wsd depends on the number of rows read so far (in GPT-3: of tokens), which is proportional to the step if
the batch size is constant.
"""

import math
from dataclasses import dataclass, field

from tfkit.data.order.loader import BatchSizes
from tfkit.recipe.schema.optimizer_sections import ScheduleSection


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run of `steps` steps. `sizes`: rows of each batch; `mean_tokens`: mean tokens per row; `dim`: the model's width."""

    section: ScheduleSection
    steps: int
    sizes: BatchSizes = field(default_factory=lambda: BatchSizes(1))
    mean_tokens: float = 1.0
    dim: int = 1

    def factor(self, step: int) -> float:
        """Return the factor for step 1 to `steps`: a linear warm-up, then the curve of schedule.kind; noam has one formula for both."""
        section, warmup = self.section, self._stated_warmup
        if section.kind == "noam":  # arXiv 1706.03762, section 5.3: the formula itself, whose peak is not 1
            return min(1 / math.sqrt(step), step / (warmup * math.sqrt(warmup))) / math.sqrt(self.dim)
        if section.warmup_tokens is not None:
            rows, warmup_rows = self.sizes.before(step), self._warmup_rows
            if rows < warmup_rows:
                return rows / warmup_rows
        elif step <= warmup:
            return step / warmup
        match section.kind:
            case "constant":
                return 1.0
            case "inverse_sqrt":
                end = warmup if section.warmup_tokens is None else self.sizes.steps(section.warmup_tokens / self.mean_tokens)
                return min(1.0, math.sqrt(max(end, section.flat_steps, 1) / step))
            case "linear":
                return _between(1.0 - self._progress(step, self._warmup_rows), section.final_ratio)
            case "cosine":  # arXiv 1608.03983, without restarts
                return _between(0.5 * (1.0 + math.cos(math.pi * self._progress(step, self._warmup_rows))), section.final_ratio)
            case "wsd":  # warm-up, stable, decay: arXiv 2404.06395; the decay is linear, as in SmolLM2
                begin = max(self._warmup_rows, self.sizes.before(self.steps - round(section.decay_ratio * self.steps)))
                return _between(1.0 - self._progress(step, begin), section.final_ratio) if self.sizes.before(step) > begin else 1.0

    @property
    def misfit(self) -> str | None:
        """A warning if the warm-up ends after the run, or after the end of the decay; else None."""
        rows = self.sizes.before(self.steps)
        if self._warmup_rows > rows:
            return f"the warm-up is longer than the run of {self.steps} steps: the learning rate never reaches its peak"
        if self._warmup_rows > self.section.decay_end * rows:
            return f"the warm-up ends after schedule.decay_end of the {self.steps} steps: the learning rate drops from its peak in one step"
        return None

    @property
    def _stated_warmup(self) -> int:
        """The number of warm-up steps according to warmup_steps or warmup_ratio."""
        ratio = self.section.warmup_ratio
        return self.section.warmup_steps if ratio is None else math.ceil(ratio * self.steps)

    @property
    def _warmup_rows(self) -> float:
        """The number of rows that the warm-up reads; fractional if the recipe states the warm-up in tokens."""
        if self.section.warmup_tokens is None:
            return self.sizes.before(self._stated_warmup)
        return self.section.warmup_tokens / self.mean_tokens

    def _progress(self, step: int, begin: float) -> float:
        """Return the progress of the decay after `step`: 0 at `begin` rows, 1 at the end of the decay."""
        end = self.section.decay_end * self.sizes.before(self.steps)
        return 1.0 if end <= begin else min(1.0, max(0.0, (self.sizes.before(step) - begin) / (end - begin)))


def _between(fraction: float, low: float) -> float:
    """Interpolate from `low` (fraction 0) to 1 (fraction 1)."""
    return low + (1.0 - low) * fraction
