"""Probe a run: take a few real steps, and measure their time, memory and power. The weights are discarded, and nothing is written."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tfkit.alignment.rollout_loader import RolloutLoader
from tfkit.carbon import Meter, Reading
from tfkit.data import Loader
from tfkit.engine.assembly.components import Components, assemble, first_model
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.assembly.validation import score_validation
from tfkit.engine.listener import StopRequest
from tfkit.engine.planning.forecast import Power, build_forecast, modelled_power
from tfkit.engine.planning.forecast_history import correction_for
from tfkit.engine.planning.machine_speed import device_name
from tfkit.engine.planning.run_flops import evaluation_count
from tfkit.engine.training_run.estimate import Estimate, Range
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.engine.training_run.run import Run
from tfkit.errors import Stopped
from tfkit.objectives.context import tokens_of
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import compile_model, eager, memory_bytes, prepare_steps
from tfkit.training.free_memory import resident_bytes
from tfkit.training.health import UnhealthyStepError

_START_PATIENCE_SECONDS = 30.0  # the longest wait for the first measurement of power by the energy meter
_KERNELS_BYTES = 400_000_000  # the most that oneDNN's cache of 1,024 kernels takes; each new shape adds several kernels of 0.1 to 0.6 MB
_MIN_SECONDS = 2.0  # the power of the steps is computed only if they take at least this long
_SPREAD = 1.2  # the bounds of a time are at least this factor away from its likely value


@dataclass(frozen=True)
class ProbeStep:
    """The measurements of one step."""

    tokens: int
    seconds: float
    loading_seconds: float  # for reading the rows or, in the first step of an iteration of PPO or GRPO, for sampling its responses


@dataclass(frozen=True)
class Probe:
    """The measurements of a probe: a few real steps of a run, and a part of an evaluation."""

    steps: Sequence[ProbeStep]
    micro_batch_size: int
    setup_seconds: float  # for initializing or reading the weights and creating the optimizer
    memory_bytes: int  # the peak of the steps and the evaluation, plus the growth extrapolated to the rest of the run
    watts: float | None  # mean power of the machine during the steps, without PUE; None if unknown
    busy_threads: float  # average number of threads of this process that computed during the steps
    energy_kwh: float | None  # energy that the steps took; None if unknown
    iteration_steps: int | None  # number of steps for which the same sampled responses are used; None without sampled responses
    evaluation: tuple[float, float] = (0.0, 0.0)  # seconds of a partial evaluation, and what fraction of a whole one it is
    count_evaluations: Callable[[Recipe, int], int] = lambda *_: 0  # returns the number of evaluations for a recipe and a number of steps

    @property
    def timed(self) -> Sequence[ProbeStep]:
        """The steps but the first two, which are slower, since memory is allocated and kernels are chosen; at least the last step."""
        return self.steps[min(2, len(self.steps) - 1) :]

    def seconds_of(self, tokens: int, steps: int) -> Range:
        """Return the time of `steps` steps, in seconds; `tokens`: the number of tokens in all these steps together."""
        timed = self.timed
        mean = sum(step.seconds for step in timed) / max(1, sum(step.tokens for step in timed))  # seconds per token
        means = [step.seconds / max(1, step.tokens) for step in timed]
        low, high = min(min(means), mean / _SPREAD), max(statistics.quantiles([*means, mean], n=10)[-1], mean * _SPREAD)
        loading = steps * statistics.median(step.loading_seconds for step in timed)
        if self.iteration_steps is not None:
            sampling = [step.loading_seconds for step in self.steps[:: self.iteration_steps]]
            later = sampling[1:] or sampling  # the first iteration is slower, since kernels are chosen
            loading = -(-steps // self.iteration_steps) * statistics.median(later)
        return Range(low * tokens + loading / _SPREAD, mean * tokens + loading, high * tokens + loading * _SPREAD)


def probe_run(run: Run, count: int) -> Probe:
    """Take and measure the first `count` steps of a run, and a part of an evaluation. Raises Stopped, and the errors of these steps."""
    recipe, data, device, listener, stop, meter = run.recipe, run.data, run.device, run.listener, run.stop, run.meter
    start = time.perf_counter()
    prepare_steps(device)
    model = first_model(recipe, data, listener)
    components = assemble(recipe, data, model, device, recipe.training.micro_batch_size or 1, listener, stop.should_stop)
    if recipe.training.micro_batch_size is None:
        MicroBatches(recipe, device, listener, components, restored=False).choose()
    if recipe.training.compile:
        compile_model(model, by_block=False)
    setup = time.perf_counter() - start
    before, began, processor_began = _first_reading(meter, stop), time.perf_counter(), time.process_time()
    steps, held = [], []
    for index in range(min(count, components.plan.steps)):
        steps.append(_take_step(components, index, stop))
        held.append((resident_bytes() or 0) if device.type == "cpu" else 0)
    processor_seconds, seconds = time.process_time() - processor_began, time.perf_counter() - began
    after = meter.fresh_reading()
    energy = after.energy_wh - before.energy_wh if after.outcome == "ok" else 0.0
    watts = energy * 3600 / seconds / recipe.carbon.pue if energy > 0 and seconds >= _MIN_SECONDS else None
    loader = components.loader
    if isinstance(loader, Loader):
        # Train once more on the rows of step 0, the longest if rows are grouped by length. The steps fragment the memory, so the tensors of
        # long rows no longer fit into the gaps, and the process allocates more memory, as will happen sooner or later in the run.
        components.stepper.try_out(1, loader.step(0)[0])
    evaluation = _evaluate(recipe, data, components, sum(step.tokens for step in steps), stop)
    rows, sizes = loader.rows, loader.sizes  # the loader itself must not be kept, because a RolloutLoader would keep the model in memory
    return Probe(
        steps,
        loader.micro_batch_size,
        setup,
        memory_bytes(device) + extrapolate_growth(held, components.plan.steps),
        watts,
        processor_seconds / seconds,
        energy / 1000 if energy > 0 else None,
        loader.steps if isinstance(loader, RolloutLoader) else None,
        evaluation,
        lambda recipe, steps: evaluation_count(recipe, data, rows, sizes, steps),
    )


def _first_reading(meter: Meter, stop: StopRequest) -> Reading:
    """Return the meter's first reading with a power; the latest reading after 30 s, at a request to stop, or if the meter is off or failed.

    A reading with a power includes an estimate for the time before the meter was ready; the difference between two such readings does not.
    """
    deadline = time.perf_counter() + _START_PATIENCE_SECONDS
    while True:
        reading = meter.fresh_reading()
        is_starting = reading.status == "starting" or (reading.status == "ok" and not reading.power_w)
        if not is_starting or time.perf_counter() > deadline or stop.should_stop():
            return reading
        time.sleep(0.1)


def extrapolate_growth(held: Sequence[int], steps: int) -> int:
    """Return by how many bytes the memory of a run will grow until it has taken `steps` steps, because of kernels for new tensor shapes.

    `held`: the memory of the process after each step so far, in bytes. Like the vocabulary of a text (Heaps 1978), the number of distinct
    shapes grows roughly with the square root of the number of steps.
    """
    before, now = min(2, len(held)), len(held)
    if now <= before:
        return 0
    slope = max(0, held[-1] - held[before - 1]) / (math.sqrt(now) - math.sqrt(before))
    return min(round(slope * (math.sqrt(steps) - math.sqrt(now))), _KERNELS_BYTES)


def _evaluate(recipe: Recipe, data: TrainingData, components: Components, tokens: int, stop: StopRequest) -> tuple[float, float]:
    """Score at most `tokens` held-out tokens. Return the time in seconds, and the scored fraction of a whole evaluation. Raises Stopped."""
    held_out = sum(tokens_of(validation.stored) for validation in data.validation)
    limit = recipe.evaluation.max_tokens
    whole = min(held_out, limit or held_out)
    if not whole:
        return 0.0, 0.0
    tokens = max(1, min(whole, tokens))
    short = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"max_tokens": tokens})})
    model, start = components.stepper.model, time.perf_counter()
    with eager(model), components.stepper.weights.use_result():
        if score_validation(short, components.data, model, stop.should_stop, components.reference) is None:
            raise Stopped("stopped in the evaluation of the plan; nothing was lost")
    return time.perf_counter() - start, tokens / whole


def _take_step(components: Components, index: int, stop: StopRequest) -> ProbeStep:
    if stop.should_stop():
        raise Stopped("stopped in the steps of the plan; nothing was lost")
    start = time.perf_counter()
    batches = components.loader.step(index)
    loaded = time.perf_counter()
    try:
        components.stepper.take(index + 1, batches, components.schedule.factor(index + 1), should_stop=stop.should_stop)
    except UnhealthyStepError:
        components.stepper.drop_gradients()
    tokens = sum(batch.tokens for batch in batches)
    return ProbeStep(tokens, time.perf_counter() - loaded, loaded - start)


def _power(probe: Probe, recipe: Recipe, device: torch.device) -> Power:
    """Return the power during the steps: as measured, else as in earlier runs on this machine, else as modelled from the measured load."""
    if (watts := probe.watts) is not None:
        return Power(Range(watts / 1.15, watts, watts * 1.15), "measured in these steps")
    past = correction_for(device_name(device), torch.get_num_threads(), recipe.objective.kind, 0).watts
    return Power(past, "the median of earlier runs here") if past is not None else modelled_power(device, probe.busy_threads)


def with_probe(plan: Estimate, recipe: Recipe, probe: Probe, device: torch.device) -> Estimate:
    """Return the plan with time, memory and energy from a probe.

    Times for start and checkpoints are still from the table of speeds; so are those for generation, unless the objective samples responses.
    """
    steps, (evaluation_seconds, fraction) = probe.seconds_of(plan.tokens, plan.steps), probe.evaluation
    each = evaluation_seconds / fraction if fraction else 0.0
    count = probe.count_evaluations(recipe, plan.steps)
    evaluations = Range(1 / _SPREAD, 1.0, _SPREAD) * (count * each)
    rate_trial = steps * (plan.flops["trial"] / max(1.0, plan.training_flops + plan.flops["recomputed"]))
    rest = {name: plan.table_seconds[name] for name in ("start", "checkpoints")} | {"setup": probe.setup_seconds}
    if probe.iteration_steps is None:
        rest["writing"] = plan.table_seconds["writing"]
    timed = probe.timed
    usual, first = statistics.median(step.seconds for step in timed), len(probe.steps) - len(timed)
    rest["first steps"] = max(0.0, sum(step.seconds for step in probe.steps[:first]) - first * usual)
    fixed = sum(rest.values())
    seconds = steps + evaluations + rate_trial + Range(0.7 * fixed, fixed, 2 * fixed)
    how = {
        "seconds": f"from {len(timed)} real steps of {usual:.3g} s (after {first} slower ones), and {count} evaluations of "
        f"{each:.3g} s, extrapolated from {fraction:.0%} of one; {fixed:.3g} s for start, first steps and checkpoints",
        "memory_bytes": f"the peak of these steps and the evaluation, plus extrapolated growth; by formula {plan.memory_bytes:,}",
    }
    power = _power(probe, recipe, device)
    prediction = build_forecast(recipe, seconds, power, "probe", plan.assumptions | how, device, plan.table_seconds)
    cost: dict[str, Any] = {
        "steps": len(probe.steps),
        "seconds": sum(step.seconds + step.loading_seconds for step in probe.steps) + evaluation_seconds,
        "energy_kwh": probe.energy_kwh,
        "memory_bytes": probe.memory_bytes,
        "formula_memory_bytes": plan.memory_bytes,
    }
    sizes: dict[str, Any] = {"micro_batch_size": probe.micro_batch_size, "memory_bytes": probe.memory_bytes}
    return replace(plan, probe=cost, **sizes, **vars(prediction))
