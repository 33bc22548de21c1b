"""One attempt of a run, from the folder to the result: pre-training, fine-tuning and resuming differ in where the recipe comes from.

start_run | resume_run
  _attempt              the run folder is locked, and the recipe is known; torch is imported after that, so that a refusal is quick
    _train_metered      the meter runs; whatever happens, its totals are recorded
      _prepare_run      device, ranks, then Run.prepare: the data; Run.forecast, if something needs it
      assemble_run      the model, or its newest checkpoint, and the parts of the training
      AssembledRun      .train: the steps; then .finish, or .result of a run that was stopped
"""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.alignment.user_code import NO_CODE, CodePermission
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.gate import Gate, judge, training_gates, training_metrics
from tfkit.engine.request.rank_checks import rank_device, rank_threads, require_divisible
from tfkit.engine.request.training_request import RequestRecord, TrainingRequest, kind_of, require_trainable
from tfkit.engine.training_run.ranks_of_command import RankConnection
from tfkit.errors import BudgetReached, MachineError, Stopped, TfkitError, UsageError, argument, stop_reason
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.schema.optimizer_sections import ParallelSection
from tfkit.recipe.starting_points import DECISIONS
from tfkit.run import strict_json
from tfkit.run.folder import RunFolder, is_begun
from tfkit.run.listing import read_run
from tfkit.run.lock import is_locked

if TYPE_CHECKING:
    from tfkit.carbon import Meter
    from tfkit.engine.training_run.assembled_run import AssembledRun
    from tfkit.engine.training_run.budget import Budget
    from tfkit.engine.training_run.estimate import Forecaster
    from tfkit.engine.training_run.run import Run
    from tfkit.recipe.schema.sections import Recipe

_LONGER, _LATER_SECONDS = 1.2, 30.0  # a slow run is stopped after this factor times its minutes, and these seconds
_LOOK_SECONDS = 0.05  # between checks of a stop while the idle machine is measured


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, apart from its recipe."""

    run: Path
    forecaster: "Forecaster"
    resume: bool = False
    exact: bool = False  # do not fall back to an older checkpoint
    force: bool = False  # start even if the planned checkpoints do not fit the disk
    device: str | None = None
    threads: int | None = None
    command: Sequence[str] = ()  # for run.json
    fail_if: Sequence[str] = ()  # comparisons of the result's metrics that must not be true
    stages: Sequence[str] = ()  # the stages of the recipe to run; empty: all
    connection: RankConnection = field(default_factory=RankConnection)  # of the processes that train together
    code: CodePermission = NO_CODE  # which files of code may be run, besides those that the user's own recipe names
    minutes: float | None = None  # the length of a new run; None: its recipe's
    named: Collection[str] = ()  # the fields that the user gives, which `minutes` do not change

    @property
    def ranks(self) -> Ranks:
        """The ranks that train together, with the place of this process among them."""
        return self.connection.ranks


def start_run(request: TrainingRequest, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Start a run, or continue the one in the folder; return the result of docs/cli.md.

    Problems of a new run's recipe are reported before its folder is created.
    """
    if not (options.resume and is_begun(options.run)):  # else the run has a recipe of its own
        recipe = request.check()
        if recipe is not None:
            _gates(options, recipe)
        request.inputs.refuse_folder(options.run, argument("run"))
    return _attempt(request, options, listener, stop)


