"""The model of a run as the files of a checkpoint: whole, or as an adapter of what the run started from."""

from pathlib import Path
from typing import Any

from tfkit.adapters import Base, merged, save_adapter
from tfkit.engine.base_model import Start
from tfkit.engine.training_data import TrainingData
from tfkit.hub import save_model
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.precision import Weights


def adapted(recipe: Recipe, start: Start | None) -> Path | None:
    """The folder of the model that the checkpoints hold updates of; None: they are whole models."""
    adapter = recipe.training.adapter
    return start.described.folder if start is not None and adapter is not None and not adapter.merge else None


def write_model(
    folder: Path, recipe: Recipe, data: TrainingData, model: Transformer, weights: Weights, family: str | None, facts: dict[str, Any]
) -> None:
    """The result of the training so far, and beside it tokenizer, labels and `facts`."""
    adapter, result = recipe.training.adapter, weights.result
    said: dict[str, Any] = {
        "family": family,
        "end_ids": data.end_ids,
        "labels": data.labels,
        "problem_type": recipe.objective.problem_type,
        "facts": facts,
        "generation": data.start.described.generation if data.start is not None else None,
    }
    if adapter is None or data.start is None or adapter.merge:
        save_model(folder, model.config, merged(model, result), data.tokenizer, **said)
        return
    base = Base(data.start.path, data.start.described.folder, data.start.sha256)
    save_adapter(folder, model.config, {name: result[name] for name in weights.trained}, data.tokenizer, adapter, base, **said)
