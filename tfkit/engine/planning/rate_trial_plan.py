"""The size of a trial of learning rates: short trainings before the first step, of which the best rate is taken (engine/rate_trial.py).

In a short training a higher rate is the better one: the best falls with the length to the power of 0.32 (Bjorck et al. 2024, arXiv
2409.19913, for rates over a factor of ten of lengths). So each rate is tried as much higher as the trial is shorter than the run.
"""

import math
from dataclasses import dataclass

from tfkit.recipe.schema.sections import Recipe
from tfkit.units import format_number_of

_SHARE = 0.15  # of the FLOPs of a run that a trial may take
_CHEAP_FLOPS = 2e13  # a minute or two of a processor, which it may take in any case, but never more than the run
_FEWEST_STEPS, _MOST_STEPS, _SHORTENED = 4, 100, 6  # of each rate; a sixth of the run's is enough
_FEWEST_HELD_OUT, _MOST_HELD_OUT, _HELD_OUT_STEPS = 4, 64, 4  # rows; and at most the rows of this many steps
_HORIZON = 0.32


@dataclass(frozen=True)
class RateTrialPlan:
    """A trial: `rates`, the recipe's own first, in `steps` steps each, scored on `rows` of the training rows that are not trained on."""

    rates: tuple[float, ...]
    steps: int
    rows: int
    factor: float  # by which each rate is higher than in the run
    flops: float

    def describe(self, total_flops: float) -> str:
        """Describe what will be tried; `total_flops`: of the run, the trial included."""
        rates = ", ".join(f"{rate:g}" for rate in sorted(self.rates))
        share = self.flops / max(1.0, total_flops - self.flops)
        steps = f"{self.steps:,} steps each, scored on {self.rows:,} training rows"
        return f"learning rates are tried: {rates}, {steps}; {share:.0%} of the run's FLOPs"


@dataclass(frozen=True)
class NoTrial:
    """The reason why none of a recipe's rates is tried."""

    reason: str


def plan_trial(recipe: Recipe, rows: int, steps: int, total: float, of_step: float, of_row: float) -> RateTrialPlan | NoTrial | None:
    """Return the trial of a recipe's rates, or why there is none; None without `training.trial_rates`.

    `total`, `of_step`, `of_row`: FLOPs of the run, of one of its `steps`, and of the scoring of one of the `rows` that it trains on.
    """
    others = recipe.training.trial_rates
    if others is None:
        return None
    if recipe.parallel.shard > 1:
        return NoTrial(f"{recipe.parallel.shard} ranks share the model, which one alone may not hold")
    if steps <= _FEWEST_STEPS:
        return NoTrial(f"the run has {format_number_of(steps, 'step')}, and each rate would be tried in {_FEWEST_STEPS}")
    rates = tuple(dict.fromkeys((recipe.optimizer.lr, *others)))
    held_out = min(_MOST_HELD_OUT, _HELD_OUT_STEPS * recipe.training.batch_size, rows // 4)
    if held_out < _FEWEST_HELD_OUT:
        return NoTrial(f"a trial needs {4 * _FEWEST_HELD_OUT} rows, a quarter of them to score on, and the run trains on {rows:,}")
    most = max(_SHARE * total, min(total, _CHEAP_FLOPS))
    count = min(int((most / len(rates) - held_out * of_row) / max(1.0, of_step)), max(_FEWEST_STEPS, steps // _SHORTENED), _MOST_STEPS)
    if count < _FEWEST_STEPS:
        least = len(rates) * (_FEWEST_STEPS * of_step + held_out * of_row)
        return NoTrial(
            f"{_FEWEST_STEPS} steps of each of {len(rates)} would take {100 * least / total:.3g}% of the run's FLOPs, and a trial may "
            f"take {100 * most / total:.3g}%"
        )
    factor = math.pow(steps / count, _HORIZON)
    return RateTrialPlan(rates, count, held_out, factor, len(rates) * (count * of_step + held_out * of_row))


def with_rate(recipe: Recipe, lr: float) -> Recipe:
    """Return the recipe with this rate, and none to try."""
    optimizer, training = recipe.optimizer.model_copy(update={"lr": lr}), recipe.training.model_copy(update={"trial_rates": None})
    return recipe.model_copy(update={"optimizer": optimizer, "training": training})
