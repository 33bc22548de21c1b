"""A few real steps of a run before it begins: their time, memory and power. The weights are thrown away, and nothing is written."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tfkit.alignment.rollout_loader import RolloutLoader
from tfkit.carbon import Meter
from tfkit.engine.components import Components, assemble, first_model
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.micro_batches import MicroBatches
from tfkit.engine.planning.estimate import Estimate, Range
from tfkit.engine.planning.forecast import Power, made_forecast, modelled_power
from tfkit.engine.planning.forecast_history import learned
from tfkit.engine.planning.machine_speed import device_name
from tfkit.engine.training_data import TrainingData
from tfkit.errors import Stopped
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import keep_freed_memory, make_deterministic, memory_bytes
from tfkit.training.health import UnhealthyStepError

_START_PATIENCE_SECONDS = 30.0  # for the meter's first reading
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
    energy_kwh: float | None
    iteration_steps: int | None  # of a training on sampled responses

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
            sampled = [one.sampling_seconds for number, one in enumerate(self.steps) if number % self.iteration_steps == 0]
            beside = -(-steps // self.iteration_steps) * statistics.mean(sampled)
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
        for stack in model.stacks:
            stack.compile()
    setup = time.perf_counter() - start
    while meter.reading().status == "starting" and time.perf_counter() - start < _START_PATIENCE_SECONDS and not stop.should_stop():
        time.sleep(0.1)
    before, began = meter.fresh_reading(), time.perf_counter()
    steps = [_take(components, number, stop) for number in range(min(count, components.plan.steps))]
    after, took = meter.fresh_reading(), time.perf_counter() - began
    energy = after.energy_wh - before.energy_wh if after.outcome == "ok" else 0.0
    known = energy > 0 and took >= _LEAST_SECONDS
    loader = components.loader
    return Trial(
        steps,
        loader.micro_batch_size,
        setup,
        memory_bytes(device),
        energy * 3600 / took / recipe.carbon.pue if known else None,
        energy / 1000 if energy > 0 else None,
        loader.steps if isinstance(loader, RolloutLoader) else None,
    )


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


def with_trial(plan: Estimate, recipe: Recipe, trial: Trial, device: torch.device) -> Estimate:
    """Return the plan by the steps that were taken: evaluations at their speed, start and checkpoints by the table."""
    steps = trial.seconds_of(plan.tokens, plan.steps)
    evaluation = steps * (plan.flops["evaluation"] / max(1.0, plan.training_flops + plan.flops["recomputed"]))
    rest = {name: plan.table_seconds[name] for name in ("start", "checkpoints")} | {"setup": trial.setup_seconds}
    if trial.iteration_steps is None:
        rest["writing"] = plan.table_seconds["writing"]
    timed = trial.timed
    usual, first = statistics.median(one.seconds for one in timed), len(trial.steps) - len(timed)
    rest["first steps"] = max(0.0, sum(one.seconds for one in trial.steps[:first]) - first * usual)
    fixed = sum(rest.values())
    seconds = steps + evaluation + Range(0.7 * fixed, fixed, 2 * fixed)
    how = {
        "seconds": f"by {len(timed)} real steps of {usual:.3g} s (and {first} before them), evaluations at their speed; {fixed:.3g} s for "
        "start, first steps and checkpoints",
        "memory_bytes": f"the peak of these steps; by formula {plan.memory_bytes:,}",
    }
    threads = torch.get_num_threads()
    if trial.watts is not None:
        power = Power(Range(trial.watts / 1.15, trial.watts, trial.watts * 1.15), "measured in these steps")
    else:
        past = learned(device_name(device), threads, recipe.objective.kind, 0).watts
        power = Power(past, "the mean of earlier runs here") if past is not None else modelled_power(device, threads)
    found = made_forecast(recipe, seconds, power, "probe", plan.assumptions | how, device, plan.table_seconds)
    probe: dict[str, Any] = {
        "steps": len(trial.steps),
        "seconds": sum(one.seconds + one.sampling_seconds for one in trial.steps),
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
