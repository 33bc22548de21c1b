"""tfkit sweep: one recipe with several values of some fields, compared by their scores on held-out rows."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options
from tfkit.errors import UsageError
from tfkit.recipe.reading.overrides import NO_OVERRIDES
from tfkit.recipe.search_space import SearchSpace, read_space


def sweep(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, metavar="N", help="Try N combinations chosen by Optuna; by default all.", show_default=False),
    ] = None,
    checkpoint: options.Start = None,
    data: options.TrainingRows = None,
    columns: options.Columns = None,
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
    from tfkit.cli.train import option_words, run_training, to_run_options
    from tfkit.engine.chains.sweeping import run_sweep
    from tfkit.engine.request.training_request import TrainingRequest, tuning_overrides
    from tfkit.recipe import open_recipe

    def open_space() -> tuple[TrainingRequest, SearchSpace]:
        source = open_recipe(recipe)
        named = options.named_columns(columns)
        fixed = tuning_overrides(NO_OVERRIDES, source, checkpoint, data, named)
        space = read_space(source, overrides or (), fixed)
        space = replace(space, fixed=tuning_overrides(space.fixed, source, checkpoint, data, named))
        return TrainingRequest(None, source, space.fixed), space

    if "=" in recipe.partition("/")[0]:
        raise UsageError("sweep: which RECIPE? Give a path or the name of a bundled recipe; `tfkit recipes` lists these")
    if (ranks := join_training(attempt.ranks, attempt.threads, lambda: open_space()[0])) is None:
        return
    request, space = open_space()
    assert request.source is not None
    source, folder = request.source, run or Path("runs") / f"{request.source.name}-sweep"
    given = option_words(("trials", trials), ("from", checkpoint), ("data", data), ("columns", columns))
    words = ["sweep", recipe, *(overrides or ()), *given, "--run", str(folder), "--resume"]
    run_options = to_run_options(attempt, ranks, folder, resume, request=request)
    run_training(lambda signals: run_sweep(source, space, trials, run_options, console, signals), run_options, words, as_json=json)
