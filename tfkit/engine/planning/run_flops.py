"""Count the FLOPs of a whole run by part, such as its steps, evaluations, samples and learning rate trial.

This module also counts the workload of a run, in operations whose speeds machine_speed.py measures, and computes the run's time from it.
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
from tfkit.engine.assembly.validation import SetScorer
from tfkit.engine.planning.machine_speed import MachineSpeed, Operation
from tfkit.engine.training_run.estimate import RateTrialPlan, plan_trial
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import tokens_of
from tfkit.objectives.registry import row_order
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.flops import ForwardShape, forward_flops, products
from tfkit.training.memory import has_logits

_ASSEMBLY_SECONDS = 0.1  # time for assembling a run, without reading or initializing its weights; measured on two cores
_BYTES_PER_SECOND = 2e8  # speed of writing, hashing and syncing checkpoints; and of initializing, or reading, hashing and rounding, weights
Workload = Mapping[Operation, float]  # the amount of each operation in forward and backward passes, in the unit of its speed


def step_workload(model: Transformer, shapes: Iterable[tuple[ForwardShape, float]]) -> Workload:
    """Return the workload of the forward and backward passes of micro-batches; `shapes`: each shape, with how often it occurs."""
    work: defaultdict[Operation, float] = defaultdict(float)
    config = model.config
    for shape, count in shapes:
        for product in products(model, shape):
            flops = count * product.flops * (1 + product.gradients)
            if product.part != "attention":
                work["products", product.width] += flops
            elif not _keeps_scores(config):
                work["attention", product.length, product.width, product.causal] += flops
        work["dropped_scores" if config.dropout.attention else "scores"] += count * _scores(config, shape)
        work["rms_elements" if config.norm.kind == "rms" else "elements"] += count * _elements(config, shape)
        work["logits"] += count * (shape.states * config.vocab_size if has_logits(config) else 0)
        work["blocks"] += count * (count_blocks(config) if shape.rows else 0.0)
    return work


def seconds_of(work: Workload, speed: MachineSpeed) -> float:
    """Return the time of a workload in seconds."""
    return sum(amount / speed.of(operation) for operation, amount in work.items())


def count_blocks(config: ModelConfig) -> float:
    """Count the blocks of a forward pass: embedding and head together count as one block, and each cross-attention as half a block."""
    has_cross_attention = config.encoder_layers > 0 and config.decoder_layers > 0
    return config.encoder_layers + config.decoder_layers * (1.5 if has_cross_attention else 1.0) + 1.0


def _keeps_scores(config: ModelConfig) -> bool:
    """Whether attention keeps its scores: no fused kernel on a CPU supports a soft-cap, a learned bias or dropout."""
    return config.attention.softcap is not None or config.adds_to_scores or config.dropout.attention > 0


def _scores(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the number of attention scores in all layers and heads; 0 if attention does not keep them."""
    if not _keeps_scores(config):
        return 0.0
    decoder = shape.decoder_length or shape.length
    pairs = config.encoder_layers * shape.length**2 + config.decoder_layers * decoder**2
    if config.stacks == "both":
        pairs += config.decoder_layers * decoder * shape.length
    return float(shape.rows * config.num_heads * pairs)


def _elements(config: ModelConfig, shape: ForwardShape) -> float:
    """Return the number of elements that pass through norms, activation functions and residual sums."""
    width = 3 * config.dim + config.active_hidden_dim * (2 if config.mlp.gated else 1)
    encoder = config.encoder_layers * shape.rows * shape.length
    decoder = config.decoder_layers * shape.rows * (shape.decoder_length or shape.length)
    return float((encoder + decoder) * width)


