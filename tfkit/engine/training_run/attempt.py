"""One attempt (start or resumption) of a run. Pre-training, fine-tuning and resuming all follow this path:

start_run | resume_run
  _attempt              lock the run folder, and read the recipe; torch is imported later, so that errors of the request appear quickly
    _Attempt.train      measure the energy, and record its total even if the attempt fails
      _prepare          choose the device, and connect the ranks; then Run.prepare reads the data, and Run.forecast estimates the run
      _decide_by_data   choose the number of steps and the learning rate, if the user leaves them open
      assemble_run      build the model or load the newest checkpoint, and assemble the components of the training
      AssembledRun      .train takes the steps; .finish, or .result after a stop, returns the result
"""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.alignment.user_code import NO_CODE, CodePermission
from tfkit.carbon import Meter, attempts_of, missing_nodes
from tfkit.carbon.place import require_long_series
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.gate import Gate, judge, training_gates, training_metrics
from tfkit.engine.request.rank_checks import rank_device, rank_threads, require_divisible
from tfkit.engine.request.resuming import check_resumption, nothing_to_resume, repeated_result, resolve_resumption, unchanged_budget
from tfkit.engine.request.run_totals import record_totals
from tfkit.engine.request.training_request import RequestRecord, TrainingRequest, kind_of, require_trainable
from tfkit.engine.training_run.budget import Budget, with_latest_end
from tfkit.engine.training_run.estimate import Forecaster, fit_length
from tfkit.engine.training_run.ranks_of_command import RankConnection
from tfkit.engine.training_run.usage import spent_in
from tfkit.errors import BudgetReached, Stopped, UsageError, argument
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.schema.optimizer_sections import ParallelSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.starting_points import DECISIONS
from tfkit.run import strict_json
from tfkit.run.folder import RunFolder, is_begun

if TYPE_CHECKING:
    from tfkit.engine.training_run.assembled_run import AssembledRun
    from tfkit.engine.training_run.run import Run

_LOOK_SECONDS = 0.05  # the time between two checks for a stop request while the idle machine is measured


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, apart from its recipe."""

    run: Path
    forecaster: Forecaster
    resume: bool = False
    exact: bool = False  # raise an error if the newest checkpoint is damaged, instead of falling back to an older one
    force: bool = False  # start even if the planned checkpoints do not fit the disk
    device: str | None = None
    threads: int | None = None
    command: Sequence[str] = ()  # the command line, recorded in run.json
    fail_if: Sequence[str] = ()  # conditions on the result's metrics; if one is true, the command fails
    stages: Sequence[str] = ()  # the stages of the recipe to run; empty: all
    connection: RankConnection = field(default_factory=RankConnection)  # the connection of this process to the ranks that train with it
    code: CodePermission = NO_CODE  # which files of reward functions may be run, in addition to those that the user's own recipe names
    minutes: float | None = None  # the length of a new run; None: the recipe gives it
    named: Collection[str] = ()  # the recipe fields that the user sets, which a length in `minutes` does not change

    @property
    def ranks(self) -> Ranks:
        """The rank of this process, and the number of ranks that train together."""
        return self.connection.ranks


def start_run(request: TrainingRequest, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Start a run in the folder `options.run` or, with `options.resume`, continue the run there; return the result (docs/cli.md).

    Problems of a new run's recipe are reported before its folder is created.
    """
    if not (options.resume and is_begun(options.run)):  # otherwise the run continues with the recipe in its folder
        recipe = request.check()
        if recipe is not None:
            _gates(options, recipe)
        request.inputs.refuse_folder(options.run, argument("run"))
    return _attempt(request, options, listener, stop)


