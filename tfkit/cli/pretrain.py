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
    fail_if: options.FailIf = None,
    dry_run: options.DryRun = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume continues from it."""
    from tfkit import console
    from tfkit.cli.train import command_line, show_dry_run, train
    from tfkit.engine import attempt
    from tfkit.engine.beginning import pretraining
    from tfkit.recipe import open_recipe

    source, words = open_recipe(recipe), tuple(overrides or ())
    if dry_run:
        return show_dry_run(pretraining(source, words), device, threads, resume=resume, as_json=json)
    how = attempt.RunOptions(run or Path("runs") / source.name, resume, exact, force, device, threads, command_line(), fail_if or ())
    again = ["pretrain", recipe, *words, "--run", str(how.run), "--resume"]
    train(lambda signals: attempt.pretrain(source, words, how, console, signals), how, again, as_json=json)
