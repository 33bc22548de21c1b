"""The workload of a run, in the quantities whose speeds are measured (machine_speed.py), and the time that it takes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tfkit.engine.planning.machine_speed import MachineSpeed, Operation
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.training.flops import ForwardShape, products
from tfkit.training.memory import has_logits

_ASSEMBLY_SECONDS = 0.1  # until the first step, apart from the weights; measured on two cores
_BYTES_PER_SECOND = 2e8  # of checkpoints written, hashed and synced, and of weights initialized, or read, hashed and rounded
Workload = Mapping[Operation, float]  # how much of each operation forward and backward passes take


def step_workload(model: Transformer, shapes: Iterable[tuple[ForwardShape, float]]) -> Workload:
    """Return the workload of the forward and backward passes of micro-batches of these shapes, each with its number."""
    work: defaultdict[Operation, float] = defaultdict(float)
    config = model.config
    for shape, number in shapes:
        for product in products(model, shape):
            flops = number * product.flops * (1 + product.gradients)
            if product.part != "attention":
                work["products", product.width] += flops
            elif not _keeps_scores(config):
                work["attention", product.length, product.width, product.causal] += flops
        work["dropped_scores" if config.dropout.attention else "scores"] += number * _scores(config, shape)
        work["rms_elements" if config.norm.kind == "rms" else "elements"] += number * _elements(config, shape)
        work["logits"] += number * (shape.states * config.vocab_size if has_logits(config) else 0)
        work["blocks"] += number * (count_blocks(config) if shape.rows else 0.0)
    return work


def seconds_of(work: Workload, speed: MachineSpeed) -> float:
    """Return the time of a workload at these speeds."""
    return sum(amount / speed.of(operation) for operation, amount in work.items())


def count_blocks(config: ModelConfig) -> float:
    """Count the blocks of a forward pass; embedding and head count as one, and cross-attention as half of one."""
    has_cross_attention = config.encoder_layers > 0 and config.decoder_layers > 0
    return config.encoder_layers + config.decoder_layers * (1.5 if has_cross_attention else 1.0) + 1.0


def _keeps_scores(config: ModelConfig) -> bool:
    """Whether attention has no fused kernel, so that its scores are kept: they are capped, biased or dropped."""
    return config.attention.softcap is not None or config.adds_to_scores or config.dropout.attention > 0


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
    width = 3 * config.dim + config.active_hidden_dim * (2 if config.mlp.gated else 1)
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
        steps = seconds_of(self.steps, speed)
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
