"""tfkit pretrain: a model from random weights."""

import sys
from pathlib import Path

from tfkit.cli import options


def pretrain(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume goes on from it."""
    from tfkit import console
    from tfkit.carbon import Meter, resolve_place
    from tfkit.cli import crash
    from tfkit.cli.results import show_training_result
    from tfkit.cli.resume import check_resumable, finished_result, write_recipe
    from tfkit.recipe import read_recipe
    from tfkit.run.folder import RunFolder
    from tfkit.run.signals import StopSignals

    resolved = read_recipe(recipe, overrides or ())
    resolve_place(resolved.recipe.carbon)
    path = run or Path("runs") / resolved.name
    with (
        StopSignals() as signals,
        RunFolder.open(path, resume=resume, command=["tfkit", *sys.argv[1:]], warn=console.warn) as folder,
    ):
        crash.set_folder(folder.path)
        check_resumable(folder, resolved.recipe)
        if (result := finished_result(folder, resolved.recipe)) is not None:
            console.say(f"{folder.path}: this run is finished; here is its result again")
            show_training_result(result, json)
            return
        meter = Meter.start(resolved.recipe.carbon, folder=folder.path, run_id=folder.run_id, attempt=folder.attempt, project=resolved.name)
        try:
            import torch

            from tfkit.cli.training import TrainingRun
            from tfkit.cli.training_data import RunContext, prepare_data
            from tfkit.cli.training_parts import first_model
            from tfkit.cli.training_plan import require_memory
            from tfkit.families import PRESETS
            from tfkit.training.device import pick_device

            if threads is not None:
                torch.set_num_threads(threads)
            context = RunContext(resolved.recipe, folder, signals, meter, pick_device(device))
            data = prepare_data(resolved.recipe, signals, meter)
            require_memory(resolved.recipe, data.config, context.device)
            write_recipe(folder, resolved.recipe, data.config)
            model = first_model(resolved.recipe, data)
            preset = resolved.recipe.model.preset
            family = PRESETS[preset][0].name if preset else None
            training = TrainingRun(context, data, model, kind="pre-training", family=family, exact=exact, force=force)
            training.run()
        finally:
            reading = meter.stop()
            if warning := meter.warning():
                console.warn(warning)
        show_training_result(training.finish(reading), json)
