"""tfkit finetune: a model from the weights of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options


def finetune(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    checkpoint: Annotated[str | None, typer.Option("--from", metavar="CKPT", help="The checkpoint to start from; else model.from.")] = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob of rows to train on; else data.train.")] = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is new, and said so."""
    from tfkit.cli.settings import quoted
    from tfkit.cli.train import Options, train
    from tfkit.errors import UsageError
    from tfkit.recipe import read_recipe

    changes = list(overrides or ())
    if data is not None:  # before the others, so that data.train.0.columns can name columns
        changes.insert(0, f"data.train=[{{path: {quoted(data)}}}]")
    if checkpoint is not None:
        changes.append(f"model.from={quoted(checkpoint)}")
    resolved = read_recipe(recipe, changes)
    if resolved.recipe.model.start is None:
        raise UsageError(f"{resolved.path}: which checkpoint? Give --from CKPT, or model: {{from: CKPT}} in the recipe")
    chosen = Options(run or Path("runs") / resolved.name, resume, exact, force, device, threads, json)
    train(resolved.recipe, resolved.name, "fine-tuning", chosen)
