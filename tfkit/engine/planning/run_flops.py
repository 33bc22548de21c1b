"""Count the FLOPs of a run by part, from the shapes of its real batches: padding counts, and the head reads labelled positions only."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, Literal

from tfkit.data import Loader, StepLoader
from tfkit.engine.assembly.components import trained_numel
from tfkit.engine.assembly.memory_plan import planned_bytes
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.planning.workload import RunWork, Workload, count_blocks, step_workload
from tfkit.engine.training_run.rate_trial_plan import NoTrial, RateTrialPlan, plan_trial
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import tokens_of
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.registry import row_order
from tfkit.objectives.vocabulary_loss import LOGITS_BYTES
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.flops import Flops, ForwardShape, backward_flops, forward_flops, trained_shape

_SAMPLED_TOKENS = 65_536  # after which no further steps are read
_SAMPLED_STEPS = 8  # across the first epoch
_ROLLOUT_MICRO_BATCHES = 8  # whose responses are sampled at once, as in rollout_loader.py


@dataclass(frozen=True)
class StepFlops:
    """The FLOPs of a number of training rows, of the trained model and of further models."""

    rows: int
    tokens: int
    forward: Flops
    backward: Flops
    companions_in_steps: float
    companions_in_rollouts: float  # scoring sampled responses before the first step of an iteration
    rollouts: float  # sampling, and the policy's own forward pass on the responses
    recomputed: float
    work: Workload  # of forward and backward passes

    @classmethod
    def of(cls, objective: Objective, model: Transformer, batch: Batch, rows: int, *, checkpointing: bool = False) -> "StepFlops":
        """Return the FLOPs of a micro-batch in a step; `rows`: of the training data, each of which may be several sequences."""
        if batch.is_pretraining and (mix := objective.pretraining) is not None:
            return _text_flops(model, batch, mix.count(batch), checkpointing=checkpointing)
        shape = trained_shape(objective, batch, model.config)
        forward = forward_flops(model, shape)
        recomputed = forward.blocks + forward.attention if checkpointing else 0.0
        if model.config.head.kind in ("lm", "masked_lm") and shape.states * model.config.vocab_size * 4 > LOGITS_BYTES:
            recomputed += forward.head
        backward, work = backward_flops(model, shape), step_workload(model, shape)
        companions = sum(_companion_flops(objective, companion, batch) for companion in objective.companions)
        policy, scoring = _rollout_flops(objective, model, shape) if objective.rollouts is not None else (0.0, 0.0)
        return cls(rows, batch.tokens, forward, backward, companions, scoring, policy, recomputed, work)

    def __add__(self, other: "StepFlops") -> "StepFlops":
        """Add two counts."""
        return StepFlops(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def run_flops(
    recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int
) -> tuple[dict[str, float], RunWork, RateTrialPlan | NoTrial | None]:
    """Return the FLOPs of the whole run by part, as in `Estimate`, the workload of the run, and its learning rate trial."""
    checkpointing, objective = recipe.training.activation_checkpointing, data.objective
    batches = sampled_batches(data, loader, steps)
    sample = reduce(add, (StepFlops.of(objective, model, batch, count, checkpointing=checkpointing) for batch, count in batches))
    rows = loader.sizes.before(steps)
    scale = rows / sample.rows
    text = _pretraining_flops(recipe, data, model, rows, checkpointing=checkpointing)
    forward, backward = sample.forward * scale + text.forward, sample.backward * scale + text.backward
    per_token = sample.forward.total / max(1, sample.tokens)
    held_out = sum(tokens_of(validation.stored) for validation in data.validation)
    reference = sum(tokens_of(stored) for stored, _ in data.train) + held_out if objective.reference_use == "once" else 0
    evaluations = evaluation_count(recipe, data, loader, steps)
    parts = {
        "forward": forward.total,
        "backward": backward.total,
        "companions": (sample.companions_in_steps + sample.companions_in_rollouts) * scale + reference * per_token,
        "rollouts": sample.rollouts * scale,
        "recomputed": sample.recomputed * scale + text.recomputed,
        "evaluation": evaluations * _evaluation_flops(recipe, data, sample, held_out),
        "samples": (evaluations - (data.start is not None)) * _sample_flops(recipe, model),
    }
    total = sum(parts.values())
    in_steps = parts["forward"] + parts["backward"] + parts["companions"] + parts["recomputed"]
    trial = plan_trial(recipe, len(loader.rows), steps, total, in_steps / max(1, steps), forward.total / rows)
    parts["trial"] = trial.flops if isinstance(trial, RateTrialPlan) else 0.0
    total += parts["trial"]
    included = {"attention": forward.attention + backward.attention, "head": forward.head + backward.head}
    trained = forward.total + backward.total
    work = replace(
        _fixed_work(recipe, data, model, loader, steps, evaluations),
        steps=sample.work * scale + text.work,
        extra=(parts["companions"] + parts["recomputed"] + parts["rollouts"] / 2) / trained,  # the other half is decoding
        evaluation=parts["evaluation"] / trained,
        trial=parts["trial"] / trained,
    )
    return {"total": total, **parts, **included}, work, trial


def _fixed_work(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int, evaluations: int) -> RunWork:
    """Return the workload of a run without forward and backward passes: optimizer updates, decoding, checkpoints and weights."""
    decoded = float(evaluations * recipe.generation.max_new_tokens) if recipe.generation.prompts else 0.0
    sampled = decoded * len(recipe.generation.prompts)
    if (rollouts := data.objective.rollouts) is not None:
        at_once = _ROLLOUT_MICRO_BATCHES * loader.micro_batch_size
        iterations = steps * loader.sizes.full / (rollouts.responses * rollouts.section.inner_epochs)
        held_out = sum(len(validation.stored) for validation in data.validation)
        batches = iterations * -(-rollouts.responses // at_once) + evaluations * -(-held_out // recipe.evaluation.batch_size)
        decoded += batches * rollouts.section.max_new_tokens
        sampled += (iterations * rollouts.responses + evaluations * held_out) * rollouts.section.max_new_tokens
    saves = _count_intervals(recipe.checkpoint.every, loader, steps)
    models = [model, *(companion.model for companion in data.objective.companions)]
    return RunWork(
        steps=Workload(),
        extra=0.0,
        evaluation=0.0,
        updates=float(steps * trained_numel(model)),
        decoded=decoded,
        decoded_bytes=4.0 * sum(parameter.numel() for parameter in model.parameters()),
        decoded_blocks=count_blocks(model.config),
        sampled=sampled,
        checkpoint_bytes=saves * planned_bytes(recipe, model, data.objective.companions) / (recipe.checkpoint.keep + 2),
        weight_bytes=4.0 * sum(parameter.numel() for each in models for parameter in each.parameters()),
    )


def evaluation_count(recipe: Recipe, data: TrainingData, loader: StepLoader[Any], steps: int) -> int:
    """Count the evaluations of a run: at its intervals, at its end, and before the first step of a fine-tuning."""
    return _count_intervals(recipe.evaluation.every, loader, steps) + (data.start is not None)


def _count_intervals(every: int | Literal["epoch"] | None, loader: StepLoader[Any], steps: int) -> int:
    """Count the intervals of a run, the last of which may be shorter; None: a single one."""
    interval = loader.sizes.steps(len(loader.rows)) if every == "epoch" else every
    return (steps // interval if interval else 0) + (not interval or steps % interval > 0)


def sampled_batches(data: TrainingData, loader: Loader[Any], steps: int) -> Iterator[tuple[Batch, int]]:
    """Yield micro-batches of steps across the first epoch, and the rows of each; prompts get responses of the maximum length."""
    last = max(1, min(steps, loader.sizes.steps(len(loader.rows))))
    tokens = 0
    for step in dict.fromkeys(index * last // _SAMPLED_STEPS for index in range(_SAMPLED_STEPS)):
        left = len(loader.numbers(step))
        for batch in loader.step(step):
            rows = min(left, loader.micro_batch_size)
            left -= rows
            tokens += batch.tokens
            yield _with_responses(data.objective, batch), rows
        if tokens >= _SAMPLED_TOKENS:
            return


def _with_responses(objective: Objective, batch: Batch) -> Batch:
    """Return a batch of prompts with responses of the maximum length, as the loss reads them; any other batch unchanged."""
    if objective.rollouts is None:
        return batch
    import numpy as np

    from tfkit.objectives.rollouts import Response, response_batch

    lengths = [batch.input_ids.shape[1]] * len(batch.input_ids) if batch.padding_mask is None else batch.padding_mask.sum(1).tolist()
    new = np.zeros(objective.rollouts.section.max_new_tokens, np.int64)
    return response_batch([Response(np.zeros(length, np.int64), new, {}) for length in lengths], 0)


def _companion_flops(objective: Objective, companion: Companion, batch: Batch) -> float:
    """Return the FLOPs of a companion in a step: a backward pass only if it is trained; none for a reward model, which scores rollouts."""
    if objective.rollouts is not None and not companion.trained:
        return 0.0
    shape = _companion_shape(objective, companion.model.config, batch)
    forward = forward_flops(companion.model, shape).total
    return forward + (backward_flops(companion.model, shape).total if companion.trained else 0.0)


def _companion_shape(objective: Objective, config: ModelConfig, batch: Batch) -> ForwardShape:
    """Return the shape of a companion's forward pass on a batch; a value model's head reads the state of each response token."""
    shape = ForwardShape.of(batch, config, objective.companion_states(batch))
    if objective.rollouts is not None and config.head.kind == "classes":
        shape = replace(shape, states=objective.companion_states(batch))
    return shape


def _rollout_flops(objective: Objective, model: Transformer, shape: ForwardShape) -> tuple[float, float]:
    """Return the FLOPs before the first step of an iteration, for each row of its steps: of the policy, and of the further models.

    Sampling a response with a cache takes the FLOPs of one forward pass on its tokens; then the policy, the reference and each companion
    read it.
    """
    rollouts = objective.rollouts
    assert rollouts is not None
    sampling = forward_flops(model, shape).total
    reading = forward_flops(model, replace(shape, states=2 * shape.states)).total  # the entropies need the logits again
    further = reading + sum(
        forward_flops(one.model, ForwardShape(shape.rows, shape.length, 0, shape.states if one.trained else shape.rows)).total
        for one in objective.companions
    )
    epochs = rollouts.section.inner_epochs  # in which the steps read each response
    return (sampling + reading) / epochs, further / epochs


def _pretraining_flops(recipe: Recipe, data: TrainingData, model: Transformer, rows: int, *, checkpointing: bool) -> StepFlops:
    """Return the FLOPs of the pretraining text that is mixed into the steps; `rows`: of all steps."""
    mix = data.objective.pretraining
    if mix is None:
        return StepFlops(0, 0, Flops(), Flops(), 0.0, 0.0, 0.0, 0.0, Workload())
    texts = mix.open_rows(data.pretraining, row_order(recipe, model.config))
    (batch,) = Loader(texts, mix.collate, 1, 1).step(0)
    text, count = _text_flops(model, batch, mix.count(batch), checkpointing=checkpointing), mix.ratio * rows
    forward, backward, work = text.forward * count, text.backward * count, text.work * count
    return StepFlops(0, batch.tokens * count, forward, backward, 0.0, 0.0, 0.0, text.recomputed * count, work)


def _text_flops(model: Transformer, batch: Batch, states: int, *, checkpointing: bool) -> StepFlops:
    shape = ForwardShape.of(batch, model.config, states)
    forward = forward_flops(model, shape)
    recomputed = forward.blocks + forward.attention if checkpointing else 0.0
    return StepFlops(0, batch.tokens, forward, backward_flops(model, shape), 0.0, 0.0, 0.0, recomputed, step_workload(model, shape))


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
