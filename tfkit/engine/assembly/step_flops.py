"""Count the FLOPs of training steps, from the shapes of their real batches: padding counts, and the head reads labelled positions only."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from tfkit.data import Loader
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import tokens_of
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.registry import row_order
from tfkit.objectives.rollouts import Response, response_batch
from tfkit.objectives.vocabulary_loss import LOGITS_BYTES
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.flops import Flops, ForwardShape, backward_flops, forward_flops, trained_shape
from tfkit.training.memory import has_logits

_SAMPLED_TOKENS = 65_536  # after this number no further steps are read
_SAMPLED_STEPS = 8  # across the first epoch


@dataclass(frozen=True)
class StepFlops:
    """The FLOPs that a number of training rows take: of the trained model, and of further models."""

    rows: float = 0
    tokens: float = 0
    forward: Flops = field(default_factory=Flops)
    backward: Flops = field(default_factory=Flops)
    companions_in_steps: float = 0.0
    companions_in_rollouts: float = 0.0  # scoring sampled responses before the first step of an iteration
    rollouts: float = 0.0  # sampling, and the policy's own forward pass on the responses
    recomputed: float = 0.0
    shapes: tuple[tuple[ForwardShape, float], ...] = ()  # of the trained model's passes, each with how often it occurs

    @classmethod
    def of(cls, objective: Objective, model: Transformer, batch: Batch, rows: int, *, checkpointing: bool = False) -> "StepFlops":
        """Return the FLOPs of a micro-batch in a step; `rows`: the number of training rows, each of which may be several sequences."""
        if batch.is_pretraining and (mix := objective.pretraining) is not None:
            return _text_flops(model, batch, mix.count(batch), checkpointing=checkpointing)
        shape = trained_shape(objective, batch, model.config)
        forward = forward_flops(model, shape)
        recomputed = forward.blocks + forward.attention if checkpointing else 0.0
        if has_logits(model.config) and shape.states * model.config.vocab_size * 4 > LOGITS_BYTES:
            recomputed += forward.head
        companions = sum(_companion_flops(objective, companion, batch) for companion in objective.companions)
        policy, scoring = _rollout_flops(objective, model, shape) if objective.rollouts is not None else (0.0, 0.0)
        return cls(rows, batch.tokens, forward, backward_flops(model, shape), companions, scoring, policy, recomputed, ((shape, 1.0),))

    @property
    def training(self) -> float:
        """The FLOPs of these steps, without recomputation."""
        further = self.companions_in_steps + self.companions_in_rollouts + self.rollouts
        return self.forward.total + self.backward.total + further

    def __add__(self, other: "StepFlops") -> "StepFlops":
        """Return the FLOPs of the rows of both together."""
        return StepFlops(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __mul__(self, factor: float) -> "StepFlops":
        """Return the FLOPs of `factor` times as many rows."""
        numbers: list[Any] = [getattr(self, name) * factor for name in self.__dataclass_fields__ if name != "shapes"]
        numbers.append(tuple((shape, number * factor) for shape, number in self.shapes))
        return StepFlops(*numbers)


def sampled_flops(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int) -> StepFlops:
    """Return the FLOPs of some steps across the first epoch, enough to represent all steps."""
    checkpointing, batches = recipe.training.activation_checkpointing, sampled_batches(data, loader, steps)
    return reduce(add, (StepFlops.of(data.objective, model, batch, count, checkpointing=checkpointing) for batch, count in batches))


def reference_flops(data: TrainingData, sample: StepFlops) -> float:
    """Return the FLOPs of a reference model that reads all rows once, or 0 without one. `sample`: the FLOPs of some steps."""
    if data.objective.reference_use != "once":
        return 0.0
    read = [stored for stored, _ in data.train] + [held_out.stored for held_out in data.validation]
    return sum(map(tokens_of, read)) * sample.forward.total / max(1, sample.tokens)


def flops_per_token(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int) -> float:
    """Return the training FLOPs for each token of the steps, including companions and rollouts, but not recomputation."""
    sample, rows = sampled_flops(recipe, data, model, loader, steps), loader.sizes.before(steps)
    text, scale = pretraining_flops(recipe, data, model, rows), rows / sample.rows
    flops = sample.training * scale + text.training + reference_flops(data, sample)
    return flops / (rows * loader.rows.mean_tokens + text.tokens)


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

    lengths = [batch.input_ids.shape[1]] * len(batch.input_ids) if batch.padding_mask is None else batch.padding_mask.sum(1).tolist()
    new = np.zeros(objective.rollouts.section.max_new_tokens, np.int64)
    return response_batch([Response(np.zeros(length, np.int64), new, {}) for length in lengths], 0)


def _companion_flops(objective: Objective, companion: Companion, batch: Batch) -> float:
    """Return the FLOPs of a companion in a step: a backward pass only if it is trained; none for a reward model, which scores rollouts."""
    if objective.rollouts is not None and not companion.trained:
        return 0.0
    config, states = companion.model.config, objective.companion_states(batch)
    shape = ForwardShape.of(batch, config, states)
    if objective.rollouts is not None and config.head.kind == "classes":  # a value model's head reads the state of each response token
        shape = replace(shape, states=states)
    forward = forward_flops(companion.model, shape).total
    return forward + (backward_flops(companion.model, shape).total if companion.trained else 0.0)


def _rollout_flops(objective: Objective, model: Transformer, shape: ForwardShape) -> tuple[float, float]:
    """Return the FLOPs of sampling and reading responses, for each row of the later steps: those of the policy, and of the other models.

    Sampling a response with a cache takes the FLOPs of one forward pass on its tokens; then the policy, the reference and each companion
    read the response.
    """
    rollouts = objective.rollouts
    assert rollouts is not None
    sampling = forward_flops(model, shape).total
    reading = forward_flops(model, replace(shape, states=2 * shape.states)).total  # the entropies need the logits again
    further = reading + sum(
        forward_flops(one.model, ForwardShape(shape.rows, shape.length, 0, shape.states if one.trained else shape.rows)).total
        for one in objective.companions
    )
    epochs = rollouts.section.inner_epochs  # how often the steps read each response
    return (sampling + reading) / epochs, further / epochs


def pretraining_flops(recipe: Recipe, data: TrainingData, model: Transformer, rows: int) -> StepFlops:
    """Return the FLOPs of the pretraining text that is mixed into the steps; `rows`: the number of rows in all steps."""
    mix = data.objective.pretraining
    if mix is None:
        return StepFlops()
    texts = mix.open_rows(data.pretraining, row_order(recipe, model.config))
    (batch,) = Loader(texts, mix.collate, 1, 1).step(0)
    return _text_flops(model, batch, mix.count(batch), checkpointing=recipe.training.activation_checkpointing) * (mix.ratio * rows)


def _text_flops(model: Transformer, batch: Batch, states: int, *, checkpointing: bool) -> StepFlops:
    shape = ForwardShape.of(batch, model.config, states)
    forward = forward_flops(model, shape)
    recomputed = forward.blocks + forward.attention if checkpointing else 0.0
    backward = backward_flops(model, shape)
    return StepFlops(tokens=batch.tokens, forward=forward, backward=backward, recomputed=recomputed, shapes=((shape, 1.0),))
