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
    stages: options.Stages = None,
    dry_run: options.DryRun = False,
    device: options.Device = None,
    threads: options.Threads = None,
    ranks: options.RankCount = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume continues from it.

    A recipe with stages is run one stage after another, each in a folder of its own below the run folder.
    """
    from tfkit import console
    from tfkit.cli.dry_run import show_dry_run
    from tfkit.cli.ranks import place_of_this_process, planned_place
    from tfkit.cli.train import command_line, train
    from tfkit.engine.attempt import RunOptions
    from tfkit.engine.many_runs import stages as training
    from tfkit.engine.meeting import Meeting
    from tfkit.recipe import open_recipe

    if (here := planned_place(ranks) if dry_run else place_of_this_process(ranks, threads)) is None:
        return
    source, words, part = open_recipe(recipe), tuple(overrides or ()), options.stage_names(stages)
    folder = run or Path("runs") / source.name
    how = RunOptions(folder, resume, exact, force, device, threads, command_line(), fail_if or (), part, Meeting(here))
    if dry_run:
        return show_dry_run("pre-training", source, words, None, how, json)
    again = ["pretrain", recipe, *words, "--run", str(folder), "--resume"]
    train(lambda signals: training.pretrain(source, words, how, console, signals), how, again, as_json=json)
