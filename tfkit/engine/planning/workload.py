"""The workload of a run, in the quantities whose speeds are measured (machine_speed.py), and the time that it takes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkit.engine.planning.machine_speed import MachineSpeed
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.training.flops import ForwardShape, products

_ASSEMBLY_SECONDS = 0.1  # until the first step, apart from the weights; measured on two cores
_BYTES_PER_SECOND = 2e8  # of checkpoints written, hashed and synced, and of weights initialized, or read, hashed and rounded
_NUMBERS = ("scores", "dropped_scores", "elements", "rms_elements", "logits", "blocks")
AttentionShape = tuple[int, int, bool]  # the length of a row, head_dim, and whether it is causal


@dataclass(frozen=True)
class Workload:
    """The computation of forward and backward passes."""

    products: Mapping[int, float] = field(default_factory=dict)  # FLOPs of matrix products by their smallest size
    attention: Mapping[AttentionShape, float] = field(default_factory=dict)  # FLOPs of visible pairs in fused kernels
    scores: float = 0.0  # attention scores that are kept
    dropped_scores: float = 0.0  # the same with dropout
    elements: float = 0.0  # elements through LayerNorms, activations and sums
    rms_elements: float = 0.0  # the same with RMSNorms
    logits: float = 0.0
    blocks: float = 0.0  # calls of blocks

    def __add__(self, other: "Workload") -> "Workload":
        """Add two workloads."""
        sums: list[Any] = []
        for name in ("products", "attention"):
            counter = Counter(getattr(self, name))
            counter.update(getattr(other, name))
            sums.append(counter)
        return Workload(*sums, *(getattr(self, name) + getattr(other, name) for name in _NUMBERS))

    def __mul__(self, factor: float) -> "Workload":
        """Scale the workload."""
        products = {width: flops * factor for width, flops in self.products.items()}
        attention = {key: flops * factor for key, flops in self.attention.items()}
        return Workload(products, attention, *(factor * getattr(self, name) for name in _NUMBERS))

    def seconds(self, speed: MachineSpeed) -> float:
        """Return the time at these speeds."""
        seconds = sum(flops / speed.product_speed(width) for width, flops in self.products.items())
        seconds += sum(flops / speed.attention_speed(*key) for key, flops in self.attention.items())
        seconds += self.scores / speed.scores + self.dropped_scores / speed.dropped_scores
        seconds += self.elements / speed.elements + self.rms_elements / speed.rms_elements
        return seconds + self.logits / speed.logits + self.blocks / speed.blocks


def step_workload(model: Transformer, shape: ForwardShape) -> Workload:
    """Return the workload of the forward and backward pass of a micro-batch."""
    config, positions = model.config, shape.rows * max(shape.length, shape.decoder_length)
    by_width: Counter[int] = Counter()
    attention: Counter[AttentionShape] = Counter()
    for product in products(model, shape):
        flops = round(product.flops * (1 + product.gradients))
        if product.part != "attention":
            by_width[product.width] += flops
        elif not _keeps_scores(config):
            attention[product.length, product.width, product.causal] += flops
    logits = shape.states * config.vocab_size if config.head.kind in ("lm", "masked_lm") else 0
    scores, elements = _scores(config, shape), _elements(config, shape)
    return Workload(
        by_width,
        attention,
        0.0 if config.dropout.attention else scores,
        scores if config.dropout.attention else 0.0,
        0.0 if config.norm.kind == "rms" else elements,
        elements if config.norm.kind == "rms" else 0.0,
        logits,
        count_blocks(config) if positions else 0.0,
    )


def count_blocks(config: ModelConfig) -> float:
    """Count the blocks of a forward pass; embedding and head count as one, and cross-attention as half of one."""
    has_cross_attention = config.encoder_layers > 0 and config.decoder_layers > 0
    return config.encoder_layers + config.decoder_layers * (1.5 if has_cross_attention else 1.0) + 1.0


def _keeps_scores(config: ModelConfig) -> bool:
    """Whether attention has no fused kernel, so that its scores are kept: they are capped, biased or dropped."""
    return config.attention.softcap is not None or config.position.kind == "relative" or config.dropout.attention > 0


def _scores(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the number of attention scores of all heads; 0 if they are not kept."""
    if not _keeps_scores(config):
        return 0.0
    decoder = shape.decoder_length or shape.length
    pairs = config.encoder_layers * shape.length**2 + config.decoder_layers * decoder**2
    if config.encoder_layers and config.decoder_layers:
        pairs += config.decoder_layers * decoder * shape.length
    return float(shape.rows * config.num_heads * pairs)


def _elements(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the number of elements through norms, activations and sums."""
    width = 3 * config.dim + config.hidden_dim * (2 if config.mlp.gated else 1)
    encoder = config.encoder_layers * shape.rows * shape.length
    decoder = config.decoder_layers * shape.rows * (shape.decoder_length or shape.length)
    return float((encoder + decoder) * width)


@dataclass(frozen=True)
class RunWork:
    """The workload of a whole run. `extra`, `evaluation` and `trial` are FLOPs divided by those of `steps`."""

    steps: Workload  # forward and backward passes of all training steps
    extra: float  # of companions, recomputation, and the forward passes on sampled responses
    evaluation: float  # without samples
    updates: float  # parameters updated by the optimizer, summed over steps
    decoded: float  # decoding steps, each of a whole batch
    decoded_bytes: float  # of weights read in each
    decoded_blocks: float  # called in each
    sampled: float  # tokens drawn, of all rows
    checkpoint_bytes: float  # written in total
    weight_bytes: float  # of all models, initialized or read before the first step
    trial: float = 0.0  # of learning rates

    def seconds_by_part(self, speed: MachineSpeed, start: float) -> dict[str, float]:
        """Return the wall time of the run by part; `start`: the known seconds until its data are prepared."""
        steps = self.steps.seconds(speed)
        return {
            "start": start,
            "weights": _ASSEMBLY_SECONDS + self.weight_bytes / _BYTES_PER_SECOND,
            "steps": steps * (1 + self.extra / speed.forward) + self.updates / speed.updates,
            "trial": steps * self.trial,
            "evaluation": steps * self.evaluation / speed.forward,
            "writing": self.decoded * (self.decoded_bytes / speed.bytes + self.decoded_blocks / speed.written_blocks)
            + self.sampled / speed.sampled,
            "checkpoints": self.checkpoint_bytes / _BYTES_PER_SECOND,
        }
