"""A trial of a few learning rates before the first step: each in a short training, scored on rows that are held out of the training rows.

The validation rows are not used. As in the run itself, everything is a function of the recipe, its data and the threads; the energy is a
separate phase of the ledger. A run that continues from a checkpoint has the rate in its recipe, and tries none.
"""

import gc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tfkit.data import Loader
from tfkit.data.order.draws import permutation
from tfkit.data.order.part_of_rows import RowSubset
from tfkit.engine.components import assemble, first_model
from tfkit.engine.listener import Listener, Silent
from tfkit.engine.micro_batches import MicroBatches
from tfkit.engine.planning.rate_trial_plan import RateTrialPlan, with_rate
from tfkit.engine.training_data import TrainingData
from tfkit.errors import Stopped
from tfkit.evaluation.row_scores import score_rows
from tfkit.objectives.registry import open_rows
from tfkit.parallel.deal import BatchWork
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import allow_nondeterministic, is_nondeterministic, keep_freed_memory, make_deterministic
from tfkit.training.health import UnhealthyStepError
from tfkit.training.loop import fit

_CLEAR = 0.05  # fraction of the loss by which another rate has to be better: less is the noise of so short a training
_DRAW = 0x7261746573  # with the seed, draws the rows that are held out
_STOPPED = "stopped while learning rates were tried; no step was taken yet"


def try_rates(
    recipe: Recipe, data: TrainingData, plan: RateTrialPlan, device: torch.device, listener: Listener, should_stop: Callable[[], bool]
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe with the best rate, and the trial's entry in run.json. Raises Stopped.

    The recipe's own rate is kept unless the loss of another is lower by a twentieth.
    """
    make_deterministic(device)
    keep_freed_memory()
    losses: dict[float, float] = {}
    with listener.progress("trying learning rates", plan.steps * len(plan.rates), "steps") as bar:
        for rate in plan.rates:
            losses[rate] = _trial_loss(_trial_recipe(recipe, plan, rate), data, plan, device, listener, should_stop, bar.advance)
            gc.collect()  # the model and its optimizer, before the next trial
    own = recipe.optimizer.lr
    best = min(losses, key=lambda rate: losses[rate])
    chosen = best if losses[best] < (1 - _CLEAR) * losses[own] or not math.isfinite(losses[own]) else own
    shown = ", ".join(f"{rate:g} {losses[rate]:.4g}" for rate in sorted(losses))
    why = "the best" if chosen == best else f"{best:g} is not clearly better"
    listener.decided(
        f"learning rates tried in {plan.steps:,} steps each, {plan.factor:.2g} times higher since these are few, and their loss on "
        f"{plan.rows:,} rows held out of the training rows: {shown}. Chosen: {chosen:g} ({why})\n"
    )
    facts = {"losses": {f"{rate:g}": loss if math.isfinite(loss) else None for rate, loss in losses.items()}, "lr": chosen}
    return with_rate(recipe, chosen), facts | {"steps": plan.steps, "rows": plan.rows, "factor": plan.factor, "flops": plan.flops}


def _trial_recipe(recipe: Recipe, plan: RateTrialPlan, rate: float) -> Recipe:
    """Return the recipe of a short training: the run's own schedule over its few steps, without what needs many to have an effect."""
    length = {"steps": plan.steps, "epochs": None, "tokens": None, "ema_decay": None, "batch_ramp": None}
    warmup = {"warmup_steps": min(recipe.schedule.warmup_steps, 1), "warmup_tokens": None}
    return with_rate(recipe, rate * plan.factor).model_copy(
        update={
            "training": recipe.training.model_copy(update=length),
            "schedule": recipe.schedule.model_copy(update=warmup),
        }
    )


def _trial_loss(
    recipe: Recipe,
    data: TrainingData,
    plan: RateTrialPlan,
    device: torch.device,
    listener: Listener,
    should_stop: Callable[[], bool],
    advance: Callable[[int], None],
) -> float:
    """Return the loss on the held-out rows after a short training; infinity if it is not finite."""
    model = first_model(recipe, data, Silent())
    components = assemble(recipe, data, model, device, recipe.training.micro_batch_size or 1, Silent(), should_stop)
    micro_batches = MicroBatches(recipe, device, listener, components, restored=False)
    if recipe.training.micro_batch_size is None:
        micro_batches.choose()
    rows, objective = components.loader.rows, components.data.objective
    judge = objective.evaluation_objective
    order = permutation(np.random.PCG64([recipe.training.seed, _DRAW]), len(rows))
    judged = rows if judge is objective else open_rows(recipe, judge, components.data.train, data.config)
    held_out = RowSubset(judged, np.sort(order[: plan.rows]))
    trained = RowSubset(rows, np.sort(order[plan.rows :]))
    loader = Loader(trained, objective.collate, components.loader.sizes, components.loader.micro_batch_size)
    for step in range(1, plan.steps + 1):

        def take(step: int = step) -> None:
            loader.micro_batch_size = components.loader.micro_batch_size
            components.stepper.take(step, loader.step(step - 1), components.schedule.factor(step), should_stop=should_stop)

        try:
            try:
                fit(take, components.stepper, micro_batches.halve)
            except RuntimeError as error:  # the run will raise it, too, and report it
                if not is_nondeterministic(error):
                    raise
                components.stepper.drop_gradients()
                allow_nondeterministic()
                fit(take, components.stepper, micro_batches.halve)
        except UnhealthyStepError:
            return math.inf
        except Stopped:
            raise Stopped(_STOPPED) from None
        advance(1)
        if should_stop():
            raise Stopped(_STOPPED)
    with components.weights.use_result():
        sums = score_rows(model, judge, held_out, recipe.evaluation.batch_size, work=BatchWork(should_stop=should_stop))
    if sums is None:
        raise Stopped(_STOPPED)
    loss = judge.metrics(sums)["loss"]
    return loss if math.isfinite(loss) else math.inf
