"""What the teacher of a distillation asks of a run: memory, a place beside the student, its name in every checkpoint."""

import math
from pathlib import Path

import torch

from tfkit.adapters import describe, is_adapter
from tfkit.errors import MachineError, ModelError
from tfkit.hub import find_checkpoint
from tfkit.hub.names import on_meta
from tfkit.hub.weights import find_weights
from tfkit.model.config import ModelConfig
from tfkit.objectives.distillation import Distillation
from tfkit.objectives.objective import Objective
from tfkit.objectives.teacher import Teacher
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.folder import RunFolder
from tfkit.training.flops import training_flops_per_token
from tfkit.training.memory import available_bytes

_MARGIN = 1.6  # as memory.py's


def teacher_of(objective: Objective) -> Teacher | None:
    """The teacher, if the objective has one."""
    return objective.teacher if isinstance(objective, Distillation) else None


def require_memory_for_teacher(recipe: Recipe) -> None:
    """Raise MachineError, with the numbers, if the teacher alone does not fit the memory of this machine, ModelError if there is none.

    Only headers are read.
    """
    if not isinstance(recipe.objective, DistillationSection):
        return
    path = recipe.objective.teacher
    try:
        parameters = _count(find_checkpoint(path))
    except ModelError as error:
        raise ModelError(f"objective.teacher: {error}") from None
    left = available_bytes(swap=True)
    if left is not None and 4 * parameters > left:
        raise MachineError(
            f"the {parameters:,} weights of the teacher {path} need {4 * parameters / 1e9:.3g} GB of memory, and {left / 1e9:.3g} GB are "
            "free: choose a smaller teacher, end other programs, or use a larger machine"
        )


def _count(folder: Path) -> int:
    """The parameters of a model folder; of an adapter those of the whole model that it is of."""
    if is_adapter(folder):
        return sum(parameter.numel() for parameter in on_meta(describe(folder).config).parameters())
    return sum(math.prod(weight.stored.shape) for weight in find_weights(folder).values())


def place_teacher(objective: Objective, device: torch.device, precision: torch.dtype) -> None:
    """Put the teacher beside the student, in its arithmetic."""
    if teacher := teacher_of(objective):
        teacher.model.to(device, precision)


def parents(objective: Objective) -> list[dict[str, str | None]]:
    """The models that this one learns from, as tfkit.json has them."""
    teacher = teacher_of(objective)
    return [teacher.parent()] if teacher else []


def pin_teacher(recipe: Recipe, objective: Objective, folder: RunFolder) -> Recipe:
    """The recipe with the hash of the teacher. Raises ModelError if the run in the folder has learned from another one."""
    teacher = teacher_of(objective)
    if teacher is None:
        return recipe
    if folder.has_checkpoints and folder.recipe.exists():
        begun = getattr(read_recipe(str(folder.recipe)).recipe.objective, "teacher_sha256", None)
        if begun != teacher.sha256:
            raise ModelError(
                f"objective.teacher: {teacher.path} is not what this run was started with: the SHA-256 of its weights was {begun} and is "
                f"now {teacher.sha256}. Restore it, or start another run with --run; of a run that goes on, name one of its checkpoints"
            )
    return recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"teacher_sha256": teacher.sha256})})


def taught_flops_per_token(objective: Objective, length: int) -> float:
    """What the teacher's forward adds to a training step's arithmetic: a third of what training it would take; 0 without one."""
    teacher = teacher_of(objective)
    return training_flops_per_token(teacher.model.config, length) / 3 if teacher else 0.0


def taught_bytes_per_row(objective: Objective, length: int) -> int:
    """What the teacher's forward holds for a row at its fullest, which nothing keeps for a backward pass; 0 without one."""
    teacher = teacher_of(objective)
    if teacher is None:
        return 0
    config, itemsize = teacher.model.config, next(teacher.model.parameters()).element_size()
    return forward_bytes_per_row(config, length, itemsize)


def forward_bytes_per_row(config: ModelConfig, length: int, itemsize: int) -> int:
    """Of a forward without gradients: within the MLP, or where scores are capped within attention, beside the residual stream."""
    width = 4 * config.dim + 3 * config.hidden_dim
    scores = config.num_heads * length * 3 if config.attention.softcap is not None else 0
    return int(_MARGIN * length * itemsize * max(width, 4 * config.dim + scores)) + length**2
