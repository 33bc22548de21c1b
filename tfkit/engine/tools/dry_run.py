"""Plan a training without starting it: its recipe, its first rows and its cost. Text is tokenized, but no run folder is created."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from tfkit.carbon.place import require_long_series
from tfkit.engine.assembly.components import batch_sizes
from tfkit.engine.assembly.training_rows import training_baselines
from tfkit.engine.inference.session import Session
from tfkit.engine.planning.cluster import with_cluster
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.request.rank_checks import require_divisible
from tfkit.engine.request.training_request import TrainingRequest, require_trainable
from tfkit.engine.tools.inspection import Inspection, first_rows
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.engine.training_run.estimate import Estimate, fit_length
from tfkit.engine.training_run.run import Run
from tfkit.evaluation.baselines import Baselines
from tfkit.objectives.registry import open_rows
from tfkit.recipe import ResolvedRecipe
from tfkit.recipe.reading.read import read_document
from tfkit.training.device import pick_device
from tfkit.training.free_memory import available_bytes
from tfkit.units import format_baselines, format_bytes, format_energy, format_epochs, format_number_of, format_seconds


@dataclass(frozen=True)
class DryRun:
    """The plan of a training that is not started: its recipe, first rows, estimate and baselines."""

    decided: ResolvedRecipe  # the recipe, in which all automatic decisions are written out
    inspection: Inspection
    estimate: Estimate
    batch_size: int
    rows_read: int  # number of rows in all steps together; a row that several epochs read is counted each time
    baselines: Baselines

    def describe(self) -> list[str]:
        """Return lines of text on the run: its steps, parameters, memory, disk space, time, energy, learning rate trial and baselines."""
        plan, tokens = self.estimate, round(self.estimate.tokens * self.batch_size / self.rows_read)
        epochs = self.rows_read / (self.inspection.totals["rows_an_epoch"] * self.inspection.readings)
        trained = "all" if plan.trained_parameters == plan.parameters else f"{plan.trained_parameters:,}"
        free, cluster, baselines = available_bytes(), plan.cluster, format_baselines(self.baselines)
        of = "" if free is None else f", of {format_bytes(free)} that are free"
        lines = [
            f"{format_number_of(plan.steps, 'step')} of {self.batch_size:,} rows, about {tokens:,} tokens each, {format_epochs(epochs)}; "
            f"micro-batches of {format_number_of(plan.micro_batch_size, 'row')}",
            f"{plan.parameters:,} parameters, of which {trained} are trained; about {format_bytes(plan.memory_bytes)} of "
            f"memory{of}; {format_bytes(plan.disk_bytes)} of checkpoints",
            f"each of {cluster['ranks']:,} ranks needs this memory, and takes {cluster['rows_per_rank']:,} rows of a step"
            if cluster
            else "",
            f"roughly {format_seconds(plan.seconds.likely)} ({format_seconds(plan.seconds.low)} to {format_seconds(plan.seconds.high)}), "
            f"{format_energy(1000 * plan.energy_kwh.likely)}",
            f"before the first step, {plan.rate_trial.describe(plan.flops['total'])}" if plan.rate_trial is not None else "",
            f"no learning rates are tried: {plan.no_rate_trial}" if plan.no_rate_trial is not None else "",
            f"baselines of the validation rows: {baselines}" if baselines else "",
        ]
        return [line for line in lines if line]

    def to_dict(self) -> dict[str, Any]:
        """Return the document of --json without the fields about the first rows, which `Inspection.to_dict` returns."""
        return {
            "recipe": self.decided.document,
            "batch_size": self.batch_size,
            "estimate": self.estimate.to_dict(),
            "baselines": self.baselines,
        }


def dry_run(request: TrainingRequest, session: Session, *, rows: int, options: RunOptions) -> DryRun:
    """Plan a checked training, and read its first `rows` rows. Raises errors of the recipe, data or checkpoint as the training does."""
    ranks = options.ranks.size
    with session.stop.at_once():
        decided = request.decide(session.listener)
    require_trainable(decided.recipe)
    require_divisible(decided.recipe, ranks)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    run = Run(decided.recipe, pick_device(options.device), session.listener, session.stop, session.meter, RunForecaster())
    run.prepare(ranks=ranks)
    if options.minutes is not None:
        fields = fit_length(run, options.minutes, options.named)
        decided = read_document(decided.document, str(decided.path), fields, decided.source.comment)
    estimate = run.forecast(ahead=True)
    require_long_series(run.recipe.carbon, estimate.seconds.low)
    if ranks > 1:  # all ranks run on this machine and share its speed, so the estimated time and energy stay the same
        of_ranks = with_cluster(estimate, run.recipe, run.data, ranks, None)
        estimate = replace(
            estimate, micro_batch_size=of_ranks.micro_batch_size, memory_bytes=of_ranks.memory_bytes, cluster=of_ranks.cluster
        )
    with session.stop.at_once():
        inspection = first_rows(run.recipe, run.data, rows)
        sizes = batch_sizes(run.recipe, open_rows(run.recipe, run.data.objective, run.data.train, run.data.config))
        return DryRun(decided, inspection, estimate, sizes.full, sizes.before(estimate.steps), training_baselines(run.recipe))
