"""The forecaster of trainings and plans: it estimates a run from the speeds of this machine, corrected by earlier runs here.

This module does not import torch. Its methods do; they are called after the request was checked and a training's folder was locked.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfkit.carbon.footprint import RunTotals
    from tfkit.engine.training_run.estimate import Estimate
    from tfkit.engine.training_run.run import Run

_MEASURED_STEPS = 5  # the first two are slower, and do not count for the speed


class RunForecaster:
    """Implements the protocol `Forecaster` (training_run/estimate.py) for trainings that are run or planned."""

    def estimate(self, run: "Run", start: Callable[[], float]) -> "Estimate":
        """Return the estimate of a prepared run; see `estimate_run`."""
        from tfkit.engine.planning.forecast import estimate_run

        return estimate_run(run, start)

    def measure(self, run: "Run") -> "Callable[[Estimate], Estimate]":
        """Take a few steps of a run, and return a function that corrects an estimate by their measurements; see `probe_run`."""
        from tfkit.engine.planning.probe_steps import probe_run, with_probe

        probe = probe_run(run, _MEASURED_STEPS)
        return lambda planned: with_probe(planned, run.recipe, probe, run.device)

    def remember(self, run: "Run", planned: "Estimate", totals: "RunTotals") -> None:
        """Add a finished run to the history; see `remember_outcome`."""
        from tfkit.engine.planning.forecast import remember_outcome

        remember_outcome(run, planned, totals)