def resume_run(overrides: Overrides, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Continue a run as it was started, from its folder alone. Return the result of docs/cli.md."""
    if not is_begun(options.run):
        raise _nothing_to_resume(options.run)
    return _attempt(TrainingRequest(None, None, overrides), options, listener, stop)


def _nothing_to_resume(run: Path) -> TfkitError:
    """Return the error for a folder without a checkpoint to continue from; it says what the folder is."""
    listed = read_run(run)
    if is_locked(run / "lock"):
        return MachineError(
            f"{run}: this run folder is in use by another process, which has saved no checkpoint yet. Wait for it or stop it"
        )
    if listed.status in ("foreign", "damaged"):
        return UsageError(f"{run}: there is no run to continue here ({listed.problem}); name the folder of a run")
    if listed.checkpoints and not (run / "recipe.yaml").is_file():
        return UsageError(
            f"{run}: its recipe.yaml is missing, without which the run cannot continue. Restore that file; or use a checkpoint of this run "
            f"with {argument('start')}, and give another folder with {argument('run')}"
        )
    because, again = f" ({listed.problem})" if listed.problem else "", f". Start it again: {listed.resume}" if listed.resume else ""
    return UsageError(f"{run}: this run has no checkpoint to continue from; it is {listed.status}{because}{again}")


def _attempt(request: TrainingRequest, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Lock the run folder, and train.

    The recipe of a new run is decided once the folder is locked. A resumed run has its own, which the request may change. Raises Stopped,
    with `result` if steps were taken.
    """
    from tfkit.engine.request.resuming import (
        finished_result,
        report_changes,
        require_length,
        require_same_code,
        resolve_resumption,
        warn_without_effect,
    )
    from tfkit.run.checkpoints import newest_step

    if options.stages:
        raise UsageError(f"{argument('stages', ','.join(options.stages))}: the recipe has no stages; leave it out")
    with RunFolder.open(options.run, resume=options.resume, command=[*options.command], warn=listener.warn) as folder:
        if folder.begun:
            resumption = resolve_resumption(folder, request.given)
            recipe, given = resumption.recipe, resumption.given
            gates = _gates(options, recipe)
            if resumption.same_end and (result := finished_result(folder)) is not None:
                warn_without_effect(folder.path, resumption.changes.values(), listener)
                listener.say(f"{folder.path}: this run is finished; here is its result again")
                folder.confirm_finished()
                return _with_verdicts(result, gates)
            require_trainable(recipe)
            require_length(folder.path, recipe.training.steps, newest_step(folder.checkpoints))
            require_same_code(folder, recipe)
            report_changes(folder, resumption, listener)
        else:
            if request.source is None and request.unwritten is None:
                raise UsageError(f"{options.run}: the checkpoints of this run are gone; start it again with its recipe")
            with stop.at_once():
                decided = request.decide(listener)
                if request.source is None:
                    listener.decided(decided.text)
            recipe, given = decided.recipe, request.given.with_decided(decided.decided)
            require_trainable(recipe)
            if given.recipe is None:
                folder.record(decisions=DECISIONS)
            gates = _gates(options, recipe)
            if request.is_named and recipe.objective.code_files:
                options = replace(options, code=options.code.with_named(recipe.objective.code_files.values(), listener.warn))
        if recipe.objective.code_files:
            options.code.require(recipe.objective.code_files)
        if not options.ranks.is_alone or recipe.parallel != ParallelSection():
            require_divisible(recipe, options.ranks.size, is_resumed=folder.begun)
        budget, carbon = None, recipe.carbon
        if options.minutes is not None and not folder.begun and carbon.budget_seconds is None:  # of this attempt, not of the recipe
            carbon = carbon.model_copy(update={"budget_seconds": _LONGER * 60 * options.minutes + _LATER_SECONDS})
        if carbon.limits:
            from tfkit.engine.training_run.budget import Budget

            budget = Budget(carbon, folder.path, stop, listener)
            stop = budget.stop
        try:
            return _with_verdicts(_train_metered(recipe, given, options, gates, folder, listener, stop, budget), gates)
        except Stopped as stopped:
            stopped.runs_code = bool(recipe.objective.code_files)
            raise


def _gates(options: RunOptions, recipe: "Recipe") -> list[Gate]:
    return training_gates(options.fail_if, recipe) if options.fail_if else []


def _with_verdicts(result: dict[str, Any], gates: Collection[Gate]) -> dict[str, Any]:
    """Return the result with the verdict on each gate. run.json has no verdicts: the next command may have other gates."""
    return {**result, "gates": strict_json.loads(strict_json.dumps({"gates": judge(gates, training_metrics(result))}))["gates"]}


def _train_metered(
    recipe: "Recipe",
    given: RequestRecord,
    options: RunOptions,
    gates: Collection[Gate],
    folder: RunFolder,
    listener: Listener,
    stop: StopRequest,
    budget: "Budget | None",
) -> dict[str, Any]:
    """Train with a meter, which is stopped however the attempt ends; its reading goes into the totals. Raises Stopped, as `_attempt`."""
    from tfkit.carbon import Meter, attempts_of, missing_nodes
    from tfkit.engine.request.run_totals import record_totals

    folder.begin_attempt(options.threads, kind=kind_of(recipe))
    name = given.recipe.name if given.recipe is not None else folder.path.name
    assembled: AssembledRun | None = None
    stopped: Stopped | None = None
    meter_facts: dict[str, Any] = {"run_id": folder.run_id, "attempt": folder.attempt, "project": name, "nodes": options.ranks.nodes}
    meter = Meter.start(recipe.carbon, folder=folder.path, **meter_facts)
    if budget is not None:
        budget.start(meter)
    try:
        _measure_idle(meter, recipe.carbon.baseline_seconds, listener, stop)
        run = _prepare_run(recipe, options, folder, listener, stop, meter, meter_facts)
        run.budget = budget
        for gate in gates:
            run.data.objective.evaluation_objective.check_metric(gate.metric.rpartition(".")[2])
        if options.minutes is not None and not folder.begun:
            given = given.with_decided(run.fit_length(options.minutes, options.named, measures=True))
        if recipe.training.trial_rates is not None:
            run.choose_rate()
        from tfkit.engine.training_run.assembled_run import assemble_run  # it imports torch, as `_prepare_run` does

        assembled = assemble_run(run, exact=options.exact, force=options.force)
        assembled.record(given)
        assembled.train()
    except Stopped as error:
        stopped = error if budget is None else budget.ending(error)
        if isinstance(stopped, BudgetReached):
            folder.record(larger_budget=stopped.larger)
    finally:
        reading = meter.stop()
        if warning := meter.warning():
            listener.warn(warning)
        record_totals(folder, reading, assembled.totals if assembled is not None else {})
        with suppress(OSError):
            for silent in missing_nodes(attempts_of(folder.path, folder.run_id)):
                listener.warn(f"the energy is a lower bound: {silent}")
    if stopped is not None:
        if assembled is not None and assembled.progress.step:
            stopped.result = assembled.result("stopped") | {"stopped_by": stop_reason(stopped)}
        raise stopped
    assert assembled is not None
    return assembled.finish()


def _prepare_run(
    recipe: "Recipe",
    options: RunOptions,
    folder: RunFolder,
    listener: Listener,
    stop: StopRequest,
    meter: "Meter",
    meter_facts: dict[str, Any],
) -> "Run":
    """Return the run with its device, peers and data, but without weights."""
    import torch

    from tfkit.carbon.place import require_long_series
    from tfkit.engine.training_run.run import Run
    from tfkit.training.device import pick_device

    threads, device_name = options.threads, options.device
    if not options.ranks.is_alone:
        threads, device_name = rank_threads(threads, options.ranks), rank_device(device_name, options.ranks)
    if threads is not None:
        torch.set_num_threads(threads)
    device = pick_device(device_name)
    with stop.at_once("nothing was trained yet"):  # the other ranks may be late
        peers = options.connection.peers(device, listener.say)
        carbon = {"carbon": recipe.carbon.model_dump(mode="json"), "folder": str(folder.path.resolve())}
        options.connection.meter_nodes(device, carbon | meter_facts)
    run = Run(recipe, device, listener, stop, meter, options.forecaster, peers, options.code)
    run.folder = folder
    run.prepare(begun=folder.begun)
    if run.needs_forecast:
        estimate = run.forecast()
        if not folder.begun:
            require_long_series(recipe.carbon, estimate.seconds.low)
    return run


def _measure_idle(meter: "Meter", seconds: float, listener: Listener, stop: StopRequest) -> None:
    """Wait idly for `seconds`, once the meter has started, in a phase of its own; not without a meter. Raises Stopped.

    The idle power of the machine is measured before the training, as arXiv 2211.02001 reports it for BLOOM.
    """
    if not seconds or meter.reading().status == "off":
        return
    listener.say(f"measuring the idle machine for {seconds:g} s")
    with stop.at_once("nothing was trained yet"):
        while meter.reading().status == "starting":
            _wait(_LOOK_SECONDS, stop)
        if meter.reading().status == "ok":
            meter.phase("idle")
            _wait(seconds, stop)
            meter.phase("setup")


def _wait(seconds: float, stop: StopRequest) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        stop.raise_if_requested("nothing was trained yet")
        time.sleep(min(left, _LOOK_SECONDS))
