"""The memory of further models beside the trained one: companions, and the reference of sampled responses."""

from dataclasses import dataclass

import torch

from tfkit.adapters import needs_copy
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.objective import Objective
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, OptimizerSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.model_sharder import root_numel
from tfkit.training.optimizer import state_numel


@dataclass(frozen=True)
class FurtherModels:
    """Bytes on rank 0 of the ranks over which the models are sharded, or on a rank that holds whole models.

    `held`: the weights, and the optimizer state of trained models. `in_step`: additionally in a step, gradients and gathered weights.
    `sampling`: the largest model, the trained one included, since a rank gathers one whole model at a time to sample its responses.
    """

    held: int
    in_step: int
    sampling: int


def further_models(recipe: Recipe, objective: Objective, model: Transformer, precision: torch.dtype, shards: int = 1) -> FurtherModels:
    """Return the memory of an objective's further models; the trained parameters of `model` are chosen already."""
    held = in_step = 0
    for companion in objective.companions:
        numbers = sum(shape.numel() for shape in _shard_shapes(companion.model, shards).values())
        held += _held_bytes(companion, numbers, recipe.optimizer, precision, shards)
        in_step += 4 * numbers if companion.trained else 0
        if shards > 1 and (companion.trained or objective.rollouts is None):
            in_step += _gathered_bytes(companion, precision)
    if objective.reference_use == "throughout" and needs_copy(model):
        held += precision.itemsize * sum(shape.numel() for shape in _shard_shapes(model, shards).values())
    gathered = [model, *(companion.model for companion in objective.companions)] if shards > 1 and objective.rollouts is not None else []
    sampling = max((precision.itemsize * sum(parameter.numel() for parameter in each.parameters()) for each in gathered), default=0)
    return FurtherModels(held, in_step, sampling)


def _held_bytes(companion: Companion, numbers: int, section: OptimizerSection, precision: torch.dtype, shards: int) -> int:
    """Return the bytes of a companion of which a rank holds this many weights. Sharded weights are rounded as they are gathered."""
    if not companion.trained:
        return precision.itemsize * numbers
    is_whole = isinstance(section, AdafactorSection)  # whose row and column means are replicated
    working = 0 if shards > 1 or precision == torch.float32 else precision.itemsize * numbers
    return 4 * (numbers + state_numel(_shard_shapes(companion.model, 1 if is_whole else shards), section)) + working


def _gathered_bytes(companion: Companion, precision: torch.dtype) -> int:
    """Return the bytes gathered in a micro-batch: the largest block, and the root parameters with their gradients, if trained."""
    model = companion.model
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for stack in model.stacks for block in stack.blocks]
    return precision.itemsize * (max(blocks) + (2 if companion.trained else 1) * root_numel(model))


def _shard_shapes(model: Transformer, shards: int) -> dict[str, torch.Size]:
    """Return the shape of rank 0's shard of each parameter, which is divided along its first dimension."""
    return {name: torch.Size((-(-one.shape[0] // shards), *one.shape[1:])) for name, one in model.named_parameters()}
