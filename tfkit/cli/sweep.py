"""tfkit sweep: one recipe with several values of some fields, compared by their scores on held-out rows."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options
from tfkit.errors import UsageError


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
    *,
    attempt: options.Attempt,
    json: options.Json = False,
) -> None:
    """Train a recipe with each combination of several values, and compare the trials: optimizer.lr=1e-3,3e-3 training.seed=1,2.

    Values that contain commas are written as the items of a YAML list; with --trials a range is written 1e-5..1e-2. Each trial is a run
    in a folder of its own, and the time, energy and emissions of all trials are added up.
    """
    from tfkit import console
    from tfkit.cli.ranks import join_training
    from tfkit.cli.train import option_words, to_run_options, train
    from tfkit.cli.tuned_recipe import tuned_recipe
    from tfkit.engine.chains.sweeping import sweep as run_sweep

    open_tuned = partial(tuned_recipe, "sweep", recipe, overrides, checkpoint, data)
    if (ranks := join_training(attempt.ranks, attempt.threads, lambda: open_tuned().given)) is None:
        return
    source, words, arguments = tuned = open_tuned()
    if source is None:
        raise UsageError("sweep: which RECIPE? Give a path or the name of a bundled recipe; `tfkit recipes` lists these")
    folder = run or Path("runs") / f"{source.name}-sweep"
    given = option_words(("trials", trials), ("from", checkpoint), ("data", data))
    resume_words = ["sweep", *arguments, *given, "--run", str(folder), "--resume"]
    run_options = to_run_options(attempt, ranks, folder, resume, given=tuned.given)
    train(lambda signals: run_sweep(source, words, trials, run_options, console, signals), run_options, resume_words, as_json=json)
