"""A second model that a step trains, such as the value model of PPO, with weights and an optimizer of its own."""

from dataclasses import dataclass

import torch

from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.optimizer_sections import OptimizerSection
from tfkit.training.optimizer import Optimizer, with_peak_lr
from tfkit.training.precision import Weights


@dataclass(frozen=True)
class TrainedModel:
    """A model, its weights and their optimizer. It follows the run's learning-rate schedule, and no mean of its weights is kept."""

    model: Transformer
    weights: Weights
    optimizer: Optimizer


def trained_model(model: Transformer, section: OptimizerSection, dtype: torch.dtype, lr: float | None = None) -> TrainedModel:
    """Prepare a model, on its device, for training by the run's optimizer; `lr`: its own peak learning rate, None: the run's."""
    weights = Weights(model, dtype)
    return TrainedModel(model, weights, Optimizer(weights.trained, section if lr is None else with_peak_lr(section, lr)))
