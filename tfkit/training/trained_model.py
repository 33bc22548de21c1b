"""A model that a step trains beside that of the run, such as the value model of PPO: its weights, and an optimizer of its own."""

from dataclasses import dataclass

import torch

from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.optimizer_sections import OptimizerSection
from tfkit.training.optimizer import Optimizer, at_peak
from tfkit.training.precision import Weights


@dataclass(frozen=True)
class TrainedModel:
    """The model, its master and working weights, and their optimizer. It follows the run's schedule, and has no mean of its weights."""

    model: Transformer
    weights: Weights
    optimizer: Optimizer


def trained_model(model: Transformer, section: OptimizerSection, dtype: torch.dtype, lr: float | None = None) -> TrainedModel:
    """Return a model, on its device, ready to be trained by the optimizer of the run; `lr`: its own peak rate, None: that of the run."""
    weights = Weights(model, dtype)
    return TrainedModel(model, weights, Optimizer(weights.trained, section if lr is None else at_peak(section, lr)))
