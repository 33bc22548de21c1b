"""tfkit sweep: one recipe with several values of some fields, compared by their scores on held-out rows."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options


def sweep(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, metavar="N", help="Try N combinations chosen by Optuna; by default all.", show_default=False),
    ] = None,
    checkpoint: options.Start = None,
    data: options.TrainingRows = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    ranks: options.RankCount = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a recipe with each combination of several values, and compare the trials: optimizer.lr=1e-3,3e-3 training.seed=1,2.

    Values that contain commas are written as the items of a YAML list; with --trials a range is written 1e-5..1e-2. Each trial is a run
    in a folder of its own, and the time, energy and emissions of all trials are added up.
    """
    from tfkit import console
    from tfkit.cli.ranks import place_of_this_process
    from tfkit.cli.train import command_line, option_words, train, tuning_words
    from tfkit.engine.attempt import RunOptions
    from tfkit.engine.many_runs.chain_plan import first_stage
    from tfkit.engine.many_runs.sweeping import sweep as run_sweep
    from tfkit.engine.meeting import Meeting
    from tfkit.recipe import open_recipe

    if (here := place_of_this_process(ranks, threads)) is None:
        return
    source = open_recipe(recipe)
    words = tuning_words(overrides or (), checkpoint, data, first_stage(source))
    folder = run or Path("runs") / f"{source.name}-sweep"
    how = RunOptions(folder, resume, exact, force, device, threads, command_line(), meeting=Meeting(here))
    given = option_words(("trials", trials), ("from", checkpoint), ("data", data))
    again = ["sweep", recipe, *(overrides or ()), *given, "--run", str(folder), "--resume"]
    train(lambda signals: run_sweep(source, words, trials, how, console, signals), how, again, as_json=json)
