"""What pretrain and finetune share: the run folder, the meter, data and model, the loop, the result."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tfkit import console
from tfkit.errors import Stopped
from tfkit.run.signals import StopSignals

if TYPE_CHECKING:
    from tfkit.engine.given import Given
    from tfkit.recipe import RecipeText
    from tfkit.recipe.schema.sections import Recipe

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

    @property
    def goes_on(self) -> bool:
        """Whether there is a run to resume, with a recipe of its own."""
        from tfkit.run.folder import is_begun

        return self.resume and is_begun(self.run)

    def resume_command(self, command: str, source: "RecipeText | None", recipe: Sequence[str], words: Sequence[str]) -> str:
        """The command line, quoted for a shell, that goes on with the run: the same recipe and words, or the run's own for a pipe."""
        if source is not None and not source.path.is_file():
            recipe = [str(self.run / "recipe.yaml")]
        flags = [f"--{name}" for name in ("exact", "force", "json") if getattr(self, name)]
        values = [
            part for name in ("device", "threads") if (value := getattr(self, name)) is not None for part in (f"--{name}", str(value))
        ]
        return shlex.join(["tfkit", command, *recipe, *words, "--run", str(self.run), "--resume", *flags, *values])


def train(start: "Callable[[], Recipe]", given: "Given", name: str, kind: Kind, options: Options, resume_command: str) -> None:
    """One attempt of a run, from the folder to the result; `name` is the run's, for the meter.

    `start` makes the recipe of a run that begins; of data they are not touched before the run folder is there and locked. A run that goes
    on has its own recipe, to which `given` may bring changes. When a signal ends the attempt, the last line is `resume_command`.
    """
    with StopSignals() as signals:
        try:
            _train(start, given, name, kind, options, signals)
        except Stopped as stopped:
            assert signals.requested is not None
            raise Stopped(f"{stopped}\n{resume_command}", signals.requested) from None


def _train(start: "Callable[[], Recipe]", given: "Given", name: str, kind: Kind, options: Options, signals: StopSignals) -> None:
    from tfkit.carbon import Meter
    from tfkit.cli import crash
    from tfkit.cli.results import show_training_result
    from tfkit.engine.resuming import finished_result, report_changes, require_length, resumed, write_recipe
    from tfkit.engine.session import record_totals
    from tfkit.run.checkpoints import newest_step
    from tfkit.run.folder import RunFolder

    crash.set_folder(options.run)
    with RunFolder.open(options.run, resume=options.resume, command=["tfkit", *sys.argv[1:]], warn=console.warn) as folder:
        if folder.begun:
            going_on = resumed(folder, given)
            recipe, given = going_on.recipe, going_on.given
            require_trainable(recipe)
            if going_on.same_end and (result := finished_result(folder)) is not None:
                console.say(f"{folder.path}: this run is finished; here is its result again")
                show_training_result(result, options.json)
                return
            require_length(folder.path, recipe.training.steps, newest_step(folder.checkpoints))
            report_changes(folder, going_on, console)
        else:
            with signals.at_once():
                recipe = start()
            require_trainable(recipe)
        folder.begin_attempt(options.threads)
        training = None
        meter = Meter.start(recipe.carbon, folder=folder.path, run_id=folder.run_id, attempt=folder.attempt, project=name)
        try:
            import torch

            from tfkit.engine.base_model import pinned
            from tfkit.engine.companions import pin_companions
            from tfkit.engine.components import first_model
            from tfkit.engine.estimate import require_memory, require_memory_for_blocks
            from tfkit.engine.run import TrainingRun
            from tfkit.engine.training_data import RunContext, prepare_data
            from tfkit.families import PRESETS
            from tfkit.training.device import pick_device

            if options.threads is not None:
                torch.set_num_threads(options.threads)
            context = RunContext(recipe, folder, signals, console, meter, pick_device(options.device))
            require_memory_for_blocks(recipe, context.device)
            data = prepare_data(recipe, console, signals, meter)
            require_memory(recipe, data.config, context.device)
            resolved = pin_companions(pinned(recipe, data.start, folder), data.objective, folder)
            model = first_model(recipe, data, console)
            preset = recipe.model.preset
            family = data.start.described.family if data.start else PRESETS[preset][0].name if preset else None
            training = TrainingRun(context, data, model, kind=kind, family=family, exact=options.exact, force=options.force)
            training.begin()
            write_recipe(folder, resolved, data.config)  # now: another length than that of the result would say that it was reached
            folder.record(given=given.document())
            training.run()
        finally:
            reading = meter.stop()
            if warning := meter.warning():
                console.warn(warning)
            record_totals(folder, reading, training.counted if training is not None else {})
        show_training_result(training.finish(reading), options.json)


def require_trainable(recipe: "Recipe") -> None:
    """Raise UsageError for an objective that only judges, and for a place that is none."""
    from tfkit.carbon import resolve_place
    from tfkit.recipe.schema.objective_sections import judges_only

    if recipe.objective.scored_by == "likelihood":
        raise judges_only(recipe.objective)
    resolve_place(recipe.carbon)
