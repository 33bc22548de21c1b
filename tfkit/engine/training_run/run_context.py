"""The context that the parts of a running training share."""

from dataclasses import dataclass

import torch

from tfkit.carbon import Meter
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.training_run.budget import Budget
from tfkit.engine.training_run.estimate import Forecaster
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """The context of a training: its recipe, folder, device, meter and budget, its stop request and its forecaster."""

    recipe: Recipe
    folder: RunFolder
    stop: StopRequest
    listener: Listener
    meter: Meter
    device: torch.device
    budget: Budget
    forecaster: Forecaster
