"""The estimate of a run before its first step, the plan of a trial of learning rates, and the protocol of forecasters.

A trial takes a few steps with each of several learning rates, and chooses the best one for the run (rate_trial.py). The optimal rate falls
with the length of the training, as the number of tokens to the power of -0.32 (Bjorck et al. 2024, arXiv 2409.19913, for lengths within a
factor of ten). So the trial multiplies each rate by a factor that depends on how much shorter the trial is than the run.

This module does not import torch.
"""

import math
from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tfkit.recipe.pretraining_sizes import scaled_to
from tfkit.recipe.schema.sections import Recipe
from tfkit.units import format_number_of, format_seconds

if TYPE_CHECKING:
    from tfkit.carbon.footprint import RunTotals
    from tfkit.engine.training_run.run import Run

_MAX_FRACTION = 0.15  # the largest fraction of the run's FLOPs that a trial may take
_CHEAP_FLOPS = 2e13  # 1 to 2 minutes on a CPU: a trial may take this many FLOPs even above _MAX_FRACTION, but at most half of the run's
_MIN_STEPS, _MAX_STEPS, _SHORTENING = 4, 100, 6  # steps per rate: up to a sixth of the run's steps, at least 4 and at most 100
_MIN_HELD_OUT, _MAX_HELD_OUT, _HELD_OUT_STEPS = 4, 64, 4  # rows to score on: at most as many as 4 steps read, from 4 to 64
_MANY_HELD_OUT = 256  # rows to score on if an F1 score decides, since 64 would have too few of the rare classes
_EXPONENT = 0.32  # the best rate falls with this power of the number of tokens (Bjorck et al., see above)
RARE_METRICS = ("f1", "f1_macro")  # an evaluation.metric among these decides a trial instead of the loss, which neglects rare classes


@dataclass(frozen=True)
class RateTrialPlan:
    """A trial of learning rates: `steps` steps with each rate, then scores on `rows` rows that are held out of the training rows."""

    rates: tuple[float, ...]  #: the learning rates to try: the recipe's own, then the others
    steps: int
    rows: int
    factor: float  #: each rate is multiplied by it in the trial
    flops: float  #: of the whole trial

    def describe(self, total_flops: float) -> str:
        """Describe the trial; `total_flops`: the FLOPs of the run, including the trial."""
        rates = ", ".join(f"{rate:g}" for rate in sorted(self.rates))
        fraction = self.flops / max(1.0, total_flops - self.flops)
        steps = f"{self.steps:,} steps each, scored on {self.rows:,} training rows"
        return f"learning rates are tried: {rates}, {steps}; {fraction:.0%} of the run's FLOPs"


