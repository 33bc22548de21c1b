"""The size of a learning rate trial: short trainings before the first step, which choose the best of several rates (rate_trial.py).

The optimal rate of a shorter training is higher: it falls with the number of tokens to the power of 0.32 (Bjorck et al. 2024, arXiv
2409.19913, for lengths within a factor of ten). So the trial raises each rate according to how much shorter it is than the run.
"""

import math
from dataclasses import dataclass

from tfkit.recipe.schema.sections import Recipe
from tfkit.units import format_number_of

_MAX_FRACTION = 0.15  # of the run's FLOPs that a trial may take
_CHEAP_FLOPS = 2e13  # a minute or two on a processor: allowed up to half of the FLOPs of the run
_MIN_STEPS, _MAX_STEPS, _SHORTENING = 4, 100, 6  # steps per rate; at most a sixth of the run's
_MIN_HELD_OUT, _MAX_HELD_OUT, _HELD_OUT_STEPS = 4, 64, 4  # rows; and at most the rows of this many steps
_MANY_HELD_OUT = 256  # rows, where an F1 decides: of rare classes there are only a few among 64
_EXPONENT = 0.32


RARE_METRICS = ("f1", "f1_macro")  # by which a run is judged whose classes are unequal


@dataclass(frozen=True)
class RateTrialPlan:
    """A trial of `rates`, the recipe's own first, for `steps` steps each, scored on `rows` held out of the training rows."""

    rates: tuple[float, ...]
    steps: int
    rows: int
    factor: float  # by which each rate is multiplied in the trial
    flops: float

    def describe(self, total_flops: float) -> str:
        """Describe the trial; `total_flops`: of the run, the trial included."""
        rates = ", ".join(f"{rate:g}" for rate in sorted(self.rates))
        fraction = self.flops / max(1.0, total_flops - self.flops)
        steps = f"{self.steps:,} steps each, scored on {self.rows:,} training rows"
        return f"learning rates are tried: {rates}, {steps}; {fraction:.0%} of the run's FLOPs"


@dataclass(frozen=True)
class NoTrial:
    """The reason why a recipe's rates are not tried."""

    reason: str


def plan_trial(
    recipe: Recipe, rows: int, steps: int, run_flops: float, step_flops: float, row_flops: float
) -> RateTrialPlan | NoTrial | None:
    """Return the trial of a recipe's rates, or why there is none; None without `training.trial_rates`.

    `run_flops`, `step_flops`, `row_flops`: of the run, of each of its `steps`, and for scoring each of the `rows` that it trains on.
    """
    others = recipe.training.trial_rates
    if others is None:
        return None
    if recipe.parallel.shard > 1:
        return NoTrial(f"the model is sharded over {recipe.parallel.shard} ranks, and a trial on one rank might run out of memory")
    if steps <= _MIN_STEPS:
        return NoTrial(f"the run has {format_number_of(steps, 'step')}, and each rate would be tried for {_MIN_STEPS}")
    rates = tuple(dict.fromkeys((recipe.optimizer.lr, *others)))
    most = min(_MAX_HELD_OUT, _HELD_OUT_STEPS * recipe.training.batch_size)
    held_out = min(_MANY_HELD_OUT if recipe.evaluation.metric in RARE_METRICS else most, rows // 4)
    if held_out < _MIN_HELD_OUT:
        return NoTrial(f"a trial needs {4 * _MIN_HELD_OUT} rows, a quarter of them to score on, and the run trains on {rows:,}")
    budget = max(_MAX_FRACTION * run_flops, min(run_flops / 2, _CHEAP_FLOPS))
    affordable = int((budget / len(rates) - held_out * row_flops) / max(1.0, step_flops))
    count = min(affordable, max(_MIN_STEPS, steps // _SHORTENING), _MAX_STEPS)
    if count < _MIN_STEPS:
        minimum = len(rates) * (_MIN_STEPS * step_flops + held_out * row_flops)
        return NoTrial(
            f"{_MIN_STEPS} steps for each of {len(rates)} rates would take {100 * minimum / run_flops:.3g}% of the run's FLOPs, and a "
            f"trial may take {100 * budget / run_flops:.3g}%"
        )
    factor = math.pow(steps / count, _EXPONENT)
    return RateTrialPlan(rates, count, held_out, factor, len(rates) * (count * step_flops + held_out * row_flops))
