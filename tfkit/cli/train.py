"""What pretrain and finetune share: the run folder, the meter, data and model, the loop, the result."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tfkit import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from tfkit.recipe.schema import Recipe
    from tfkit.run.folder import RunFolder

Kind = Literal["pre-training", "fine-tuning"]


@dataclass(frozen=True)
class Options:
    """What the command line says beside the recipe."""

    run: Path
    resume: bool = False
    exact: bool = False
    force: bool = False
    device: str | None = None
    threads: int | None = None
    json: bool = False


def train(planned: "Recipe | Callable[[RunFolder], Recipe]", name: str, kind: Kind, options: Options) -> None:
    """One attempt of a run, from the folder to the result; `name` is the run's, for the meter.

    `planned`: the recipe, or what makes it from data that are not touched before the run folder is there and locked.
    """
    from tfkit.carbon import Meter
    from tfkit.cli import crash
    from tfkit.cli.results import show_training_result
    from tfkit.cli.resume import check_resumable, finished_result, write_recipe
    from tfkit.cli.session import record_totals
    from tfkit.run.folder import RunFolder
    from tfkit.run.signals import StopSignals

    if not callable(planned):
        _require_trainable(planned)
    with (
        StopSignals() as signals,
        RunFolder.open(options.run, resume=options.resume, command=["tfkit", *sys.argv[1:]], warn=console.warn) as folder,
    ):
        crash.set_folder(folder.path)
        if callable(planned):
            with signals.at_once():
                recipe = planned(folder)
            _require_trainable(recipe)
        else:
            recipe = planned
        check_resumable(folder, recipe)
        if options.resume and (result := finished_result(folder, recipe)) is not None:
            console.say(f"{folder.path}: this run is finished; here is its result again")
            show_training_result(result, options.json)
            return
        folder.begin_attempt(options.threads)
        training = None
        meter = Meter.start(recipe.carbon, folder=folder.path, run_id=folder.run_id, attempt=folder.attempt, project=name)
        try:
            import torch

            from tfkit.cli.starting import pinned
            from tfkit.cli.teaching import pin_teacher
            from tfkit.cli.training import TrainingRun
            from tfkit.cli.training_data import RunContext, prepare_data
            from tfkit.cli.training_parts import first_model
            from tfkit.cli.training_plan import require_memory
            from tfkit.families import PRESETS
            from tfkit.training.device import pick_device

            if options.threads is not None:
                torch.set_num_threads(options.threads)
            context = RunContext(recipe, folder, signals, meter, pick_device(options.device))
            data = prepare_data(recipe, signals, meter)
            require_memory(recipe, data.config, context.device)
            resolved = pin_teacher(pinned(recipe, data.start, folder), data.objective, folder)
            model = first_model(recipe, data)
            preset = recipe.model.preset
            family = data.start.described.family if data.start else PRESETS[preset][0].name if preset else None
            training = TrainingRun(context, data, model, kind=kind, family=family, exact=options.exact, force=options.force)
            training.begin()
            write_recipe(folder, resolved, data.config)  # now: another length than that of the result would say that it was reached
            training.run()
        finally:
            reading = meter.stop()
            if warning := meter.warning():
                console.warn(warning)
            record_totals(folder, reading, training.counted if training is not None else {})
        show_training_result(training.finish(reading), options.json)


def _require_trainable(recipe: "Recipe") -> None:
    """Raise UsageError for an objective that only judges, and for a place that is none."""
    from tfkit.carbon import resolve_place
    from tfkit.recipe.objectives import JudgingSection, judges_only

    if isinstance(recipe.objective, JudgingSection):
        raise judges_only(recipe.objective)
    resolve_place(recipe.carbon)
