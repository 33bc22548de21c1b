"""Run a recipe with stages: a chain of runs. The chain's folder has the folders of these runs, and a run.json with their totals.

Each stage is an ordinary run, which is checked, recorded and resumed like any other.
"""

import gc
from dataclasses import replace
from typing import Any

from tfkit.engine.chains.chain_plan import TOTALS, ChainPlan, PlannedStage, check_begun, in_stage, is_chain, plan_chain
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.gate import judge
from tfkit.engine.request.run_totals import chain_result, stage_facts
from tfkit.engine.request.training_request import RequestRecord, TrainingRequest
from tfkit.engine.training_run import attempt
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.errors import BudgetReached, Stopped
from tfkit.recipe.reading.overrides import Overrides
from tfkit.run.folder import RunFolder
from tfkit.run.run_json import CHAIN, End
from tfkit.training.isolation import isolated


def run_stages(request: TrainingRequest, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Run the stages of a recipe, and return the result (docs/cli.md). The first stage must be of the requested kind of training."""
    plan = plan_chain(request.given, request.kind, options)
    if request.is_named and not plan.continues:  # the user has named this recipe: allow the code of all its stages, also of later ones
        paths = [path for stage in plan.chain.stages for path in stage.recipe.objective.code_files.values()]
        options = replace(options, code=options.code.with_named(paths, listener.warn))
    return _run(plan, options, listener, stop)


def resume_folder(overrides: Overrides, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Continue the run or the chain in a folder. In a chain, finished stages return their results again, others continue or start."""
    if is_chain(options.run):
        return _run(plan_chain(RequestRecord(None, overrides), None, options), options, listener, stop)
    return attempt.resume_run(overrides, options, listener, stop)


def _run(plan: ChainPlan, options: RunOptions, listener: Listener, stop: StopRequest) -> dict[str, Any]:
    """Run the stages in their folders. Raises Stopped with the chain's result, and errors of a stage with the stage's name."""
    with RunFolder.open(options.run, resume=options.resume, command=[*options.command], warn=listener.warn, group=CHAIN) as folder:
        check_begun(plan, listener)
        if folder.is_held:
            folder.begin_attempt(options.threads, kind=CHAIN, given=plan.given.document(), folder=plan.folder, **_facts(plan))
            folder.write_recipe(plan.chain.resolved)
        results: dict[str, dict[str, Any]] = {}
        try:
            for stage in plan.todo:
                results[stage.name] = _run_stage(stage, len(results), plan, options, listener, stop)
                folder.record(**_facts(plan))
                if any(gate["failed"] for gate in results[stage.name]["gates"]):
                    break  # later stages would start from a model that failed a condition of --fail-if
        except Stopped as stopped:
            stopped.runs_code = any(stage.recipe.objective.code_files for stage in plan.chain.stages)
            if stopped.result is not None:
                results[plan.todo[len(results)].name] = stopped.result
            if isinstance(stopped, BudgetReached):
                folder.record(larger_budget=stopped.larger)
            stopped.result = _finish(folder, plan, results, "stopped") | {"stopped_by": stopped.reason}
            raise
        finally:
            folder.record(**_facts(plan))
        is_finished = all(facts["status"] == "finished" for facts in _facts(plan)["stages"].values())
        return _finish(folder, plan, results, "finished" if is_finished else "stopped")


def _run_stage(
    planned: PlannedStage, done: int, plan: ChainPlan, options: RunOptions, listener: Listener, stop: StopRequest
) -> dict[str, Any]:
    """Start or continue the run of a stage, and return its result. `done`: the number of stages that this command has run before."""
    todo = len(plan.todo)
    try:
        with in_stage(planned.name):
            stop.raise_if_requested(f"{done} of {todo} stages are done, and {planned.name} was not started")
            listener.say(f"stage {planned.name}, {done + 1} of {todo}")
            planned.require_intact_stages()
            with isolated():
                return attempt.start_run(planned.request, replace(planned.options, code=options.code), listener, stop)
    finally:
        gc.collect()  # frees memory for the next stage, which chooses its micro-batch size by the free memory


def _facts(plan: ChainPlan) -> dict[str, Any]:
    """Return the fields of run.json about the stages: the status and the totals of each, and the totals of all."""
    return stage_facts({stage.name: stage.options.run for stage in plan.stages})


def _finish(folder: RunFolder, plan: ChainPlan, results: dict[str, dict[str, Any]], status: End) -> dict[str, Any]:
    facts = _facts(plan)
    result = chain_result(folder.path, status, results, facts)
    if status == "finished":
        facts |= {"result": {**result, "gates": []}}
    folder.end_attempt(status, **facts)
    verdicts = judge(plan.gates, {name: result[name] for name in TOTALS})
    return {**result, "gates": [*result["gates"], *verdicts]}
