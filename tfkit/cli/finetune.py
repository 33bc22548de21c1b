"""tfkit finetune: a model from the weights of a checkpoint, by a recipe or by what the data shows."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options


def finetune(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    checkpoint: Annotated[str | None, typer.Option("--from", metavar="CKPT", help="The checkpoint to start from; else model.from.")] = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob of rows to train on; else data.train.")] = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    fail_if: options.FailIf = None,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is new, and reported.

    Without a recipe the task is read from the columns of the data and the kind of the model; what was decided is printed as a recipe.
    """
    from tfkit import console
    from tfkit.cli.train import command_line, train
    from tfkit.engine import attempt
    from tfkit.engine.settings import quoted
    from tfkit.recipe import open_recipe

    chosen, changes = options.split_recipe("finetune", recipe, overrides)
    given = [*([chosen] if chosen else []), *changes]
    for name, value in (("--from", checkpoint), ("--data", data)):
        given += [name, value] if value is not None else []
    if data is not None:  # before the others, so that data.train.0.columns can name columns
        changes.insert(0, f"data.train=[{{path: {quoted(data)}}}]")
    if checkpoint is not None:
        changes.append(f"model.from={quoted(checkpoint)}")
    source = open_recipe(chosen) if chosen else None
    folder = run or Path("runs") / (source.name if source is not None else attempt.recognition_of(changes).run_name)
    how = attempt.RunOptions(folder, resume, exact, force, device, threads, command_line(), fail_if or ())
    again = ["finetune", *given, "--run", str(folder), "--resume"]
    train(lambda signals: attempt.finetune(source, changes, checkpoint, how, console, signals), how, again, as_json=json)
