"""The option --dry-run of pretrain, finetune and sweep: show the recipe on stdout; the first rows, steps, memory and time on stderr."""

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.cli import inspect
from tfkit.cli.session import command_session
from tfkit.engine.chains.chain_plan import ChainPlan, plan_chain
from tfkit.engine.listener import Silent
from tfkit.engine.request.training_request import TrainingRequest
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.errors import UsageError
from tfkit.recipe.dump import dump_document
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.units import format_number_of, format_seconds

if TYPE_CHECKING:
    from tfkit.engine.chains.sweep_plan import SweepPlan
    from tfkit.engine.tools.dry_run import DryRun

_ROWS_SHOWN, _LINES_OF_A_ROW = 2, 12


class OnlyWarnings(Silent):
    """A receiver of messages that shows only warnings; automatic decisions are in the recipe that a dry run prints."""

    def warn(self, text: str) -> None:
        """Show a warning."""
        console.warn(text)


def show_dry_run(request: TrainingRequest, options: RunOptions, json: bool, sweep: "SweepPlan | None" = None) -> None:
    """Show the plan of a training: the recipe on stdout, everything else on stderr; with --json, everything in one document on stdout.

    `sweep`: the sweep of which this training is the first trial; None for a training outside a sweep.
    """
    if options.resume:
        raise UsageError("--dry-run plans a new run; leave --resume out")
    if request.source is not None and request.source.has_stages:
        return _show_chain(plan_chain(request.given, request.kind, replace(options, resume=True)), options, json, sweep)
    request.check()
    with command_session("plan", CarbonSection(enabled=False)) as session:
        from tfkit.engine.tools.dry_run import dry_run

        plan = dry_run(request, session, rows=_ROWS_SHOWN, options=options)
    if json:
        console.json(_document(plan) | _sweep_document(sweep))
        return
    _show(plan)
    if sweep is not None:
        total = sweep.search.count * plan.estimate.seconds.likely
        console.say(f"{_trials_text(sweep)}; all take roughly {format_seconds(total)}")
    console.result(plan.decided.text.rstrip("\n"))


def _show_chain(chain: ChainPlan, options: RunOptions, json: bool, sweep: "SweepPlan | None") -> None:
    """Show the plan of each stage of a recipe; for a stage that needs the model of an untrained stage, only say why it is not planned."""
    from tfkit.engine.tools.dry_run import dry_run

    documents: dict[str, Any] = {}
    with command_session("plan", CarbonSection(enabled=False)) as session:
        for stage in chain.todo:
            console.say(f"stage {stage.name}")
            if (missing := stage.missing_stage()) is not None:
                reason = f"needs the model of the stage {missing}, which was not run yet, so its rows, size and time are not planned"
                documents[stage.name] = {"recipe": stage.stage.document, "not_planned": reason}
                console.say(reason)
                continue
            request = stage.request
            request.check()
            plan = dry_run(request, session, rows=_ROWS_SHOWN, options=options)
            documents[stage.name] = _document(plan)
            if not json:
                _show(plan)
    if json:
        console.json({"schema_version": 1, "recipe": chain.chain.document, "stages": documents} | _sweep_document(sweep))
    else:
        if sweep is not None:
            console.say(_trials_text(sweep))
        console.result((chain.chain.source.comment + dump_document(chain.chain.document)).rstrip("\n"))


def _sweep_document(sweep: "SweepPlan | None") -> dict[str, Any]:
    return {} if sweep is None else {"planned_trials": sweep.search.count, "space": sweep.space.document()}


def _trials_text(sweep: "SweepPlan") -> str:
    axes = " ".join(map(str, sweep.space.axes))
    return f"{format_number_of(sweep.search.count, 'trial')} of {axes}, of which this is the one with the first values"


def _document(plan: "DryRun") -> dict[str, Any]:
    return {"schema_version": 1, **plan.to_dict(), **plan.inspection.to_dict()}


def _show(plan: "DryRun") -> None:
    for line in inspect.lines(plan.inspection, shutil.get_terminal_size().columns - 1, _LINES_OF_A_ROW):
        console.say("".join(text for text, _ in line))
    for text in plan.describe():
        console.say(text)