def plan_trial(recipe: Recipe, rows: int, steps: int, run_flops: float, step_flops: float, row_flops: float) -> RateTrialPlan | str | None:
    """Return the trial of a recipe's rates, or the reason for which there is none; None if the recipe has no `training.trial_rates`.

    `rows`: the number of training rows. `run_flops`, `step_flops`, `row_flops`: the FLOPs of the run, of a step, of scoring one row.
    """
    others = recipe.training.trial_rates
    if others is None:
        return None
    if recipe.parallel.shard > 1:
        return f"the model is sharded over {recipe.parallel.shard} ranks, and a trial on one rank might run out of memory"
    if steps <= _MIN_STEPS:
        return f"the run has {format_number_of(steps, 'step')}, and each rate would be tried for {_MIN_STEPS}"
    rates = tuple(dict.fromkeys((recipe.optimizer.lr, *others)))
    most = min(_MAX_HELD_OUT, _HELD_OUT_STEPS * recipe.training.batch_size)
    held_out = min(_MANY_HELD_OUT if recipe.evaluation.metric in RARE_METRICS else most, rows // 4)
    if held_out < _MIN_HELD_OUT:
        return f"a trial needs {4 * _MIN_HELD_OUT} rows, a quarter of them to score on, and the run trains on {rows:,}"
    budget = max(_MAX_FRACTION * run_flops, min(run_flops / 2, _CHEAP_FLOPS))
    affordable = int((budget / len(rates) - held_out * row_flops) / max(1.0, step_flops))
    count = min(affordable, max(_MIN_STEPS, steps // _SHORTENING), _MAX_STEPS)
    if count < _MIN_STEPS:
        minimum = len(rates) * (_MIN_STEPS * step_flops + held_out * row_flops)
        return (
            f"{_MIN_STEPS} steps for each of {len(rates)} rates would take {100 * minimum / run_flops:.3g}% of the run's FLOPs, and a "
            f"trial may take {100 * budget / run_flops:.3g}%"
        )
    factor = math.pow(steps / count, _EXPONENT)
    return RateTrialPlan(rates, count, held_out, factor, len(rates) * (count * step_flops + held_out * row_flops))


@dataclass(frozen=True)
class Range:
    """An uncertain number: its likely value, with a lower and an upper bound."""

    low: float
    likely: float
    high: float

    def __iter__(self) -> Iterator[float]:
        """Iterate over low, likely and high."""
        return iter((self.low, self.likely, self.high))

    def __add__(self, other: "Range") -> "Range":
        """Add two ranges whose errors are fully correlated, so that the bounds add up, too."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, factor: float) -> "Range":
        """Return the range with all three values multiplied by `factor`."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class FullPower:
    """The emissions at the hardware's full power for the run's likely time, as in ML CO2 Impact (Lacoste et al. 2019, arXiv 1910.09700)."""

    hardware: str
    watts: float
    hours: float
    emissions_g: float
    source: str  #: where `watts` comes from, such as a data sheet


@dataclass(frozen=True)
class Estimate:
    """The resources that a run, or all stages of a recipe together, will need.

    `flops`: `total` is the sum of `forward`, `backward` (of the trained model in all steps), `companions` (teacher, reference, reward and
    value models), `rollouts` (sampling the responses, and the policy's own forward pass on them before the steps), `recomputed`
    (activations, if checkpointed, and logits too large to keep), `evaluation`, `samples` (generated texts) and `trial` (of learning rates).
    `attention` and `head` are parts of `forward` and `backward`: `total` does not count them again.
    """

    parameters: int
    active_parameters: int  #: the parameters that one token uses: in a mixture of experts, only the chosen experts
    trained_parameters: int
    tokens: int  #: of all steps
    steps: int
    micro_batch_size: int
    flops: dict[str, float]
    memory_bytes: int  #: the peak on the training device
    disk_bytes: int  #: of the checkpoints that exist at the same time
    seconds: Range  #: wall time, from the start of the command to its end
    energy_kwh: Range
    emissions_g: Range  #: CO2e
    basis: str  #: "table": from the machine's speeds alone; "learned": corrected by earlier runs on it; "probe": from real steps
    place: str = ""  #: the place whose carbon intensity is used
    assumptions: dict[str, str] = field(default_factory=dict)  #: how each number was obtained, by its field's name
    full_power: FullPower | None = None
    table_seconds: dict[str, float] = field(default_factory=dict)  #: seconds of each part of the run, from the machine's speeds alone
    probe: dict[str, Any] | None = None  #: the steps that `tfkit plan --probe` measured, and their cost
    rate_trial: RateTrialPlan | None = None  #: the trial of learning rates before the first step; None: there is none
    no_rate_trial: str | None = None  #: why no learning rates are tried; None: some are, or the recipe names none to try
    cluster: dict[str, Any] | None = None  #: ranks, their memory and traffic (planning/cluster.py); None: one rank on this machine
    stages: dict[str, "Estimate"] = field(default_factory=dict)  #: the estimates of a recipe's stages, by name; empty without stages

    @property
    def training_flops(self) -> float:
        """The FLOPs of the steps, with rollouts and companions, without recomputation."""
        return self.flops["total"] - sum(self.flops[name] for name in ("evaluation", "samples", "recomputed", "trial"))

    @property
    def fraction_after_start(self) -> float:
        """The fraction of the run's time that follows the start, the loading of weights and the rate trial."""
        whole = sum(self.table_seconds.values())
        return 1.0 - self._seconds("start", "weights", "trial") / whole if whole else 1.0

    @property
    def fixed_seconds(self) -> float:
        """The seconds in `table_seconds` that do not depend on the speed of the steps: for the start, loading weights and saving."""
        return self._seconds("start", "weights", "checkpoints")

    def _seconds(self, *parts: str) -> float:
        return sum(self.table_seconds.get(part, 0.0) for part in parts)

    def predicted(self, *, metered: bool) -> dict[str, Any]:
        """Return the field `predicted` of run.json. Energy and emissions are None if the run is not metered."""
        return {
            "seconds": asdict(self.seconds),
            "energy_kwh": asdict(self.energy_kwh) if metered else None,
            "emissions_g": asdict(self.emissions_g) if metered else None,
            "memory_bytes": self.memory_bytes,
            "flops": self.training_flops,
            "basis": self.basis,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as a JSON document, with the field `stages` only for a recipe with stages."""
        stages = {name: stage.to_dict() for name, stage in self.stages.items()}
        document = {name: value for name, value in asdict(self).items() if name != "stages"}
        return {"schema_version": 1, **document} | ({"stages": stages} if stages else {})


class Forecaster(Protocol):
    """Estimates a run before its first step, and learns from its outcome. Implemented by planning/run_forecaster.py."""

    def estimate(self, run: "Run", start: Callable[[], float]) -> Estimate:
        """Return the estimate of a prepared run. `start()`: the seconds since the run's command began, which the estimate includes."""

    def measure(self, run: "Run") -> Callable[[Estimate], Estimate]:
        """Time a few steps of a run, then discard them. Return a function that corrects estimates of the run by the measured time."""

    def remember(self, run: "Run", planned: Estimate, totals: "RunTotals") -> None:
        """Add a run that was finished in one attempt to the history, from which later estimates are corrected."""


def fit_length(run: "Run", minutes: float, named: Collection[str], *, measures: bool = False) -> dict[str, Any]:
    """Give the prepared run the number of steps that takes about `minutes` minutes, and return the changed fields of its recipe.

    Other fields that count steps, such as evaluation.every, are scaled with the length, except `named`, the fields that the user
    sets. `measures`: correct the forecast by the time of a few real steps, if a single process trains.
    """
    recipe, own, how = run.recipe, run.recipe.training.steps, "by a forecast"
    corrected: Callable[[Estimate], Estimate] = copy  # no correction
    if measures and run.peers.ranks.is_alone:
        corrected = run.forecaster.measure(run)
        how = "by the time of a few steps"
    shorter = corrected(run.forecast())
    steps = shorter.steps

    def with_steps(count: int) -> dict[str, Any]:
        fields = {"training.steps": count, **scaled_to(recipe, own, count, named)}
        run.recipe = recipe.with_fields(fields)
        return fields

    with_steps(2 * steps)
    longer = corrected(run.forecast())
    per_step = (longer.seconds.likely - shorter.seconds.likely) / steps  # all else, such as the start, takes equally long in both estimates
    fitting = steps + (60 * minutes - shorter.seconds.likely) / max(per_step, 1e-6)
    fields = with_steps(max(1, round(fitting)))
    if fitting < 1:
        run.listener.warn(f"{minutes:g} minutes are less than the start and the evaluations take, {how}; give more")
    run.planned = corrected(run.forecast())
    latest = run.budget.limits.get("seconds") if run.budget is not None else None
    stops = "" if latest is None else f"; a slower machine is stopped after {format_seconds(latest)}"
    run.listener.decided(f"in {minutes:g} minutes, {how}: {format_number_of(run.planned.steps, 'step')}{stops}\n")
    return fields