@dataclass(frozen=True)
class RunWork:
    """The workload of a whole run. `extra`, `evaluation` and `trial` are FLOPs, divided by the FLOPs of `steps`."""

    steps: Workload  # forward and backward passes of all training steps
    extra: float  # FLOPs of companions (such as a teacher), recomputation, and forward passes on sampled responses
    evaluation: float  # FLOPs of scoring the held-out rows, without samples
    updates: float  # parameters updated by the optimizer, summed over steps
    decoded: float  # number of decoding steps, each of which adds a token to every row of a batch
    decoded_bytes: float  # bytes of the weights, which are read in each decoding step
    decoded_blocks: float  # number of blocks called in each decoding step
    sampled: float  # tokens drawn, summed over all rows of the batches
    checkpoint_bytes: float  # bytes of all checkpoints together
    weight_bytes: float  # bytes of the weights of all models, initialized or read before the first step
    trial: float = 0.0  # FLOPs of the learning rate trial

    def seconds_by_part(self, speed: MachineSpeed, start: float) -> dict[str, float]:
        """Return the wall time of each part of the run, in seconds; `start`: the measured time until the data are prepared."""
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
) -> tuple[dict[str, float], RunWork, RateTrialPlan | str | None]:
    """Return the FLOPs of the run by part (see `Estimate.flops`), its workload, and its learning rate trial, as `plan_trial` returns it."""
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
    step_flops = (parts["forward"] + parts["backward"] + parts["companions"] + parts["recomputed"]) / max(1, steps)
    distinct = 0 if recipe.training.trial_rates is None else len(np.unique(loader.rows.order(0)))  # rows of a weighted source may repeat
    trial = plan_trial(recipe, distinct, steps, total, step_flops, forward.total / rows)
    parts["trial"] = trial.flops if isinstance(trial, RateTrialPlan) else 0.0
    total += parts["trial"]
    included = {"attention": forward.attention + backward.attention, "head": forward.head + backward.head}
    trained = forward.total + backward.total
    work = RunWork(
        steps=step_workload(model, whole.shapes),
        extra=(parts["companions"] + parts["recomputed"] + parts["rollouts"] / 2) / trained,  # the other half of rollouts is decoding
        evaluation=parts["evaluation"] / trained,
        trial=parts["trial"] / trained,
        updates=float(steps * trained_numel(model)),
        **_other_work(recipe, data, model, loader, steps, evaluations),
    )
    return {"total": total, **parts, **included}, work, trial


def _other_work(
    recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int, evaluations: int
) -> dict[str, float]:
    """Return the fields of `RunWork` that concern decoding, checkpoints and weights, by name."""
    written = _sample_count(data, evaluations)
    decoded = float(written * recipe.generation.max_new_tokens) if recipe.generation.prompts else 0.0
    sampled = decoded * len(recipe.generation.prompts)
    if (rollouts := data.objective.rollouts) is not None:
        from tfkit.alignment.rollout_loader import SAMPLED_MICRO_BATCHES

        at_once = SAMPLED_MICRO_BATCHES * loader.micro_batch_size
        iterations = steps * loader.sizes.full / (rollouts.responses * rollouts.section.inner_epochs)
        held_out = _scored_prompts(recipe, data)
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
    """Count the evaluations that generate samples: all but the one before the first step of a fine-tuning."""
    return evaluations - (data.start is not None)


def _count_intervals(interval: int | None, steps: int) -> int:
    """Count the intervals of `interval` steps in `steps` steps; the last may be shorter. With None, the whole run is one interval."""
    return (steps // interval if interval else 0) + (not interval or steps % interval > 0)


def _evaluation_flops(recipe: Recipe, data: TrainingData, sample: StepFlops, held_out: int) -> float:
    """Return the FLOPs of an evaluation: a forward pass on the held-out tokens or, if responses are sampled, sampling and scoring them."""
    scored, rollouts = min(held_out, recipe.evaluation.max_tokens or held_out), data.objective.rollouts
    if rollouts is None:
        return scored * sample.forward.total / max(1, sample.tokens)
    scored += _scored_prompts(recipe, data) * rollouts.section.max_new_tokens
    flops = (sample.rollouts + sample.companions_in_rollouts) * rollouts.section.inner_epochs
    return scored * flops / max(1, sample.tokens)


def _scored_prompts(recipe: Recipe, data: TrainingData) -> int:
    """Return the number of held-out prompts that an evaluation answers."""
    return sum(SetScorer(recipe.evaluation, row_order(recipe, data.config), data.objective).counts(data.validation))


def _sample_flops(recipe: Recipe, model: Transformer) -> float:
    """Return the FLOPs of the samples of an evaluation: with a key-value cache, one forward pass on each new token."""
    generation = recipe.generation
    length = min(generation.max_new_tokens, model.config.context_length)
    is_encoder_decoder = model.config.encoder_layers > 0 and model.config.decoder_layers > 0
    texts = len(generation.prompts) * generation.num_beams
    return forward_flops(model, ForwardShape(texts, length, length if is_encoder_decoder else 0, texts * length)).total if texts else 0.0
