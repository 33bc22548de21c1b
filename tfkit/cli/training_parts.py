"""What takes the steps, put together from a recipe, data and a model: for a training, and for the replay of one of its steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tfkit.cli.training_data import TrainingData
from tfkit.cli.training_plan import total_steps
from tfkit.data import Loader
from tfkit.hub import load
from tfkit.model.transformer import Transformer
from tfkit.objectives.build import open_rows
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.loop import Plan, Progress
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper


@dataclass(frozen=True)
class Parts:
    """Everything that the loop moves."""

    precision: torch.dtype
    loader: Loader[Batch]
    plan: Plan
    weights: Weights
    optimizer: Optimizer
    stepper: Stepper


def assemble(recipe: Recipe, data: TrainingData, model: Transformer, device: torch.device, micro_batch_size: int) -> Parts:
    """The parts. The model moves to the device, its parameters become working weights. ModelError for ids beyond the vocabulary."""
    for stored in (*(stored for stored, _ in data.train), *(held_out.stored for held_out in data.validation)):
        stored.check_vocabulary(model.config.vocab_size)
    training, objective = recipe.training, data.objective
    rows = open_rows(recipe, objective, data.train, model.config)
    loader = Loader(rows, objective.collate, training.batch_size, micro_batch_size)
    plan = Plan(
        total_steps(recipe, rows),
        training.log_every,
        recipe.evaluation.every,
        recipe.checkpoint.every,
        training.max_skipped_steps,
        training.loss_jump_sigmas,
    )
    precision = pick_precision(training.precision, device)
    weights = Weights(model.to(device), precision)
    optimizer = Optimizer(weights.master, recipe.optimizer)
    stepper = Stepper(model, objective, weights, optimizer, device=device, seed=training.seed)
    for stack in model.stacks:
        stack.activation_checkpointing = training.activation_checkpointing
    return Parts(precision, loader, plan, weights, optimizer, stepper)


def restore(parts: Parts, checkpoint: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Progress:
    """Put the weights of a checkpoint and its training state into the parts; how far it had come. Raises ModelError."""
    parts.weights.load(load(checkpoint).model.state_dict())
    parts.optimizer.load_state(tensors)
    return Progress.from_state(state["progress"])
