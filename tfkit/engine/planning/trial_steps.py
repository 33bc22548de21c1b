"""A few real steps of a run before it begins: their time, memory and power. The weights are thrown away, and nothing is written."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tfkit.alignment.rollout_loader import RolloutLoader
from tfkit.carbon import Meter
from tfkit.data import Loader
from tfkit.engine.components import Components, assemble, first_model
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.micro_batches import MicroBatches
from tfkit.engine.planning.estimate import Estimate, Range
from tfkit.engine.planning.forecast import Power, made_forecast, modelled_power
from tfkit.engine.planning.forecast_history import learned
from tfkit.engine.planning.machine_speed import device_name
from tfkit.engine.planning.run_flops import evaluation_count
from tfkit.engine.training_data import TrainingData
from tfkit.engine.validation import score_validation
from tfkit.errors import Stopped
from tfkit.objectives.context import tokens_of
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import compile_model, eager, keep_freed_memory, make_deterministic, memory_bytes
from tfkit.training.health import UnhealthyStepError
from tfkit.training.memory import resident_bytes

_START_PATIENCE_SECONDS = 30.0  # for the meter's first reading
_KERNELS_BYTES = 400_000_000  # of the 1,024 kernels that oneDNN keeps, of which it makes some for each new shape: 0.1 to 0.6 MB each
_LEAST_SECONDS = 2.0  # of steps that a power is measured in
_SPREAD = 1.2  # to either side of the time, at least


@dataclass(frozen=True)
class Step:
    """A step that was taken."""

    tokens: int
    seconds: float
    sampling_seconds: float  # of an iteration of responses, in its first step; else of reading the rows


@dataclass(frozen=True)
class Trial:
    """Steps, what came before them, and what they took."""

    steps: Sequence[Step]
    micro_batch_size: int
    setup_seconds: float  # weights, optimizer
    memory_bytes: int
    watts: float | None  # of the machine during the steps, without PUE; None where that is not known
    busy_threads: float  # that computed in them, on average
    energy_kwh: float | None
    iteration_steps: int | None  # of a training on sampled responses
    evaluation: tuple[float, float] = (0.0, 0.0)  # seconds of a part of an evaluation, and that part
    evaluations: int = 0  # of the whole run

    @property
    def timed(self) -> Sequence[Step]:
        """The steps without the first ones, in which memory is taken and kernels are chosen."""
        return self.steps[min(2, len(self.steps) - 1) :]

    def seconds_of(self, tokens: int, steps: int) -> Range:
        """Return the time of all steps of a run."""
        timed = self.timed
        rate = sum(one.seconds for one in timed) / max(1, sum(one.tokens for one in timed))
        speeds = [one.seconds / max(1, one.tokens) for one in timed]
        low, high = min(min(speeds), rate / _SPREAD), max(statistics.quantiles([*speeds, rate], n=10)[-1], rate * _SPREAD)
        beside = steps * statistics.median(one.sampling_seconds for one in timed)
        if self.iteration_steps is not None:
            sampled = [one.sampling_seconds for one in self.steps[:: self.iteration_steps]]
            beside = -(-steps // self.iteration_steps) * statistics.median(sampled[1:] or sampled)  # the first one chooses kernels, too
        return Range(low * tokens + beside / _SPREAD, rate * tokens + beside, high * tokens + beside * _SPREAD)


def take_trial(
    recipe: Recipe, data: TrainingData, device: torch.device, count: int, listener: Listener, stop: StopRequest, meter: Meter
) -> Trial:
    """Take the first steps of a run, in its micro-batches. Raises what the run would raise before and in them, and Stopped."""
    start = time.perf_counter()
    make_deterministic(device)
    keep_freed_memory()
    model = first_model(recipe, data, listener)
    components = assemble(recipe, data, model, device, recipe.training.micro_batch_size or 1, listener, stop.should_stop)
    if recipe.training.micro_batch_size is None:
        MicroBatches(recipe, device, listener, components, restored=False).choose()
    if recipe.training.compile:
        compile_model(model, by_block=False)
    setup = time.perf_counter() - start
    while meter.reading().status == "starting" and time.perf_counter() - start < _START_PATIENCE_SECONDS and not stop.should_stop():
        time.sleep(0.1)
    before, began, computed = meter.fresh_reading(), time.perf_counter(), time.process_time()
    steps, held = [], []
    for number in range(min(count, components.plan.steps)):
        steps.append(_take(components, number, stop))
        held.append((resident_bytes() or 0) if device.type == "cpu" else 0)
    computed, took = time.process_time() - computed, time.perf_counter() - began
    after = meter.fresh_reading()
    energy = after.energy_wh - before.energy_wh if after.outcome == "ok" else 0.0
    watts = energy * 3600 / took / recipe.carbon.pue if energy > 0 and took >= _LEAST_SECONDS else None
    loader = components.loader
    if isinstance(loader, Loader):
        # The longest rows, which step 0 has, once more: where rows differ in length, their tensors no longer fit the gaps between what the
        # steps since have left, and the process takes more memory. In a run that happens sooner or later.
        components.stepper.try_out(1, loader.step(0)[0])
    evaluation = _evaluate(recipe, data, components, sum(one.tokens for one in steps), stop)
    return Trial(
        steps,
        loader.micro_batch_size,
        setup,
        memory_bytes(device) + growth(held, components.plan.steps),
        watts,
        computed / took,
        energy / 1000 if energy > 0 else None,
        loader.steps if isinstance(loader, RolloutLoader) else None,
        evaluation,
        evaluation_count(recipe, data, loader, components.plan.steps),
    )


def growth(held: Sequence[int], steps: int) -> int:
    """Return the bytes by which a run grows after these first steps, at whose ends it held so much, as long as new shapes come.

    Like the words of a text (Heaps 1978), the different shapes grow about with the root of the steps.
    """
    before, now = min(2, len(held)), len(held)
    if now <= before:
        return 0
    each = max(0, held[-1] - held[before - 1]) / (math.sqrt(now) - math.sqrt(before))
    return min(round(each * (math.sqrt(steps) - math.sqrt(now))), _KERNELS_BYTES)


def _evaluate(recipe: Recipe, data: TrainingData, components: Components, most: int, stop: StopRequest) -> tuple[float, float]:
    """Score held-out text of at most this many tokens; return the seconds, and the part of an evaluation that it was."""
    held_out = sum(tokens_of(one.stored) for one in data.validation)
    limit = recipe.evaluation.max_tokens
    whole = min(held_out, limit or held_out)
    if not whole:
        return 0.0, 0.0
    most = max(1, min(whole, most))
    short = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"max_tokens": most})})
    model, start = components.stepper.model, time.perf_counter()
    with eager(model), components.weights.result_at_work():
        if score_validation(short, components.data, model, stop.should_stop, components.reference) is None:
            raise Stopped("stopped within the evaluation of the plan; nothing was lost")
    return time.perf_counter() - start, most / whole


def _take(components: Components, number: int, stop: StopRequest) -> Step:
    if stop.should_stop():
        raise Stopped("stopped within the steps of the plan; nothing was lost")
    start = time.perf_counter()
    batches = components.loader.step(number)
    read = time.perf_counter()
    try:
        components.stepper.take(number + 1, batches, components.schedule.factor(number + 1), should_stop=stop.should_stop)
    except UnhealthyStepError:
        components.stepper.drop_gradients()
    tokens = sum(batch.tokens for batch in batches)
    return Step(tokens, time.perf_counter() - read, read - start)


def _power(trial: Trial, recipe: Recipe, device: torch.device) -> Power:
    """Return the power of the steps: as measured, else of earlier runs here, else by the model of the meter at the load that they made."""
    if (watts := trial.watts) is not None:
        return Power(Range(watts / 1.15, watts, watts * 1.15), "measured in these steps")
    past = learned(device_name(device), torch.get_num_threads(), recipe.objective.kind, 0).watts
    return Power(past, "the mean of earlier runs here") if past is not None else modelled_power(device, trial.busy_threads)


def with_trial(plan: Estimate, recipe: Recipe, trial: Trial, device: torch.device) -> Estimate:
    """Return the plan by the steps that were taken and a part of an evaluation; checkpoints by the table."""
    steps, (took, part) = trial.seconds_of(plan.tokens, plan.steps), trial.evaluation
    each = took / part if part else 0.0
    evaluation = Range(1 / _SPREAD, 1.0, _SPREAD) * (trial.evaluations * each)
    rates = steps * (plan.flops["trial"] / max(1.0, plan.training_flops + plan.flops["recomputed"]))
    rest = {name: plan.table_seconds[name] for name in ("start", "checkpoints")} | {"setup": trial.setup_seconds}
    if trial.iteration_steps is None:
        rest["writing"] = plan.table_seconds["writing"]
    timed = trial.timed
    usual, first = statistics.median(one.seconds for one in timed), len(trial.steps) - len(timed)
    rest["first steps"] = max(0.0, sum(one.seconds for one in trial.steps[:first]) - first * usual)
    fixed = sum(rest.values())
    seconds = steps + evaluation + rates + Range(0.7 * fixed, fixed, 2 * fixed)
    how = {
        "seconds": f"by {len(timed)} real steps of {usual:.3g} s (and {first} before them), and {trial.evaluations} evaluations of "
        f"{each:.3g} s, of one of which {part:.0%} was done; {fixed:.3g} s for start, first steps and checkpoints",
        "memory_bytes": f"the peak of these steps and the evaluation, and the growth from step to step; by formula {plan.memory_bytes:,}",
    }
    found = made_forecast(recipe, seconds, _power(trial, recipe, device), "probe", plan.assumptions | how, device, plan.table_seconds)
    probe: dict[str, Any] = {
        "steps": len(trial.steps),
        "seconds": sum(one.seconds + one.sampling_seconds for one in trial.steps) + took,
        "energy_kwh": trial.energy_kwh,
        "memory_bytes": trial.memory_bytes,
        "formula_memory_bytes": plan.memory_bytes,
    }
    return replace(
        plan,
        micro_batch_size=trial.micro_batch_size,
        memory_bytes=trial.memory_bytes,
        seconds=found.seconds,
        energy_kwh=found.energy_kwh,
        emissions_g=found.emissions_g,
        basis="probe",
        assumptions=found.assumptions,
        full_power=found.full_power,
        probe=probe,
    )
