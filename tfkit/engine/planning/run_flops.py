"""The FLOPs of a run by part, from the shapes of its real batches: padding is computed, and labels decide what the head multiplies."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tfkit.data import Loader, StepLoader
from tfkit.engine.components import trained_numbers
from tfkit.engine.planning.memory_plan import planned_bytes
from tfkit.engine.planning.rate_trial_plan import NoTrial, RateTrialPlan, plan_trial
from tfkit.engine.planning.workload import RunWork, Workload, blocks_of, step_workload
from tfkit.engine.training_data import TrainingData
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import tokens_of
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.registry import row_order
from tfkit.objectives.vocabulary_loss import LOGITS_BYTES
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.flops import Flops, ForwardShape, backward_flops, forward_flops, trained_shape

_SAMPLED_TOKENS = 65_536  # whose shapes are looked at, from steps all over the first epoch
_SAMPLED_STEPS = 8
_SAMPLED_MICRO_BATCHES = 8  # of responses at once, as rollout_loader.py has them


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of some rows of the training: of the trained model, and of those beside it."""

    rows: int
    tokens: int
    forward: Flops
    backward: Flops
    companions_in_steps: float
    companions_before: float  # what they say of sampled responses, before the first step of an iteration
    rollouts: float
    recomputed: float
    work: Workload  # of forward and backward

    @classmethod
    def of(cls, objective: Objective, model: Transformer, batch: Batch, rows: int, *, checkpointing: bool = False) -> "StepFlops":
        """Return those of a micro-batch, as a step computes it; `rows`: of the training, each of which may be several sequences."""
        if batch.is_pretraining and (mix := objective.pretraining) is not None:
            return _of_text(model, batch, mix.count(batch), checkpointing=checkpointing)
        shape = trained_shape(objective, batch, model.config)
        forward = forward_flops(model, shape)
        recomputed = forward.blocks + forward.attention if checkpointing else 0.0
        if model.config.head.kind in ("lm", "masked_lm") and shape.states * model.config.vocab_size * 4 > LOGITS_BYTES:
            recomputed += forward.head
        companions = sum(_in_step(objective, one, batch) for one in objective.companions)
        own, beside = _of_responses(objective, model, shape) if objective.rollouts is not None else (0.0, 0.0)
        return cls(
            rows, batch.tokens, forward, backward_flops(model, shape), companions, beside, own, recomputed, step_workload(model, shape)
        )

    def __add__(self, other: "StepFlops") -> "StepFlops":
        """Both together."""
        return StepFlops(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def run_flops(
    recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int
) -> tuple[dict[str, float], RunWork, RateTrialPlan | NoTrial | None]:
    """Return the FLOPs of the whole run by part, as `Estimate` describes them, the run in quantities that have a speed, and its trial."""
    checkpointing, objective = recipe.training.activation_checkpointing, data.objective
    seen = sum_of(
        StepFlops.of(objective, model, batch, rows, checkpointing=checkpointing) for batch, rows in sampled_batches(data, loader, steps)
    )
    rows = loader.sizes.before(steps)
    times = rows / seen.rows
    text = _pretraining(recipe, data, model, rows, checkpointing=checkpointing)
    forward, backward = seen.forward * times + text.forward, seen.backward * times + text.backward
    per_token = seen.forward.total / max(1, seen.tokens)
    held_out = sum(tokens_of(one.stored) for one in data.validation)
    once = sum(tokens_of(stored) for stored, _ in data.train) + held_out if objective.reference_use == "once" else 0
    evaluations = evaluation_count(recipe, data, loader, steps)
    parts = {
        "forward": forward.total,
        "backward": backward.total,
        "companions": (seen.companions_in_steps + seen.companions_before) * times + once * per_token,
        "rollouts": seen.rollouts * times,
        "recomputed": seen.recomputed * times + text.recomputed,
        "evaluation": evaluations * _evaluation(recipe, data, seen, held_out),
        "samples": (evaluations - (data.start is not None)) * _samples(recipe, model),
    }
    total = sum(parts.values())
    in_steps = parts["forward"] + parts["backward"] + parts["companions"] + parts["recomputed"]
    trial = plan_trial(recipe, len(loader.rows), steps, total, in_steps / max(1, steps), forward.total / rows)
    parts["trial"] = trial.flops if isinstance(trial, RateTrialPlan) else 0.0
    total += parts["trial"]
    of_steps = {"attention": forward.attention + backward.attention, "head": forward.head + backward.head}
    trained = forward.total + backward.total
    beside = (parts["companions"] + parts["recomputed"] + parts["rollouts"] / 2) / trained  # of rollouts the sampling is decoding
    work = run_work(recipe, data, model, loader, steps, evaluations)
    found = replace(
        work, steps=seen.work * times + text.work, beside=beside, evaluation=parts["evaluation"] / trained, trial=parts["trial"] / trained
    )
    return {"total": total, **parts, **of_steps}, found, trial


def run_work(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int, evaluations: int) -> RunWork:
    """Return what a run does beside its steps: the optimizer, the texts that it writes token by token, checkpoints."""
    decoded = float(evaluations * recipe.generation.max_new_tokens) if recipe.generation.prompts else 0.0
    sampled = decoded * len(recipe.generation.prompts)
    if (rollouts := data.objective.rollouts) is not None:
        together = _SAMPLED_MICRO_BATCHES * loader.micro_batch_size
        iterations = steps * loader.sizes.full / (rollouts.responses * rollouts.section.inner_epochs)
        held_out = sum(len(one.stored) for one in data.validation)
        batches = iterations * -(-rollouts.responses // together) + evaluations * -(-held_out // recipe.evaluation.batch_size)
        decoded += batches * rollouts.section.max_new_tokens
        sampled += (iterations * rollouts.responses + evaluations * held_out) * rollouts.section.max_new_tokens
    every = recipe.checkpoint.every
    interval = loader.sizes.steps(len(loader.rows)) if every == "epoch" else every
    saves = (steps // interval if interval else 0) + (not interval or steps % interval > 0)
    models = [model, *(one.model for one in data.objective.companions)]
    return RunWork(
        Workload(),
        0.0,
        0.0,
        float(steps * trained_numbers(model)),
        decoded,
        4.0 * sum(parameter.numel() for parameter in model.parameters()),
        blocks_of(model.config),
        sampled,
        saves * planned_bytes(recipe, model, data.objective.companions) / (recipe.checkpoint.keep + 2),
        4.0 * sum(parameter.numel() for one in models for parameter in one.parameters()),
    )


def evaluation_count(recipe: Recipe, data: TrainingData, loader: StepLoader[Any], steps: int) -> int:
    """Return how often the run evaluates: at its intervals, at its end, and before the first step of a fine-tuning."""
    every = recipe.evaluation.every
    interval = loader.sizes.steps(len(loader.rows)) if every == "epoch" else every
    return (steps // interval if interval else 0) + (not interval or steps % interval > 0) + (data.start is not None)


def sum_of(parts: Iterator[StepFlops]) -> StepFlops:
    """Return the sum of at least one."""
    total = next(parts)
    for part in parts:
        total += part
    return total


def sampled_batches(data: TrainingData, loader: Loader[Any], steps: int) -> Iterator[tuple[Batch, int]]:
    """Yield micro-batches of steps all over the first epoch, and the rows of each; prompts have the longest responses that there may be."""
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
    """Return prompts with responses of the longest length, as the loss reads them; another batch as it is."""
    if objective.rollouts is None:
        return batch
    import numpy as np

    from tfkit.objectives.rollouts import Response, response_batch

    lengths = [batch.input_ids.shape[1]] * len(batch.input_ids) if batch.padding_mask is None else batch.padding_mask.sum(1).tolist()
    new = np.zeros(objective.rollouts.section.max_new_tokens, np.int64)
    return response_batch([Response(np.zeros(length, np.int64), new, {}) for length in lengths], 0)


def _in_step(objective: Objective, one: Companion, batch: Batch) -> float:
    """Return the FLOPs of a companion in the steps: of a frozen one a forward; of a reward model none, since it reads sampled responses."""
    if objective.rollouts is not None and not one.trained:
        return 0.0
    shape = _companion_shape(objective, one.model.config, batch)
    forward = forward_flops(one.model, shape).total
    return forward + (backward_flops(one.model, shape).total if one.trained else 0.0)


def _companion_shape(objective: Objective, config: ModelConfig, batch: Batch) -> ForwardShape:
    """Return the shape of a companion's forward of a batch; a value model's head reads the state of each token of a response."""
    shape = ForwardShape.of(batch, config, objective.companion_states(batch))
    if objective.rollouts is not None and config.head.kind == "classes":
        shape = replace(shape, states=objective.companion_states(batch))
    return shape


def _of_responses(objective: Objective, model: Transformer, shape: ForwardShape) -> tuple[float, float]:
    """Return what an iteration computes before its first step for each row that is trained on: by the policy, and by the models beside it.

    A response is sampled with a cache, which takes a forward of its tokens; policy and reference read it, and each companion.
    """
    rollouts = objective.rollouts
    assert rollouts is not None
    sampling = forward_flops(model, shape).total
    reading = forward_flops(model, replace(shape, states=2 * shape.states)).total  # for the entropies the logits are computed again
    beside = reading + sum(
        forward_flops(one.model, ForwardShape(shape.rows, shape.length, 0, shape.states if one.trained else shape.rows)).total
        for one in objective.companions
    )
    readings = rollouts.section.inner_epochs  # of each response in the steps
    return (sampling + reading) / readings, beside / readings


def _pretraining(recipe: Recipe, data: TrainingData, model: Transformer, rows: int, *, checkpointing: bool) -> StepFlops:
    """Return the FLOPs of the text that the steps read behind their own rows."""
    mix = data.objective.pretraining
    if mix is None:
        return StepFlops(0, 0, Flops(), Flops(), 0.0, 0.0, 0.0, 0.0, Workload())
    texts = mix.open_rows(data.pretraining, row_order(recipe, model.config))
    (batch,) = Loader(texts, mix.collate, 1, 1).step(0)
    one, times = _of_text(model, batch, mix.count(batch), checkpointing=checkpointing), mix.ratio * rows
    return StepFlops(
        0, batch.tokens * times, one.forward * times, one.backward * times, 0.0, 0.0, 0.0, one.recomputed * times, one.work * times
    )


def _of_text(model: Transformer, batch: Batch, states: int, *, checkpointing: bool) -> StepFlops:
    shape = ForwardShape.of(batch, model.config, states)
    forward = forward_flops(model, shape)
    recomputed = forward.blocks + forward.attention if checkpointing else 0.0
    return StepFlops(0, batch.tokens, forward, backward_flops(model, shape), 0.0, 0.0, 0.0, recomputed, step_workload(model, shape))


def _evaluation(recipe: Recipe, data: TrainingData, seen: StepFlops, held_out: int) -> float:
    """Return the FLOPs of an evaluation, as a forward of its tokens; of held-out prompts a response is sampled, read and judged."""
    objective, most = data.objective, recipe.evaluation.max_tokens
    if objective.rollouts is None:
        return min(held_out, most or held_out) * seen.forward.total / max(1, seen.tokens)
    prompts = sum(len(one.stored) for one in data.validation)
    whole = held_out + prompts * objective.rollouts.section.max_new_tokens
    each = (seen.rollouts + seen.companions_before) * objective.rollouts.section.inner_epochs
    return min(whole, most or whole) * each / max(1, seen.tokens)


def _samples(recipe: Recipe, model: Transformer) -> float:
    """Return the FLOPs of the samples of an evaluation: a forward of each new token, behind a cache."""
    generation = recipe.generation
    length = min(generation.max_new_tokens, model.config.context_length)
    both = model.config.encoder_layers > 0 and model.config.decoder_layers > 0
    texts = len(generation.prompts) * generation.num_beams
    return forward_flops(model, ForwardShape(texts, length, length if both else 0, texts * length)).total if texts else 0.0
