"""A trial of a few learning rates before the first step: a short training with each, scored on rows held out of the training rows.

The validation rows are not used. Like the run, the trial is deterministic for a recipe, its data and a number of threads. The
measurement of energy has a phase for the trial. The chosen rate is written into the run's recipe, so a resumed run has no trial.
"""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data import Loader, Rows
from tfkit.data.order.draws import permutation
from tfkit.engine.assembly.components import assemble, first_model
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.listener import Silent
from tfkit.engine.training_run.estimate import RARE_METRICS, RateTrialPlan
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.errors import Stopped
from tfkit.evaluation.row_scores import answer_metrics, judge_rows, score_rows
from tfkit.model.transformer import Transformer
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.objective import Objective
from tfkit.objectives.registry import open_rows
from tfkit.parallel.rank_map import BatchWork
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import prepare_steps
from tfkit.training.health import UnhealthyStepError
from tfkit.training.loop import deterministic_if_possible

if TYPE_CHECKING:
    from tfkit.engine.training_run.run import Run

_CLEAR = 0.05  # by how much another rate must be better than the recipe's, as a fraction of the loss or in F1; less may be noise
_MIN_RARE = 16  # F1s are compared only if at least this many held-out labels are not of the most frequent class
_DRAW = 0x7261746573  # a constant that, with the recipe's seed, seeds the drawing of the held-out rows
_STOPPED = "stopped while learning rates were tried; no step was taken yet"


@dataclass(frozen=True)
class _Outcome:
    """The scores on the held-out rows after a short training. A NaN loss counts as infinite."""

    loss: float
    f1: float | None = None  # None: the loss decides

    def is_clearly_better(self, other: "_Outcome") -> bool:
        if self.f1 is not None and other.f1 is not None and math.isfinite(other.loss):
            return self.f1 > other.f1 + _CLEAR
        return self.loss < (1 - _CLEAR) * other.loss or not math.isfinite(other.loss)

    @property
    def rank(self) -> tuple[float, float]:
        return -(self.f1 or 0.0), self.loss


def choose_rate(run: "Run") -> None:
    """Give the run the learning rate that a trial chooses, or the recipe's own if the forecast plans no trial. Raises Stopped."""
    assert run.planned is not None  # a trial is planned by the forecast
    plan = run.planned.rate_trial
    if plan is None:
        run.listener.decided(f"no learning rates are tried: {run.planned.no_rate_trial}. Chosen: {run.recipe.optimizer.lr:g}\n")
        run.recipe = run.recipe.with_rate(run.recipe.optimizer.lr)
        return
    if run.budget is not None:
        run.budget.wait_for_meter()
    run.meter.phase("trial")
    run.recipe, trial = try_rates(run, plan)
    run.meter.phase("setup")
    if trial is not None:
        run.folder.record(rate_trial=trial)


def try_rates(run: "Run", plan: RateTrialPlan) -> tuple[Recipe, dict[str, Any] | None]:
    """Return the recipe with the chosen rate, and the field `rate_trial` of run.json, None if no rate was tried. Raises Stopped.

    The recipe's own rate is kept unless the loss with another is lower by more than a twentieth. If the run's metric is an F1, another rate
    must have an F1 more than 0.05 higher instead, since always predicting the most frequent class may give a low loss. For an F1, no
    rate is tried if the held-out rows have too few labels of other classes than the most frequent one.
    """
    prepare_steps(run.device)
    recipe, data, listener = run.recipe, run.data, run.listener
    own, rare = recipe.optimizer.lr, _rare_labels(recipe, data, plan)
    if rare is not None and rare < _MIN_RARE:
        listener.decided(
            f"no learning rates are tried: of {plan.rows:,} training rows to score on, {rare} have another class than the most frequent "
            f"one, and {_MIN_RARE} are needed. Chosen: {own:g}\n"
        )
        return recipe.with_rate(own), None
    judged_by = None if rare is None else recipe.evaluation.metric
    tried: dict[float, _Outcome] = {}
    with listener.progress("trying learning rates", plan.steps * len(plan.rates), "steps") as bar:
        for rate in plan.rates:
            try:
                tried[rate] = _try_rate(run, _trial_recipe(recipe, plan, rate), plan, bar.advance, judged_by)
            except Stopped:
                raise Stopped(_STOPPED) from None
            gc.collect()  # frees the model and its optimizer before the next trial
    best = min(tried, key=lambda rate: tried[rate].rank)
    chosen = best if tried[best].is_clearly_better(tried[own]) else own
    scores = {rate: outcome.loss if outcome.f1 is None else outcome.f1 for rate, outcome in sorted(tried.items())}
    shown = ", ".join(f"{rate:g} {score:.4g}" for rate, score in scores.items())
    why = "the best" if chosen == best else f"{best:g} is not clearly better"
    listener.decided(
        f"learning rates tried in {plan.steps:,} steps each, {plan.factor:.2g} times higher since these are few, and their "
        f"{judged_by or 'loss'} on {plan.rows:,} rows held out of the training rows: {shown}. Chosen: {chosen:g} ({why})\n"
    )
    losses = {f"{rate:g}": outcome.loss if math.isfinite(outcome.loss) else None for rate, outcome in tried.items()}
    facts: dict[str, Any] = {"losses": losses, "lr": chosen, "steps": plan.steps, "rows": plan.rows, "factor": plan.factor}
    facts |= {} if judged_by is None else {judged_by: {f"{rate:g}": outcome.f1 for rate, outcome in tried.items()}}
    return recipe.with_rate(chosen), facts | {"flops": plan.flops}


