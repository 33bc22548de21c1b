"""A placeholder for the model of a stage that was not run: config, tokenizer, labels, and weights of zeros in a sparse file."""

from pathlib import Path

import torch

from tfkit.engine.training_data import TrainingData
from tfkit.families import PRESETS
from tfkit.hub import family_of, save_model
from tfkit.hub.names import expected_shapes
from tfkit.hub.tensor_files import TensorFile
from tfkit.objectives.companion import PLACEHOLDER
from tfkit.recipe.schema.sections import Recipe
from tfkit.tokenizer.conversations import end_ids


def write_placeholder(folder: Path, recipe: Recipe, data: TrainingData) -> None:
    """Write a model folder from which a later stage reads as from the checkpoint of this one."""
    folder.mkdir(parents=True)
    preset = recipe.model.preset
    family = data.start.described.family if data.start else PRESETS[preset][0].name if preset else None
    save_model(
        folder,
        data.config,
        None,
        data.tokenizer,
        family=family,
        end_ids=end_ids(data.tokenizer),
        labels=data.labels,
        problem_type=recipe.objective.problem_type,
        facts={"objective": recipe.objective.saved_kind, PLACEHOLDER: True},
        generation=data.start.described.generation if data.start is not None else None,
    )
    shapes = expected_shapes(family_of(data.config, prefer=family), data.config)
    layout = {name: (torch.float32, shape) for name, shape in shapes.items()}
    TensorFile(folder / "model.safetensors", layout, {"format": "pt"}).write_zeros()
