"""tfkit pretrain: a model from random weights."""

from pathlib import Path

from tfkit.cli import options


def pretrain(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume goes on from it."""
    from tfkit.cli.train import Options, train
    from tfkit.errors import UsageError
    from tfkit.recipe import read_recipe

    resolved = read_recipe(recipe, overrides or ())
    if resolved.recipe.model.start is not None:
        raise UsageError(f"{resolved.path}: model.from: pretraining starts from random weights; `tfkit finetune` starts from a checkpoint")
    chosen = Options(run or Path("runs") / resolved.name, resume, exact, force, device, threads, json)
    train(resolved.recipe, resolved.name, "pre-training", chosen)
