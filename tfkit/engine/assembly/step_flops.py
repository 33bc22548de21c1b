"""Count the FLOPs of training steps by the shapes of real batches. Padding counts; a vocabulary head counts only where a loss reads it."""

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
from tfkit.training.flops import Flops, ForwardShape, backward_flops, forward_flops
from tfkit.training.memory import has_logits

_SAMPLED_TOKENS = 65_536  # number of tokens after which no more steps are read
_SAMPLED_STEPS = 8  # the largest number of steps that are read, at equal distances in the first epoch


@dataclass(frozen=True)
class StepFlops:
    """The FLOPs of training on some rows: of the run's model, its companions (such as a teacher) and reference (the initial model)."""

    rows: float = 0  # number of rows; 0 for mixed-in text
    tokens: float = 0
    forward: Flops = field(default_factory=Flops)
    backward: Flops = field(default_factory=Flops)
    companions_in_steps: float = 0.0
    companions_in_rollouts: float = 0.0  # of companions and reference, which read sampled responses before the steps
    rollouts: float = 0.0  # of the policy: sampling the responses, and a forward pass on them
    recomputed: float = 0.0  # of activations, if checkpointed, and of logits too large to keep
    shapes: tuple[tuple[ForwardShape, float], ...] = ()  # of the forward passes of the run's model, each with the number of such passes

    @classmethod
    def of(cls, objective: Objective, model: Transformer, batch: Batch, rows: int, *, checkpointing: bool = False) -> "StepFlops":
        """Return the FLOPs of a micro-batch in a step. `rows`: the number of its training rows, each of which may be several sequences."""
        if batch.is_pretraining and (mix := objective.pretraining) is not None:
            return _text_flops(model, batch, mix.counts(batch)["lm"], checkpointing=checkpointing)
        states, reads_second_output = objective.vocabulary_states(batch), objective.reads_second_output
        shape = ForwardShape.of(batch, model.config, states, reads_second_output=reads_second_output)
        forward = forward_flops(model, shape)
        recomputed = forward.blocks + forward.attention if checkpointing else 0.0
        if has_logits(model.config) and shape.states * model.config.vocab_size * 4 > LOGITS_BYTES:
            recomputed += forward.head
        companions = sum(_companion_flops(objective, companion, batch) for companion in objective.companions)
        policy, scoring = _rollout_flops(objective, model, shape) if objective.rollouts is not None else (0.0, 0.0)
        return cls(rows, batch.tokens, forward, backward_flops(model, shape), companions, scoring, policy, recomputed, ((shape, 1.0),))

    @property
    def training(self) -> float:
        """The FLOPs of the steps and of the rollouts before them, without recomputation."""
        further = self.companions_in_steps + self.companions_in_rollouts + self.rollouts
        return self.forward.total + self.backward.total + further

    def __add__(self, other: "StepFlops") -> "StepFlops":
        """Return the FLOPs of the rows of `self` and of `other` together."""
        return StepFlops(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __mul__(self, factor: float) -> "StepFlops":
        """Return the FLOPs of `factor` times as many rows."""
        numbers: list[Any] = [getattr(self, name) * factor for name in self.__dataclass_fields__ if name != "shapes"]
        numbers.append(tuple((shape, number * factor) for shape, number in self.shapes))
        return StepFlops(*numbers)


def sampled_flops(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int) -> StepFlops:
    """Return the sum of the FLOPs of a few steps, which are taken from the first epoch."""
    checkpointing, batches = recipe.training.activation_checkpointing, sampled_batches(data, loader, steps)
    return reduce(add, (StepFlops.of(data.objective, model, batch, count, checkpointing=checkpointing) for batch, count in batches))


def reference_flops(data: TrainingData, sample: StepFlops) -> float:
    """Return the FLOPs that the reference takes to read all rows once before the steps; 0 if the objective does not need this.

    `sample`: the FLOPs of a few steps, from which the FLOPs per token are taken.
    """
    if data.objective.reference_use != "once":
        return 0.0
    read = [stored for stored, _ in data.train] + [held_out.stored for held_out in data.validation]
    return sum(map(tokens_of, read)) * sample.forward.total / max(1, sample.tokens)


def flops_per_token(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int) -> float:
    """Return the training FLOPs per token of the steps, including companions, reference and rollouts, but not recomputation."""
    sample, rows = sampled_flops(recipe, data, model, loader, steps), loader.sizes.before(steps)
    text, scale = pretraining_flops(recipe, data, model, rows), rows / sample.rows
    flops = sample.training * scale + text.training + reference_flops(data, sample)
    return flops / (rows * loader.rows.mean_tokens + text.tokens)


def sampled_batches(data: TrainingData, loader: Loader[Any], steps: int) -> Iterator[tuple[Batch, int]]:
    """Yield the micro-batches of some steps of the first epoch, each with its number of rows. Prompts get responses of maximum length."""
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
    """Return a batch of prompts with responses of the maximum length, as the loss reads them; return any other batch unchanged."""
    if objective.rollouts is None:
        return batch
    lengths = [batch.input_ids.shape[1]] * len(batch.input_ids) if batch.padding_mask is None else batch.padding_mask.sum(1).tolist()
    new = np.zeros(objective.rollouts.section.max_new_tokens, np.int64)
    return response_batch([Response(np.zeros(length, np.int64), new, {}) for length in lengths], 0)


def _companion_flops(objective: Objective, companion: Companion, batch: Batch) -> float:
    """Return the FLOPs of a companion in a step: forward and, if trained, backward; 0 for a reward model, which runs before the steps."""
    if objective.rollouts is not None and not companion.trained:
        return 0.0
    config, states = companion.model.config, objective.companion_states(batch)
    shape = ForwardShape.of(batch, config, states)
    if objective.rollouts is not None and config.head.kind == "classes":  # a value model, whose head scores each response token
        shape = replace(shape, states=states)
    forward = forward_flops(companion.model, shape).total
    return forward + (backward_flops(companion.model, shape).total if companion.trained else 0.0)


def _rollout_flops(objective: Objective, model: Transformer, shape: ForwardShape) -> tuple[float, float]:
    """Return the FLOPs of sampling and reading a micro-batch of responses before the steps that train on it: those of the policy, and those
    of the reference and companions. Both are divided by the number of times that the steps read each response.

    Sampling with a key-value cache takes the FLOPs of one forward pass. Policy, reference and companions then read the response.
    """
    rollouts = objective.rollouts
    assert rollouts is not None
    sampling = forward_flops(model, shape).total
    reading = forward_flops(model, replace(shape, states=2 * shape.states)).total  # the head works twice: entropies need the logits again
    further = reading + sum(
        forward_flops(one.model, ForwardShape(shape.rows, shape.length, 0, shape.states if one.trained else shape.rows)).total
        for one in objective.companions
    )
    epochs = rollouts.section.inner_epochs
    return (sampling + reading) / epochs, further / epochs


def pretraining_flops(recipe: Recipe, data: TrainingData, model: Transformer, rows: int) -> StepFlops:
    """Return the FLOPs of the pretraining text that is mixed into steps with `rows` other rows in all; zeros without such text."""
    mix = data.objective.pretraining
    if mix is None:
        return StepFlops()
    texts = mix.open_rows(data.pretraining, row_order(recipe, model.config))
    (batch,) = Loader(texts, mix.collate, 1, 1).step(0)
    return _text_flops(model, batch, mix.counts(batch)["lm"], checkpointing=recipe.training.activation_checkpointing) * (mix.ratio * rows)


def _text_flops(model: Transformer, batch: Batch, states: int, *, checkpointing: bool) -> StepFlops:
    shape = ForwardShape.of(batch, model.config, states)
    forward = forward_flops(model, shape)
    recomputed = forward.blocks + forward.attention if checkpointing else 0.0
    backward = backward_flops(model, shape)
    return StepFlops(tokens=batch.tokens, forward=forward, backward=backward, recomputed=recomputed, shapes=((shape, 1.0),))
