"""The protocol of what forecasts a training; the forecaster of all commands is `planning/run_forecaster.py`."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.training_run.estimate import Estimate
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.sections import Recipe


class Forecaster(Protocol):
    """Estimates a run before its first step, and learns from what became of it."""

    def estimate(
        self, recipe: Recipe, data: TrainingData, model: Transformer, device: torch.device, start: Callable[[], float]
    ) -> Estimate:
        """Return the estimate of a run. `model`: its shapes; `start` returns the seconds since its command started."""
        ...

    def remember(self, planned: Estimate, recipe: Recipe, totals: Mapping[str, Any], device: torch.device) -> None:
        """Add a run that was finished in one attempt, with its prediction, to the history."""
        ...
