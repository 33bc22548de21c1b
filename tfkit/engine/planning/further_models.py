"""The memory of the models beside the one that is trained: companions, and the reference that sampled responses are compared with."""

from dataclasses import dataclass

import torch

from tfkit.adapters import needs_copy
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.objective import Objective
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, OptimizerSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.model_sharder import root_numel
from tfkit.training.optimizer import state_numbers


@dataclass(frozen=True)
class FurtherModels:
    """Bytes of the first of the ranks that share the models; of a single one, or of replicas, all of them.

    `held`: weights, and of trained ones the optimizer's state. `at_work`: what is beside that in a step, gradients and gathered weights.
    `sampling`: the largest model, of which the trained one may be, as a rank gathers it whole for its part of the responses.
    """

    held: int
    at_work: int
    sampling: int


def further_models(recipe: Recipe, objective: Objective, model: Transformer, precision: torch.dtype, shards: int = 1) -> FurtherModels:
    """Return the memory of an objective's further models, beside a model whose trained parameters are chosen."""
    held = at_work = 0
    for one in objective.companions:
        numbers = sum(shape.numel() for shape in _parts(one.model, shards).values())
        held += _held(one, numbers, recipe.optimizer, precision, shards)
        at_work += 4 * numbers if one.trained else 0
        if shards > 1 and (one.trained or objective.rollouts is None):
            at_work += _gathered(one, precision)
    if objective.reference_use == "throughout" and needs_copy(model):
        held += precision.itemsize * sum(shape.numel() for shape in _parts(model, shards).values())
    models = [model, *(one.model for one in objective.companions)] if shards > 1 and objective.rollouts is not None else []
    sampling = max((precision.itemsize * sum(one.numel() for one in each.parameters()) for each in models), default=0)
    return FurtherModels(held, at_work, sampling)


def _held(one: Companion, numbers: int, section: OptimizerSection, precision: torch.dtype, shards: int) -> int:
    """Return the bytes of a companion of which a rank has so many numbers. What is gathered of shared weights is rounded as it comes."""
    if not one.trained:
        return precision.itemsize * numbers
    is_whole = isinstance(section, AdafactorSection)  # whose means of rows and columns all ranks have
    working = 0 if shards > 1 or precision == torch.float32 else precision.itemsize * numbers
    return 4 * (numbers + state_numbers(_parts(one.model, 1 if is_whole else shards), section)) + working


def _gathered(one: Companion, precision: torch.dtype) -> int:
    """Return the bytes of a companion's whole weights in a micro-batch: a block's, and of what is around the blocks with gradients."""
    blocks = [sum(each.numel() for each in block.parameters()) for stack in one.model.stacks for block in stack.blocks]
    return precision.itemsize * (max(blocks) + (2 if one.trained else 1) * root_numel(one.model))


def _parts(model: Transformer, shards: int) -> dict[str, torch.Size]:
    """Return the shape of the first rank's part of each parameter: its rows are divided."""
    return {name: torch.Size((-(-one.shape[0] // shards), *one.shape[1:])) for name, one in model.named_parameters()}
