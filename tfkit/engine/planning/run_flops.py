"""Count the FLOPs of a whole run by part: its steps, evaluations, samples and its trial of learning rates.

Also count the run's workload, in the operations whose speeds are measured (machine_speed.py), and compute the time of a workload.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.data import BatchSizes, Loader, Rows
from tfkit.engine.assembly.components import in_steps
from tfkit.engine.assembly.memory_plan import checkpoint_bytes, trained_numel
from tfkit.engine.assembly.step_flops import StepFlops, pretraining_flops, reference_flops, sampled_flops
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.planning.machine_speed import MachineSpeed, Operation
from tfkit.engine.training_run.estimate import NoTrial, RateTrialPlan, plan_trial
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import tokens_of
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.flops import ForwardShape, forward_flops, products
from tfkit.training.memory import has_logits

_ASSEMBLY_SECONDS = 0.1  # of work before the first step, apart from the weights; measured on two cores
_BYTES_PER_SECOND = 2e8  # of checkpoints written, hashed and synced, and of weights initialized, or read, hashed and rounded
Workload = Mapping[Operation, float]  # the amount of each operation in forward and backward passes
_ROLLOUT_MICRO_BATCHES = 8  # of responses that are sampled at once, as in rollout_loader.py


def step_workload(model: Transformer, shapes: Iterable[tuple[ForwardShape, float]]) -> Workload:
    """Return the workload of the forward and backward passes of micro-batches, given as pairs of a shape and a count."""
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
    if config.stacks == "both":
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
        """Return the wall time of the run by part; `start`: the known seconds until the run's data are prepared."""
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


def run_flops(
    recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int
) -> tuple[dict[str, float], RunWork, RateTrialPlan | NoTrial | None]:
    """Return the FLOPs of the whole run by part, as in `Estimate`, the workload of the run, and its learning rate trial."""
    sample, rows = sampled_flops(recipe, data, model, loader, steps), loader.sizes.before(steps)
    whole = sample * (rows / sample.rows) + pretraining_flops(recipe, data, model, rows)
    forward, backward = whole.forward, whole.backward
    held_out = sum(tokens_of(validation.stored) for validation in data.validation)
    evaluations = evaluation_count(recipe, data, loader.rows, loader.sizes, steps)
    parts = {
        "forward": forward.total,
        "backward": backward.total,
        "companions": whole.companions_in_steps + whole.companions_in_rollouts + reference_flops(data, sample),
        "rollouts": whole.rollouts,
        "recomputed": whole.recomputed,
        "evaluation": evaluations * _evaluation_flops(recipe, data, sample, held_out),
        "samples": _sample_count(data, evaluations) * _sample_flops(recipe, model),
    }
    total = sum(parts.values())
    in_steps = parts["forward"] + parts["backward"] + parts["companions"] + parts["recomputed"]
    distinct = 0 if recipe.training.trial_rates is None else len(np.unique(loader.rows.order(0)))  # weighted sources repeat rows
    trial = plan_trial(recipe, distinct, steps, total, in_steps / max(1, steps), forward.total / rows)
    parts["trial"] = trial.flops if isinstance(trial, RateTrialPlan) else 0.0
    total += parts["trial"]
    included = {"attention": forward.attention + backward.attention, "head": forward.head + backward.head}
    trained = forward.total + backward.total
    work = RunWork(
        steps=step_workload(model, whole.shapes),
        extra=(parts["companions"] + parts["recomputed"] + parts["rollouts"] / 2) / trained,  # the other half is decoding
        evaluation=parts["evaluation"] / trained,
        trial=parts["trial"] / trained,
        updates=float(steps * trained_numel(model)),
        **_other_work(recipe, data, model, loader, steps, evaluations),
    )
    return {"total": total, **parts, **included}, work, trial


def _other_work(
    recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int, evaluations: int
) -> dict[str, float]:
    """Return the fields of RunWork for decoding, checkpoints and weights, by name."""
    written = _sample_count(data, evaluations)
    decoded = float(written * recipe.generation.max_new_tokens) if recipe.generation.prompts else 0.0
    sampled = decoded * len(recipe.generation.prompts)
    if (rollouts := data.objective.rollouts) is not None:
        at_once = _ROLLOUT_MICRO_BATCHES * loader.micro_batch_size
        iterations = steps * loader.sizes.full / (rollouts.responses * rollouts.section.inner_epochs)
        held_out = sum(len(validation.stored) for validation in data.validation)
        batches = iterations * -(-rollouts.responses // at_once) + evaluations * -(-held_out // recipe.evaluation.batch_size)
        decoded += batches * rollouts.section.max_new_tokens
        sampled += (iterations * rollouts.responses + evaluations * held_out) * rollouts.section.max_new_tokens
    saves = _count_intervals(in_steps(recipe.checkpoint.every, loader.rows, loader.sizes), steps)
    own, *further = (
        4.0 * sum(one.numel() for one in each.parameters()) for each in (model, *(one.model for one in data.objective.companions))
    )
    return {
        "decoded": decoded,
        "decoded_bytes": own,
        "decoded_blocks": count_blocks(model.config),
        "sampled": sampled,
        "checkpoint_bytes": float(saves * checkpoint_bytes(recipe, model, data.objective)),
        "weight_bytes": own + sum(further),
    }


def evaluation_count(recipe: Recipe, data: TrainingData, rows: Rows, sizes: BatchSizes, steps: int) -> int:
    """Count the evaluations of a run: at its intervals, at its end, and before the first step of a fine-tuning."""
    return _count_intervals(in_steps(recipe.evaluation.every, rows, sizes), steps) + (data.start is not None)


def _sample_count(data: TrainingData, evaluations: int) -> int:
    """Count the evaluations with samples: not the one before the first step of a fine-tuning."""
    return evaluations - (data.start is not None)


def _count_intervals(interval: int | None, steps: int) -> int:
    """Count the intervals of a run, in steps, the last of which may be shorter; None: a single one."""
    return (steps // interval if interval else 0) + (not interval or steps % interval > 0)


def _evaluation_flops(recipe: Recipe, data: TrainingData, sample: StepFlops, held_out: int) -> float:
    """Return the FLOPs of an evaluation: a forward pass on its tokens; for held-out prompts, responses are also sampled and scored."""
    objective, most = data.objective, recipe.evaluation.max_tokens
    if objective.rollouts is None:
        return min(held_out, most or held_out) * sample.forward.total / max(1, sample.tokens)
    prompts = sum(len(validation.stored) for validation in data.validation)
    whole = held_out + prompts * objective.rollouts.section.max_new_tokens
    rollouts = (sample.rollouts + sample.companions_in_rollouts) * objective.rollouts.section.inner_epochs
    return min(whole, most or whole) * rollouts / max(1, sample.tokens)


def _sample_flops(recipe: Recipe, model: Transformer) -> float:
    """Return the FLOPs of the samples of an evaluation, generated with a cache: a forward pass on each new token."""
    generation = recipe.generation
    length = min(generation.max_new_tokens, model.config.context_length)
    is_encoder_decoder = model.config.encoder_layers > 0 and model.config.decoder_layers > 0
    texts = len(generation.prompts) * generation.num_beams
    return forward_flops(model, ForwardShape(texts, length, length if is_encoder_decoder else 0, texts * length)).total if texts else 0.0
