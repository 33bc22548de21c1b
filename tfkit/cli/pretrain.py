"""tfkit pretrain: a model from random weights."""

from pathlib import Path

from tfkit.cli import options


def pretrain(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    *,
    how: options.Attempt,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume continues from it.

    A recipe with stages is run one stage after another, each in a folder of its own below the run folder.
    """
    from tfkit.cli.ranks import place_of_this_process
    from tfkit.cli.train import begin, run_options
    from tfkit.engine.beginning import TrainingRequest
    from tfkit.recipe import open_recipe

    if (here := place_of_this_process(how.ranks, how.threads, planned=dry_run)) is None:
        return
    source, words = open_recipe(recipe), tuple(overrides or ())
    given = run_options(how, here, run or Path("runs") / source.name, resume, fail_if, stages)
    begin(TrainingRequest("pre-training", source, words), ["pretrain", recipe, *words], given, dry_run=dry_run, as_json=json)
