"""The result of a plan. Torch-free."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A number that is not known exactly."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The needs of a run.

    `flops`: `total` is the sum of `forward`, `backward` (of the trained model in all steps), `companions` (teacher, reference, reward and
    value models), `rollouts` (of sampled responses: the sampling, and the policy's own forward before the first step), `recomputed` (of
    activation checkpointing, and of logits that are too large to keep), `evaluation` and `samples`. `attention` and `head` are parts of
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
    basis: str  # "table": nothing was tried out

    @property
    def training_flops(self) -> float:
        """The FLOPs of the steps by the architecture, companions included, without what is computed a second time to save memory."""
        return self.flops["total"] - self.flops["evaluation"] - self.flops["samples"] - self.flops["recomputed"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"schema_version": 1, **asdict(self)}
