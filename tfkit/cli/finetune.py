"""tfkit finetune: a model from the weights of a checkpoint, by a recipe or by what the data shows."""

from pathlib import Path

from tfkit.cli import options


def finetune(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    checkpoint: options.Start = None,
    data: options.TrainingRows = None,
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
    """Train a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is newly initialized and reported.

    Without a recipe, the task is recognised by the columns of the data and the kind of the model, and printed as a recipe.
    """
    from tfkit import console
    from tfkit.cli.dry_run import show_dry_run
    from tfkit.cli.ranks import place_of_this_process, planned_place
    from tfkit.cli.train import command_line, option_words, train, tuning_words
    from tfkit.engine.attempt import RunOptions
    from tfkit.engine.beginning import recognition_of
    from tfkit.engine.many_runs import stages as training
    from tfkit.engine.many_runs.chain_plan import first_stage
    from tfkit.engine.meeting import Meeting
    from tfkit.recipe import open_recipe

    if (here := planned_place(ranks) if dry_run else place_of_this_process(ranks, threads)) is None:
        return
    chosen, changes = options.split_recipe("finetune", recipe, overrides)
    source, part = open_recipe(chosen) if chosen else None, options.stage_names(stages)
    words = tuning_words(changes, checkpoint, data, first_stage(source))
    folder = run or Path("runs") / (source.name if source is not None else "" if dry_run else recognition_of(words).run_name)
    how = RunOptions(folder, resume, exact, force, device, threads, command_line(), fail_if or (), part, Meeting(here))
    if dry_run:
        return show_dry_run("fine-tuning", source, words, checkpoint, how, json)
    given = [*([chosen] if chosen else []), *changes, *option_words(("from", checkpoint), ("data", data))]
    again = ["finetune", *given, "--run", str(folder), "--resume"]
    train(lambda signals: training.finetune(source, words, checkpoint, how, console, signals), how, again, as_json=json)
