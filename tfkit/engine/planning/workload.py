"""The quantities of a run whose speed a machine has (machine_speed.py), and the time that they take there."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfkit.engine.planning.machine_speed import MachineSpeed
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.training.flops import ForwardShape, products

_ASSEMBLING_SECONDS = 1.0  # torch.optim imports the compiler for its first optimizer; measured on two cores
_DISK_BYTES = 2e8  # a second: a checkpoint is written, hashed and synced; weights are made, or read, hashed and rounded


@dataclass(frozen=True)
class Workload:
    """The computation of some forwards and their backward passes."""

    products: Mapping[int, float] = field(default_factory=dict)  # FLOPs of forward and backward by the smallest size of a product
    attention: float = 0.0  # FLOPs of visible pairs
    elements: float = 0.0  # numbers through norms, activations and sums
    logits: float = 0.0
    calls: float = 0.0  # modules, forward and backward

    def __add__(self, other: "Workload") -> "Workload":
        """Both together."""
        together = Counter(self.products)
        together.update(other.products)
        names = ("attention", "elements", "logits", "calls")
        return Workload(together, *(getattr(self, name) + getattr(other, name) for name in names))

    def __mul__(self, factor: float) -> "Workload":
        """As often as `factor` says."""
        found = {width: flops * factor for width, flops in self.products.items()}
        return Workload(found, self.attention * factor, self.elements * factor, self.logits * factor, self.calls * factor)

    def seconds(self, speed: MachineSpeed) -> float:
        """Return the time at these speeds."""
        found = sum(flops / speed.at_width(width) for width, flops in self.products.items())
        found += self.attention / speed.attention + self.elements / speed.elements
        return found + self.logits / speed.logits + self.calls / speed.calls


def step_workload(model: Transformer, shape: ForwardShape) -> Workload:
    """Return what forward and backward of a micro-batch compute."""
    found: Counter[int] = Counter()
    attention = 0.0
    for one in products(model, shape):
        if one.part == "attention":
            attention += one.flops * (1 + one.gradients)
        else:
            found[one.width] += round(one.flops * (1 + one.gradients))
    config, positions = model.config, shape.rows * max(shape.length, shape.decoder_length)
    logits = shape.states * config.vocab_size if config.head.kind in ("lm", "masked_lm") else 0
    return Workload(found, attention, _elements(config, shape), logits, calls_of(config) if positions else 0)


def calls_of(config: ModelConfig) -> int:
    """Return the modules of a forward, each a product with what surrounds it."""
    gates = 3 if config.mlp.gated else 2
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    return (config.encoder_layers + config.decoder_layers) * (5 + gates) + (5 * config.decoder_layers if both else 0) + 3


def _elements(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the numbers that pass through norms, activations and sums; a capped or biased attention has all scores pass, too."""
    width = 3 * config.dim + config.hidden_dim * (2 if config.mlp.gated else 1)
    encoder = config.encoder_layers * shape.rows * shape.length
    decoder = config.decoder_layers * shape.rows * (shape.decoder_length or shape.length)
    scores = 0.0
    if config.attention.softcap is not None or config.position.kind == "relative" or config.dropout.attention:
        length = max(shape.length, shape.decoder_length)
        scores = (config.encoder_layers + config.decoder_layers) * shape.rows * config.num_heads * float(length) ** 2
    return (encoder + decoder) * width + scores


@dataclass(frozen=True)
class RunWork:
    """A whole run: its steps, what is computed beside them as a multiple of these, and the rest."""

    steps: Workload  # of all training steps
    beside: float  # FLOPs of other models in the steps and of what is computed twice, for each FLOP of forward and backward
    evaluation: float  # the same of the evaluations, without the samples
    updates: float  # numbers that the optimizer changes
    decoded: float  # new tokens one after the other, of a batch as a whole
    decoded_bytes: float  # of weights that each reads
    decoded_calls: float  # modules that each calls
    checkpoint_bytes: float  # written in all
    weight_bytes: float  # of all models, before the first step
    trial: float = 0.0  # FLOPs of a trial of learning rates, for each FLOP of forward and backward

    def seconds_by_part(self, speed: MachineSpeed, start: float) -> dict[str, float]:
        """Return the wall time of the run at these speeds: of its start, which is known, weights, the steps, evaluations, texts token by
        token, checkpoints.
        """
        steps = self.steps.seconds(speed)
        return {
            "start": start,
            "weights": _ASSEMBLING_SECONDS + self.weight_bytes / _DISK_BYTES,
            "steps": steps * (1 + self.beside) + self.updates / speed.updates,
            "trial": steps * self.trial,
            "evaluation": steps * self.evaluation,
            "writing": self.decoded * (self.decoded_bytes / speed.bytes + self.decoded_calls / (3 * speed.calls)),
            "checkpoints": self.checkpoint_bytes / _DISK_BYTES,
        }
