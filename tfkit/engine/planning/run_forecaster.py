"""The forecaster of all trainings: estimates from the speeds of this machine, corrected by earlier runs on it.

It imports torch when it is first asked: a training is checked, and its folder locked, before.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tfkit.carbon.footprint import RunTotals
    from tfkit.engine.assembly.training_data import TrainingData
    from tfkit.engine.training_run.estimate import Estimate
    from tfkit.model.transformer import Transformer
    from tfkit.recipe.schema.sections import Recipe


class RunForecaster:
    """A `Forecaster`, as training_run knows it."""

    def estimate(
        self, recipe: "Recipe", data: "TrainingData", model: "Transformer", device: "torch.device", start: Callable[[], float]
    ) -> "Estimate":
        """Return the estimate of a run; see `estimate_run`."""
        from tfkit.engine.planning.forecast import estimate_run

        return estimate_run(recipe, data, model, device, start)

    def remember(self, planned: "Estimate", recipe: "Recipe", totals: "RunTotals", device: "torch.device") -> None:
        """Add a finished run to the history; see `remember_outcome`."""
        from tfkit.engine.planning.forecast import remember_outcome

        remember_outcome(planned, recipe, totals, device)
