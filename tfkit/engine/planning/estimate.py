"""The result of a plan. Torch-free."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tfkit.engine.planning.rate_trial_plan import RateTrialPlan


@dataclass(frozen=True)
class Range:
    """A number that is not known exactly."""

    low: float
    likely: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        """Both together, if what makes one high makes the other high, too."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, factor: float) -> "Range":
        """As often as `factor` says."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class FullPower:
    """The estimate of ML CO2 Impact (Lacoste et al. 2019, arXiv 1910.09700), to compare with: full power for the likely time."""

    hardware: str
    watts: float
    hours: float
    emissions_g: float
    source: str  # of the watts


@dataclass(frozen=True)
class Estimate:
    """The needs of a run, or of all stages of a chain.

    `flops`: `total` is the sum of `forward`, `backward` (of the trained model in all steps), `companions` (teacher, reference, reward and
    value models), `rollouts` (of sampled responses: the sampling, and the policy's own forward before the first step), `recomputed` (of
    activation checkpointing, and of logits that are too large to keep), `evaluation`, `samples` and
    `trial` (of learning rates). `attention` and `head` are parts of
    `forward` and `backward`, beside which they are reported: `total` does not count them again.
    """

    parameters: int
    trained_parameters: int
    tokens: int  # of all steps
    steps: int
    micro_batch_size: int
    flops: dict[str, float]
    memory_bytes: int  # at the peak, on the device that trains
    disk_bytes: int  # of the checkpoints that are kept
    seconds: Range
    energy_kwh: Range
    emissions_g: Range
    basis: str  # "table": by the machine's speeds alone; "learned": and by earlier runs on it; "probe": by real steps
    place: str = ""
    assumptions: dict[str, str] = field(default_factory=dict)  # how each number was obtained
    full_power: FullPower | None = None
    table_seconds: dict[str, float] = field(default_factory=dict)  # by part, by the speeds of the machine, before earlier runs corrected it
    probe: dict[str, Any] | None = None  # the steps that were taken to find out, and what they took
    rate_trial: RateTrialPlan | None = None  # of learning rates, before the first step
    no_rate_trial: str | None = None  # why the recipe's rates are not tried
    cluster: dict[str, Any] | None = None  # ranks, their memory and traffic (cluster.py)
    stages: dict[str, "Estimate"] = field(default_factory=dict)  # of a chain, by name

    @property
    def training_flops(self) -> float:
        """The FLOPs of the steps by the architecture, companions included, without what is computed a second time to save memory."""
        return self.flops["total"] - sum(self.flops[name] for name in ("evaluation", "samples", "recomputed", "trial"))

    @property
    def part_after_start(self) -> float:
        """The part of the time that follows the start and a trial: steps, evaluations, samples and checkpoints."""
        whole = sum(self.table_seconds.values())
        return 1.0 - self._seconds("start", "weights", "trial") / whole if whole else 1.0

    @property
    def seconds_beside_steps(self) -> float:
        """The time by the table that does not follow from the speed of the steps."""
        return self._seconds("start", "weights", "checkpoints")

    def _seconds(self, *parts: str) -> float:
        return sum(self.table_seconds.get(part, 0.0) for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them; `stages` only of a chain."""
        document = {"schema_version": 1, **asdict(self)}
        document["stages"] = {name: one.to_dict() for name, one in self.stages.items()}
        if not self.stages:
            del document["stages"]
        return document


def sum_of_stages(stages: dict[str, Estimate]) -> Estimate:
    """Return the needs of a chain: sums, but of memory the largest; the model is that of the last stage."""
    parts: Sequence[Estimate] = list(stages.values())
    last, *_ = reversed(parts)
    seconds, energy, grams = parts[0].seconds, parts[0].energy_kwh, parts[0].emissions_g
    for one in parts[1:]:
        seconds, energy, grams = seconds + one.seconds, energy + one.energy_kwh, grams + one.emissions_g
    full = [one.full_power for one in parts if one.full_power is not None]
    together = None
    if len(full) == len(parts):
        hours, emissions = sum(one.hours for one in full), sum(one.emissions_g for one in full)
        together = replace(full[0], hours=hours, emissions_g=emissions)
    return replace(
        last,
        tokens=sum(one.tokens for one in parts),
        steps=sum(one.steps for one in parts),
        flops={name: sum(one.flops.get(name, 0.0) for one in parts) for name in last.flops},
        memory_bytes=max(one.memory_bytes for one in parts),
        disk_bytes=sum(one.disk_bytes for one in parts),
        seconds=seconds,
        energy_kwh=energy,
        emissions_g=grams,
        basis=", ".join(dict.fromkeys(one.basis for one in parts)),
        assumptions={name: _of_stages(stages, name) for name in last.assumptions},
        full_power=together,
        table_seconds={name: sum(one.table_seconds.get(name, 0.0) for one in parts) for name in last.table_seconds},
        probe=None,
        rate_trial=None,
        no_rate_trial=None,
        cluster=None,
        stages=dict(stages),
    )


def _of_stages(stages: dict[str, Estimate], name: str) -> str:
    """Return how a number was obtained: once where it is the same for all stages, else for each."""
    texts = {stage: one.assumptions.get(name, "") for stage, one in stages.items()}
    return texts.popitem()[1] if len({*texts.values()}) == 1 else "; ".join(f"{stage}: {text}" for stage, text in texts.items())
