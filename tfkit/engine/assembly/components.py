"""Assemble the training components from a recipe, data and a model, for a training and for `tfkit replay`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from tfkit.adapters import FrozenReference, add_lora, freeze
from tfkit.data import BatchSizes, Loader, Rows, StepLoader
from tfkit.data.store.token_stream import check_ids
from tfkit.engine.assembly.base_model import start_model
from tfkit.engine.assembly.loaders import MixedLoader, sampling_loader
from tfkit.engine.assembly.memory_plan import holds_whole_model
from tfkit.engine.assembly.reference_model import data_with_reference
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.assembly.training_state import restore
from tfkit.engine.assembly.validation import check_prompts, check_validation
from tfkit.engine.assembly.weight_sharding import shard_weights
from tfkit.engine.listener import Listener
from tfkit.model.config import ModelConfig
from tfkit.model.head import VocabularyHead
from tfkit.model.transformer import Transformer, build, on_meta
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.registry import open_rows, row_order
from tfkit.parallel.ranks import ALONE, Peers
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.depth import Unfreezing
from tfkit.training.device import move, pick_precision
from tfkit.training.loop import Plan, Progress
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.schedule import Schedule
from tfkit.training.step import Stepper, TrainedModel, trained_model


@dataclass(frozen=True)
class Components:
    """The components that the training loop uses."""

    loader: StepLoader[Batch]
    plan: Plan
    schedule: Schedule
    stepper: Stepper
    reference: FrozenReference | None  # the frozen initial model; None unless it is read throughout the training
    data: TrainingData  # with the log-probabilities by the initial model, if the objective compares with these
    progress: Progress = field(default_factory=Progress)

    def continued_from(self, checkpoint: Path) -> "Components":
        """Return the components with the state of a checkpoint, for the step after it. Raises ModelError if the checkpoint does not fit."""
        return replace(self, progress=restore(self.stepper, self.loader, checkpoint))


def first_model(recipe: Recipe, data: TrainingData, listener: Listener, peers: Peers = ALONE) -> Transformer:
    """Return the initial model, with random weights or a checkpoint's, after the objective has initialized its own parameters.

    If the weights will be sharded over `peers`, the blocks are left on the meta device, to be filled one by one when they are sharded.
    Raises ModelError if the checkpoint does not fit, UsageError if training.adapter or training.frozen does not fit the model.
    """
    new: tuple[str, ...] | None = None
    later = peers.ranks.share(recipe.parallel.shard)
    if data.start is not None:
        model, new = start_model(recipe, data.start, data.config, data.labels, defer_blocks=later)
        for note in data.start.described.notes():
            listener.say(note)
        if new:
            listener.say(f"newly initialized: {', '.join(new)}")
    else:
        model = build(data.config, recipe.training.seed, defer_blocks=later)
    data.objective.initialize(model, new)
    choose_trained(recipe, model, new or ())
    if tokens := _untrained_tokens(data, model):
        listener.warn(
            f"{', '.join(tokens)}: new in the vocabulary, and their vectors are not trained, so the model does not learn to write them; "
            "train the output matrix, too (without training.adapter and training.frozen), or start from a checkpoint that knows them"
        )
    return model


def _untrained_tokens(data: TrainingData, model: Transformer) -> list[str]:
    """Return the tokens, other than padding, that the run adds to the vocabulary, if their rows of the output matrix are not trained."""
    if data.start is None or not isinstance(model.head, VocabularyHead) or model.head.weight.requires_grad:
        return []
    tokenizer = data.tokenizer
    added = {*range(data.start.tokenizer.size, tokenizer.size)} - {tokenizer.pad_id}
    return [text for token in sorted(added) if (text := tokenizer.backend.id_to_token(token)) is not None]


def assemble(
    recipe: Recipe,
    data: TrainingData,
    model: Transformer,
    device: torch.device,
    micro_batch_size: int,
    listener: Listener,
    should_stop: Callable[[], bool] | None = None,
    peers: Peers = ALONE,
) -> Components:
    """Return the components for step 1. The model moves to the device, and its parameters are converted to the run's precision.

    `peers`: the ranks that take each step together, with sharded weights if the recipe says so. A single rank stops sampling responses
    once `should_stop()` is True. Raises ModelError (ids beyond the vocabulary, different weights to shard), DataError and UsageError.
    """
    _check(recipe, data, model)
    training, objective = recipe.training, data.objective
    stepper, reference = assemble_stepper(recipe, objective, model, device, pick_precision(training.precision, device), peers)
    if peers.ranks.share(recipe.parallel.shard):
        shard_weights(recipe, stepper, reference)
    if objective.reference_use == "once":
        data = data_with_reference(data, stepper, recipe.evaluation.batch_size, listener)
    rows = open_rows(recipe, objective, data.train, model.config)
    sizes = batch_sizes(recipe, rows)
    plan = Plan(
        total_steps(recipe, rows, sizes),
        training.log_every,
        in_steps(recipe.evaluation.every, rows, sizes),
        in_steps(recipe.checkpoint.every, rows, sizes),
        training.max_skipped_steps,
        training.loss_jump_sigmas,
    )
    schedule = Schedule(recipe.schedule, plan.steps, sizes, rows.mean_tokens, model.config.dim)
    loader: StepLoader[Batch]
    if objective.rollouts is not None:
        loader = sampling_loader(data, rows, sizes, micro_batch_size, stepper, reference, should_stop)
    elif device.type == "cuda":
        loader = Loader(rows, lambda rows: objective.collate(rows).pinned(), sizes, micro_batch_size, ahead=True)
    else:
        loader = Loader(rows, objective.collate, sizes, micro_batch_size)
    loader.rank, loader.ranks = peers.ranks.rank, peers.ranks.size
    if (mix := objective.pretraining) is not None:
        loader = MixedLoader(loader, mix.open_rows(data.pretraining, row_order(recipe, model.config)), mix.collate, mix.ratio)
    return Components(loader, plan, schedule, stepper, reference, data)


def _check(recipe: Recipe, data: TrainingData, model: Transformer) -> None:
    """Check that the model's vocabulary has all token ids of the data, that validation sets can be scored, and prompts continued.

    Raises ModelError, DataError and UsageError.
    """
    held_out = [one.stored for one in data.validation]
    for stored in (*(rows for rows, _ in data.train), *held_out, *(stream for stream, _ in data.pretraining)):
        check_ids(stored.name, stored.max_id, model.config.vocab_size)
    if data.validation:
        check_validation(recipe, data)
    if recipe.generation.prompts:
        check_prompts(recipe, data, model)


def assemble_stepper(
    recipe: Recipe, objective: Objective, model: Transformer, device: torch.device, precision: torch.dtype, peers: Peers = ALONE
) -> tuple[Stepper, FrozenReference | None]:
    """Return the stepper, which takes the steps, with unsharded weights, and the reference (the frozen initial model).

    The reference is None unless the objective needs it throughout the training, as for sampled responses.
    """
    training = recipe.training
    companions = place_companions(recipe, objective, device, precision) if objective.companions else {}
    move(model, device)
    weights = Weights(model, precision, training.ema_decay, whole=holds_whole_model(recipe))
    reference = FrozenReference(model) if objective.reference_use == "throughout" else None
    optimizer = Optimizer(weights.trained, recipe.optimizer, weights.master)
    unfreezing = Unfreezing(weights.working, training.unfreeze_every) if training.unfreeze_every is not None else None
    for stack in model.stacks:
        stack.activation_checkpointing = training.activation_checkpointing
    loss_module = LossModule(model, objective)
    stepper = Stepper(
        loss_module, weights, optimizer, device=device, seed=training.seed, unfreezing=unfreezing, companions=companions, peers=peers
    )
    return stepper, reference


def place_companions(recipe: Recipe, objective: Objective, device: torch.device, precision: torch.dtype) -> dict[str, TrainedModel]:
    """Move all companions (such as a teacher) to the device, with frozen ones in `precision`; return those that are trained, by name."""
    trained = {}
    for companion in objective.companions:
        model = companion.model
        move(model, device, None if companion.trained else precision)
        if companion.trained:
            trained[companion.name] = trained_model(model, recipe.optimizer, precision, companion.lr)
            for stack in model.stacks:
                stack.activation_checkpointing = recipe.training.activation_checkpointing
    return trained


def batch_sizes(recipe: Recipe, rows: Rows) -> BatchSizes:
    """Return the number of rows of each step. The length of a batch ramp, in tokens, is converted to rows by the mean length of a row."""
    ramp = recipe.training.batch_ramp
    if ramp is None:
        return BatchSizes(recipe.training.batch_size)
    return BatchSizes(recipe.training.batch_size, ramp.start, ramp.tokens / rows.mean_tokens)


def total_steps(recipe: Recipe, rows: Rows, sizes: BatchSizes) -> int:
    """Return the length of the training in steps; a length in tokens or epochs is rounded up."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return sizes.steps(training.tokens / rows.mean_tokens)
    assert training.epochs is not None
    return sizes.steps(training.epochs * len(rows))


def in_steps(every: int | Literal["epoch"] | None, rows: Rows, sizes: BatchSizes) -> int | None:
    """Return `every`, the interval of evaluations or checkpoints, in steps: an "epoch" is converted, rounded up; None stays None."""
    return sizes.steps(len(rows)) if every == "epoch" else every


def choose_trained(recipe: Recipe, model: Transformer, new: Sequence[str] = ()) -> None:
    """Add the recipe's adapter, and freeze the parameters that training.frozen names.

    `new`: the newly initialized parameters, which are trained with the adapter. Raises UsageError if a pattern of adapter.targets or frozen
    matches no parameter, or if nothing is left to train.
    """
    training = recipe.training
    if training.adapter is not None:
        add_lora(model, training.adapter, training.seed, new)
    if training.frozen:
        freeze(model, training.frozen)


def meta_model(recipe: Recipe, config: ModelConfig) -> Transformer:
    """Return the model of a run on the meta device, with the recipe's adapter, and requires_grad=False for frozen parameters."""
    model = on_meta(config)
    choose_trained(recipe, model)
    return model
