"""The forecaster of all trainings: estimates from the speeds of this machine, corrected by earlier runs on it.

It imports torch when it is first asked: a training is checked, and its folder locked, before.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tfkit.carbon import Meter
    from tfkit.carbon.footprint import RunTotals
    from tfkit.engine.assembly.training_data import TrainingData
    from tfkit.engine.listener import Listener, StopRequest
    from tfkit.engine.training_run.estimate import Estimate
    from tfkit.model.transformer import Transformer
    from tfkit.recipe.schema.sections import Recipe


_MEASURED_STEPS = 5  # of which the first two are slower


class RunForecaster:
    """A `Forecaster`, as training_run knows it."""

    def estimate(
        self, recipe: "Recipe", data: "TrainingData", model: "Transformer", device: "torch.device", start: Callable[[], float]
    ) -> "Estimate":
        """Return the estimate of a run; see `estimate_run`."""
        from tfkit.engine.planning.forecast import estimate_run

        return estimate_run(recipe, data, model, device, start)

    def measure(
        self, recipe: "Recipe", data: "TrainingData", device: "torch.device", listener: "Listener", stop: "StopRequest", meter: "Meter"
    ) -> "Callable[[Estimate], Estimate]":
        """Take a few steps of a run, and return a function that corrects an estimate by their time; see `probe_run`."""
        from tfkit.engine.planning.probe_steps import probe_run, with_probe

        probe = probe_run(recipe, data, device, _MEASURED_STEPS, listener, stop, meter)
        return lambda planned: with_probe(planned, recipe, probe, device)

    def remember(self, planned: "Estimate", recipe: "Recipe", totals: "RunTotals", device: "torch.device") -> None:
        """Add a finished run to the history; see `remember_outcome`."""
        from tfkit.engine.planning.forecast import remember_outcome

        remember_outcome(planned, recipe, totals, device)