def resume_run(overrides: Overrides, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Continue the run in the folder `options.run`, with the recipe recorded there and `overrides`. Return the result (docs/cli.md)."""
    if not is_begun(options.run):
        raise nothing_to_resume(options.run)
    return _attempt(TrainingRequest(None, None, overrides), options, listener, stop)


def _attempt(request: TrainingRequest, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Lock the run folder, and train. A resumed run uses the recipe in its folder, with the changes that the request makes.

    Raises Stopped, whose `result` is set if steps were taken.
    """
    if options.stages:
        raise UsageError(f"{argument('stages', ','.join(options.stages))}: the recipe has no stages; leave it out")
    with RunFolder.open(options.run, resume=options.resume, command=[*options.command], warn=listener.warn) as folder:
        ended_by = None
        if folder.begun:
            resumption = resolve_resumption(folder, request.given)
            recipe, given = resumption.recipe, resumption.given
            gates = _gates(options, recipe)
            if (result := repeated_result(folder, resumption, listener)) is not None:
                return _with_verdicts(result, gates)
            check_resumption(folder, resumption, listener)
            ended_by = unchanged_budget(folder, resumption)
        else:
            recipe, given = _decide(request, folder, listener, stop)
            gates = _gates(options, recipe)
            if request.is_named and recipe.objective.code_files:
                options = replace(options, code=options.code.with_named(recipe.objective.code_files.values(), listener.warn))
        if recipe.objective.code_files:
            options.code.require(recipe.objective.code_files)
        if not options.ranks.is_alone or recipe.parallel != ParallelSection():
            require_divisible(recipe, options.ranks.size, is_resumed=folder.begun)
        budget = _budget(recipe, options, folder, listener, stop, ended_by)
        try:
            attempt = _Attempt(recipe, given, options, gates, folder, listener, stop if budget is None else budget.stop, budget)
            return _with_verdicts(attempt.train(), gates)
        except Stopped as stopped:
            stopped.runs_code = bool(recipe.objective.code_files)
            raise


def _decide(request: TrainingRequest, folder: RunFolder, listener: Listener, stop: StopRequest) -> tuple[Recipe, RequestRecord]:
    """Return the recipe of a new run, and the record of the request, extended by the fields that tfkit chose from the data."""
    if request.source is None and request.unwritten is None:
        raise UsageError(f"{folder.path}: the checkpoints of this run are gone; start it again with its recipe")
    with stop.at_once():
        decided = request.decide(listener)
        if request.source is None:
            listener.decided(decided.text)
    require_trainable(decided.recipe)
    given = request.given.with_decided(decided.decided)
    if given.recipe is None:
        folder.record(decisions=DECISIONS)
    return decided.recipe, given


def _budget(
    recipe: Recipe, options: RunOptions, folder: RunFolder, listener: Listener, stop: StopRequest, ended_by: str | None
) -> Budget | None:
    """Return the budget of an attempt; None if it has no limit.

    Its limits are those of the recipe and, for a new run whose length is given in minutes, a time limit somewhat above that length.
    """
    carbon, minutes = recipe.carbon, None if folder.begun else options.minutes
    if minutes is None and not carbon.limits:
        return None
    if minutes is not None:
        carbon = with_latest_end(carbon, minutes, spent_in(folder.path).seconds)
    return Budget(carbon, folder.path, stop, listener, ended_by=ended_by)


def _gates(options: RunOptions, recipe: Recipe) -> list[Gate]:
    return training_gates(options.fail_if, recipe) if options.fail_if else []


def _with_verdicts(result: dict[str, Any], gates: Collection[Gate]) -> dict[str, Any]:
    """Return the result with the verdict on each gate (a comparison of `fail_if`).

    run.json has no verdicts, since the next command for this run may have different gates.
    """
    return {**result, "gates": strict_json.loads(strict_json.dumps({"gates": judge(gates, training_metrics(result))}))["gates"]}


@dataclass(frozen=True)
class _Attempt:
    """An attempt whose folder is locked and whose recipe is known.

    `given`: the user's request, as run.json records it. `stop`: the stop request of the command, combined with the budget if there is one.
    """

    recipe: Recipe
    given: RequestRecord
    options: RunOptions
    gates: Collection[Gate]
    folder: RunFolder
    listener: Listener
    stop: StopRequest
    budget: Budget | None

    def train(self) -> dict[str, Any]:
        """Train while a meter measures the energy; however the attempt ends, stop the meter and record the totals. Raises Stopped."""
        recipe, folder, budget = self.recipe, self.folder, self.budget
        folder.begin_attempt(self.options.threads, kind=kind_of(recipe))
        assembled: AssembledRun | None = None
        stopped: Stopped | None = None
        meter = Meter.start(recipe.carbon, folder=folder.path, **self._meter_facts)
        if budget is not None:
            budget.start(meter)
        try:
            _measure_idle(meter, recipe.carbon.baseline_seconds, self.listener, self.stop)
            run = self._prepare(meter)
            given = self._decide_by_data(run)
            from tfkit.engine.training_run.assembled_run import assemble_run  # imported here, since it imports torch

            assembled = assemble_run(run, exact=self.options.exact, force=self.options.force)
            assembled.record(given)
            assembled.train()
        except Stopped as error:
            stopped = error if budget is None else budget.ending(error)
            if isinstance(stopped, BudgetReached):
                folder.record(larger_budget=stopped.larger)
        finally:
            reading = meter.stop()
            if warning := meter.warning():
                self.listener.warn(warning)
            record_totals(folder, reading, assembled.totals if assembled is not None else {})
            with suppress(OSError):
                for silent in missing_nodes(attempts_of(folder.path, folder.run_id)):
                    self.listener.warn(f"the energy is a lower bound: {silent}")
        if stopped is not None:
            if assembled is not None and assembled.progress.step:
                stopped.result = assembled.result("stopped") | {"stopped_by": stopped.reason}
            raise stopped
        assert assembled is not None
        return assembled.finish()

    @property
    def _meter_facts(self) -> dict[str, Any]:
        folder, recipe = self.folder, self.given.recipe
        name = folder.path.name if recipe is None else recipe.name
        return {"run_id": folder.run_id, "attempt": folder.attempt, "project": name, "nodes": self.options.ranks.nodes}

    def _prepare(self, meter: Meter) -> "Run":
        """Return the run with its device, ranks and data, but without weights."""
        import torch

        from tfkit.engine.training_run.run import Run
        from tfkit.training.device import pick_device

        options, recipe, folder, stop = self.options, self.recipe, self.folder, self.stop
        threads, device_name = options.threads, options.device
        if not options.ranks.is_alone:
            threads, device_name = rank_threads(threads, options.ranks), rank_device(device_name, options.ranks)
        if threads is not None:
            torch.set_num_threads(threads)
        device = pick_device(device_name)
        with stop.at_once("no step was taken"):  # a signal ends a long wait for the other ranks
            peers = options.connection.peers(device, self.listener.say)
            carbon = {"carbon": recipe.carbon.model_dump(mode="json"), "folder": str(folder.path.resolve())}
            options.connection.meter_nodes(device, carbon | self._meter_facts)
        run = Run(recipe, device, self.listener, stop, meter, options.forecaster, peers, options.code)
        run.folder = folder
        run.prepare(begun=folder.begun)
        if run.needs_forecast:
            run.forecast()
        return run

    def _decide_by_data(self, run: "Run") -> RequestRecord:
        """Check that the metrics of `gates` exist; choose steps and learning rate if left open. Return `given` with any chosen steps."""
        options, given = self.options, self.given
        run.budget = self.budget
        for gate in self.gates:
            run.data.objective.evaluation_objective.check_metric(gate.metric.rpartition(".")[2])
        if options.minutes is not None and not self.folder.begun:
            given = given.with_decided(fit_length(run, options.minutes, options.named, measures=True))
        if run.planned is not None and not self.folder.begun:
            require_long_series(run.recipe.carbon, run.planned.seconds.low)
        if self.recipe.training.trial_rates is not None:
            from tfkit.engine.training_run.rate_trial import choose_rate

            choose_rate(run)
        return given


def _measure_idle(meter: Meter, seconds: float, listener: Listener, stop: StopRequest) -> None:
    """Measure the power of the idle machine for `seconds`, in the meter's phase "idle", as was done for BLOOM (arXiv 2211.02001).

    The measurement begins when the meter has started. Return immediately if the meter is off, or `seconds` is 0. Raises Stopped.
    """
    if not seconds or meter.reading().status == "off":
        return
    listener.say(f"measuring the idle machine for {seconds:g} s")
    with stop.at_once("no step was taken"):
        while meter.reading().status == "starting":
            _wait(_LOOK_SECONDS, stop)
        if meter.reading().status == "ok":
            meter.phase("idle")
            _wait(seconds, stop)
            meter.phase("setup")


def _wait(seconds: float, stop: StopRequest) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        stop.raise_if_requested("no step was taken")
        time.sleep(min(left, _LOOK_SECONDS))