def _rare_labels(recipe: Recipe, data: TrainingData, plan: RateTrialPlan) -> int | None:
    """Return how many labels of a trial's held-out rows are not of the most frequent class; None if no F1 decides the trial."""
    objective = data.objective.labelled
    if recipe.evaluation.metric not in RARE_METRICS or objective is None:
        return None
    rows = open_rows(recipe, objective, data.train, data.config)
    held_out, _ = _divided(recipe, rows, plan)
    labels = objective.class_numbers(objective.collate(rows.gather(np.zeros(len(held_out), np.int64), held_out)))
    if labels is None:
        return None
    counts = np.bincount(labels)
    return int(counts.sum() - counts.max())


def _divided(recipe: Recipe, rows: Rows, plan: RateTrialPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the rows that the first epoch reads; return the indices of those to score on, and of those to train on."""
    numbers = np.unique(rows.order(0))
    drawn = numbers[permutation(np.random.PCG64([recipe.training.seed, _DRAW]), len(numbers))]
    return np.sort(drawn[: plan.rows]), np.sort(drawn[plan.rows :])


def _trial_recipe(recipe: Recipe, plan: RateTrialPlan, rate: float) -> Recipe:
    """Return the recipe of a short training: the run's schedule compressed into a few steps, without ema_decay and batch_ramp."""
    length = {"steps": plan.steps, "epochs": None, "tokens": None, "ema_decay": None, "batch_ramp": None}
    warmup = {"warmup_steps": min(recipe.schedule.warmup_steps, 1), "warmup_tokens": None}
    # The peak of `noam` falls with the length of the warmup. The trial has one warmup step, and `peak` gives it the recipe's peak.
    peak = recipe.schedule.warmup_steps**-0.5 if recipe.schedule.kind == "noam" else 1.0
    return recipe.with_rate(rate * plan.factor * peak).model_copy(
        update={"training": recipe.training.model_copy(update=length), "schedule": recipe.schedule.model_copy(update=warmup)}
    )


def _try_rate(run: "Run", recipe: Recipe, plan: RateTrialPlan, advance: Callable[[int], None], judged_by: str | None) -> _Outcome:
    """Return the scores on the held-out rows after a short training by `recipe`. `judged_by`: the F1 that decides; None: the loss does."""
    data, device, should_stop = run.data, run.device, run.stop.should_stop
    model = first_model(recipe, data, Silent())
    components = assemble(recipe, data, model, device, recipe.training.micro_batch_size or 1, Silent(), should_stop)
    micro_batches = MicroBatches(recipe, device, run.listener, components, restored=False)
    if recipe.training.micro_batch_size is None:
        micro_batches.choose()
    rows, objective = components.loader.rows, components.data.objective
    judge = objective.evaluation_objective
    judged = rows if judge is objective else open_rows(recipe, judge, components.data.train, data.config)
    scored, learned = _divided(recipe, rows, plan)
    held_out, trained = RowSubset(judged, scored), RowSubset(rows, learned)
    loader = Loader(trained, objective.collate, components.loader.sizes, components.loader.micro_batch_size)
    for step in range(1, plan.steps + 1):

        def take(step: int = step) -> None:
            loader.micro_batch_size = components.loader.micro_batch_size
            components.stepper.take(step, loader.step(step - 1), components.schedule.factor(step), should_stop=should_stop)

        try:
            deterministic_if_possible(take, components.stepper, micro_batches.halve, lambda _: None)  # no warning: the run itself will warn
        except UnhealthyStepError:
            return _Outcome(math.inf, None if judged_by is None else 0.0)
        advance(1)
        if should_stop():
            raise Stopped(_STOPPED)
    with components.stepper.weights.use_result():
        work = BatchWork(should_stop=should_stop)
        metrics = _score(components.stepper.model, judge, held_out, recipe.evaluation.batch_size, work, judged_by)
    loss = metrics["loss"]
    return _Outcome(loss if math.isfinite(loss) else math.inf, None if judged_by is None else metrics[judged_by])


def _score(model: Transformer, judge: Objective, rows: Rows, batch_size: int, work: BatchWork, judged_by: str | None) -> dict[str, float]:
    """Return the metrics of the model's answers to the rows if `judged_by` is an F1, else those of its losses. Raises Stopped."""
    if judged_by is None or judge.labelled is None:
        return judge.metrics(score_rows(model, judge, rows, batch_size, work=work))
    judged = judge_rows(model, judge.labelled, rows, batch_size, work=work)
    return answer_metrics(judge.labelled, judged)(unit_weights(len(judged)))


class RowSubset:
    """A subset of rows, renumbered from 0, in the order in which the full set is read."""

    def __init__(self, rows: Rows, numbers: NDArray[np.int64]):
        """`numbers`: the indices of the rows in the subset, ascending; the first epoch of `rows` reads each of them."""
        self._rows, self._numbers = rows, numbers
        self.mean_tokens, self.longest = rows.mean_tokens, rows.longest  # about the same in the subset
        self._first = self._kept(0)

    def __len__(self) -> int:
        return len(self._first)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of an epoch's rows, in reading order: (len(self),).

        With weighted sources, a later epoch of the full set may read more or fewer of these rows; then the first epoch's order is used.
        """
        kept = self._kept(epoch)
        return kept if len(kept) == len(self) else self._first

    def _kept(self, epoch: int) -> NDArray[np.int64]:
        order = self._rows.order(epoch)
        return np.searchsorted(self._numbers, order[np.isin(order, self._numbers)])

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the rows with these indices."""
        return self._rows.gather(epochs, self._numbers[numbers])
