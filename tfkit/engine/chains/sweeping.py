"""Run a sweep: trials of one recipe with different values, each in a folder of its own; the sweep's run.json sums up all of them."""

import gc
from dataclasses import replace
from typing import Any

from tfkit.engine.chains import stages
from tfkit.engine.chains.sweep_plan import SweepPlan, check_trial, is_free, is_sweep, plan_sweep
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.resuming import warn_without_effect
from tfkit.engine.request.run_totals import Trial, sweep_facts, sweep_result
from tfkit.engine.training_run import attempt
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.errors import BudgetReached, InsufficientMemoryError, Stopped, UnhealthyError, UsageError, is_out_of_memory
from tfkit.recipe import RecipeText
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.search_space import SearchSpace
from tfkit.run.folder import RunFolder, is_begun
from tfkit.run.run_json import SWEEP, End
from tfkit.training.isolation import isolated


def run_sweep(
    source: RecipeText | None, space: SearchSpace, trials: int | None, options: RunOptions, listener: Listener, stop: StopRequest
) -> dict[str, Any]:
    """Run a trial for each combination of the values in `space`; return the result (docs/cli.md).

    `source`: the recipe; None: that of the sweep in the folder or, for a new sweep, one that is inferred from the data and the checkpoint
    in `space`. `trials`: how many combinations to try, chosen by Optuna if there are more; None: all, or as many as when the sweep began.
    """
    with stop.at_once():
        plan = plan_sweep(source, space, trials, options, listener)
    return _run(plan, options, listener, stop)


def resume(overrides: Overrides, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Continue the sweep, the recipe with stages or the single run in a folder."""
    if is_sweep(options.run):
        return run_sweep(None, SearchSpace(overrides, ()), None, options, listener, stop)
    return stages.resume_folder(overrides, options, listener, stop)


def _run(plan: SweepPlan, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Run the remaining trials. A trial whose values make the training fail is recorded as failed, and the next one follows.

    Raises Stopped with the sweep's result.
    """
    with RunFolder.open(options.run, resume=options.resume, command=[*options.command], warn=listener.warn, group=SWEEP) as folder:
        trials = [*plan.trials]
        facts = sweep_facts(folder.path, trials)
        asked = {"given": plan.given.document(), "space": plan.space.document(), "asked": plan.asked}
        if folder.is_held:
            folder.begin_attempt(options.threads, kind=SWEEP, **asked, **facts)
            folder.write_recipe(plan.source.text)
        try:
            if (number := _next(plan, folder, trials)) is None:
                warn_without_effect(folder.path, plan.changes, listener)
            while number is not None:
                trials[number] = _run_trial(plan, trials[number], options, listener, stop)
                facts = sweep_facts(folder.path, trials)
                folder.record(**facts)
                own = facts["trials"][trials[number].name]
                if own["score"] is not None:
                    listener.say(f"{trials[number].name}: {own['metric']} {own['score']:.4g}")
                number = _next(plan, folder, trials)
        except Stopped as stopped:
            stopped.runs_code |= plan.runs_code
            if isinstance(stopped, BudgetReached):
                folder.record(larger_budget=stopped.larger)
            stopped.result = _finish(folder, plan, trials, "stopped") | {"stopped_by": stopped.reason}
            raise
        finally:
            folder.record(**sweep_facts(folder.path, trials))
        return _finish(folder, plan, trials, "finished")


def _next(plan: SweepPlan, folder: RunFolder, trials: list[Trial]) -> int | None:
    """Return the index of the next trial to run; None if all are done. A new trial is added to `trials`, and recorded."""
    facts = sweep_facts(folder.path, trials)["trials"]
    for number, trial in enumerate(trials):
        if trial.error is None and facts[trial.name]["status"] != "finished":
            return number
    values = plan.search.propose([(trial, facts[trial.name]["score"] if trial.error is None else None) for trial in trials])
    if values is None:
        return None
    trials.append(Trial(f"trial-{len(trials) + 1:03d}", values))
    folder.record(**sweep_facts(folder.path, trials))
    return len(trials) - 1


def _run_trial(plan: SweepPlan, trial: Trial, options: RunOptions, listener: Listener, stop: StopRequest) -> Trial:
    """Start or continue the run of a trial. Return the trial, with `error` set if its values made the training fail."""
    folder = options.run / trial.name
    own = replace(options, run=folder, resume=True, fail_if=(), stages=())
    stop.raise_if_requested(f"{trial.name} was not started")
    listener.say(f"{trial.name} of {plan.search.count}: {trial.describe()}")
    try:
        with isolated():
            if is_begun(folder):
                place_and_budget = {name: value for name, value in plan.space.fixed.items() if is_free(name)}
                stages.resume_folder(place_and_budget, own, listener, stop)
            elif (problem := _problem(plan, trial, options)) is not None:
                return _failed(trial, problem, listener)
            else:
                request = plan.request(trial)
                train = stages.run_stages if request.has_stages else attempt.start_run
                train(request, own, listener, stop)
    except UnhealthyError as error:
        return _failed(trial, str(error), listener)
    except Exception as error:
        no_memory = isinstance(error, InsufficientMemoryError)
        if not (no_memory or is_out_of_memory(error)) or not options.ranks.is_alone:  # if one of several ranks lacks memory, all end
            error.add_note(f"in {trial.name}")
            raise
        return _failed(trial, str(error) if no_memory else "out of memory", listener)
    finally:
        gc.collect()  # frees memory for the next trial, which chooses its micro-batch size by the free memory
    return trial


def _problem(plan: SweepPlan, trial: Trial, options: RunOptions) -> str | None:
    """Return why the recipe of a trial is not valid; None if it is valid, as always in a grid, whose trials are all checked first."""
    try:
        check_trial(plan, trial, options)
    except UsageError as error:
        return str(error)
    return None


def _failed(trial: Trial, reason: str, listener: Listener) -> Trial:
    listener.warn(f"{trial.name} failed, and the sweep continues: {reason}")
    return Trial(trial.name, trial.values, reason)


def _finish(folder: RunFolder, plan: SweepPlan, trials: list[Trial], status: End) -> dict[str, Any]:
    facts = sweep_facts(folder.path, trials)
    result = sweep_result(folder.path, status, plan.search.count, facts)
    if status == "finished":
        facts |= {"result": result}
    folder.end_attempt(status, **facts)
    return result
