"""The quantities of a run whose speed a machine has (machine_speed.py), and the time that they take there."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkit.engine.planning.machine_speed import MachineSpeed
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.training.flops import ForwardShape, products

_ASSEMBLING_SECONDS = 1.0  # torch.optim imports the compiler for its first optimizer; measured on two cores
_DISK_BYTES = 2e8  # a second: a checkpoint is written, hashed and synced; weights are made, or read, hashed and rounded


_NUMBERS = ("scores", "dropped_scores", "elements", "rms_elements", "logits", "blocks")
Pairs = tuple[int, int, bool]  # the length of a row, the width of a head, and whether a query sees what is before it alone


@dataclass(frozen=True)
class Workload:
    """The computation of some forwards and their backward passes."""

    products: Mapping[int, float] = field(default_factory=dict)  # FLOPs of forward and backward by the smallest size of a product
    attention: Mapping[Pairs, float] = field(default_factory=dict)  # FLOPs of visible pairs, forward and backward
    scores: float = 0.0  # of attention that keeps them
    dropped_scores: float = 0.0  # the same with dropout
    elements: float = 0.0  # numbers through LayerNorms, activations and sums
    rms_elements: float = 0.0  # the same with RMSNorms
    logits: float = 0.0
    blocks: float = 0.0  # that are called, forward and backward

    def __add__(self, other: "Workload") -> "Workload":
        """Both together."""
        sums: list[Any] = []
        for name in ("products", "attention"):
            together = Counter(getattr(self, name))
            together.update(getattr(other, name))
            sums.append(together)
        return Workload(*sums, *(getattr(self, name) + getattr(other, name) for name in _NUMBERS))

    def __mul__(self, factor: float) -> "Workload":
        """As often as `factor` says."""
        found = {width: flops * factor for width, flops in self.products.items()}
        attention = {key: flops * factor for key, flops in self.attention.items()}
        return Workload(found, attention, *(factor * getattr(self, name) for name in _NUMBERS))

    def seconds(self, speed: MachineSpeed) -> float:
        """Return the time at these speeds."""
        found = sum(flops / speed.at_width(width) for width, flops in self.products.items())
        found += sum(flops / speed.of_attention(*key) for key, flops in self.attention.items())
        found += self.scores / speed.scores + self.dropped_scores / speed.dropped_scores
        found += self.elements / speed.elements + self.rms_elements / speed.rms_elements
        return found + self.logits / speed.logits + self.blocks / speed.blocks


def step_workload(model: Transformer, shape: ForwardShape) -> Workload:
    """Return what forward and backward of a micro-batch compute."""
    config, positions = model.config, shape.rows * max(shape.length, shape.decoder_length)
    found: Counter[int] = Counter()
    attention: Counter[Pairs] = Counter()
    for one in products(model, shape):
        flops = round(one.flops * (1 + one.gradients))
        if one.part != "attention":
            found[one.width] += flops
        elif not keeps_scores(config):
            attention[one.length, one.width, one.causal] += flops
    logits = shape.states * config.vocab_size if config.head.kind in ("lm", "masked_lm") else 0
    scores, elements = _scores(config, shape), _elements(config, shape)
    return Workload(
        found,
        attention,
        0.0 if config.dropout.attention else scores,
        scores if config.dropout.attention else 0.0,
        0.0 if config.norm.kind == "rms" else elements,
        elements if config.norm.kind == "rms" else 0.0,
        logits,
        blocks_of(config) if positions else 0.0,
    )


def blocks_of(config: ModelConfig) -> float:
    """Return the blocks of a forward; embedding and head are taken for one, and attention to an encoder for a half."""
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    return config.encoder_layers + config.decoder_layers * (1.5 if both else 1.0) + 1.0


def keeps_scores(config: ModelConfig) -> bool:
    """Whether attention has no fused kernel: scores that are capped, biased or dropped are kept."""
    return config.attention.softcap is not None or config.position.kind == "relative" or config.dropout.attention > 0


def _scores(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the scores of all heads, where they are kept."""
    if not keeps_scores(config):
        return 0.0
    decoder = shape.decoder_length or shape.length
    pairs = config.encoder_layers * shape.length**2 + config.decoder_layers * decoder**2
    if config.encoder_layers and config.decoder_layers:
        pairs += config.decoder_layers * decoder * shape.length
    return float(shape.rows * config.num_heads * pairs)


def _elements(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the numbers that pass through norms, activations and sums."""
    width = 3 * config.dim + config.hidden_dim * (2 if config.mlp.gated else 1)
    encoder = config.encoder_layers * shape.rows * shape.length
    decoder = config.decoder_layers * shape.rows * (shape.decoder_length or shape.length)
    return float((encoder + decoder) * width)


@dataclass(frozen=True)
class RunWork:
    """A whole run: its steps, what is computed beside them as a multiple of these, and the rest."""

    steps: Workload  # of all training steps
    beside: float  # FLOPs of other models in the steps and of what is computed twice, for each FLOP of forward and backward
    evaluation: float  # the same of the evaluations, without the samples
    updates: float  # numbers that the optimizer changes
    decoded: float  # new tokens one after the other, of a batch as a whole
    decoded_bytes: float  # of weights that each reads
    decoded_blocks: float  # that each calls
    sampled: float  # new tokens of all texts, each of which is drawn
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
            "steps": steps * (1 + self.beside / speed.forward) + self.updates / speed.updates,
            "trial": steps * self.trial,
            "evaluation": steps * self.evaluation / speed.forward,
            "writing": self.decoded * (self.decoded_bytes / speed.bytes + self.decoded_blocks / speed.written_blocks)
            + self.sampled / speed.sampled,
            "checkpoints": self.checkpoint_bytes / _DISK_BYTES,
        }
