"""tfkit pretrain: a model trained from random weights."""

from pathlib import Path

from tfkit.cli import options


def pretrain(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    *,
    attempt: options.Attempt,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume continues from it.

    A recipe with stages is run one stage after another, each in a folder of its own below the run folder.
    """
    from tfkit.cli.ranks import join_training
    from tfkit.cli.train import start_training, to_run_options
    from tfkit.engine.request.training_request import RequestRecord, TrainingRequest
    from tfkit.recipe import open_recipe

    words = tuple(overrides or ())
    if (ranks := join_training(attempt.ranks, attempt.threads, lambda: RequestRecord(open_recipe(recipe), words), planned=dry_run)) is None:
        return
    request = TrainingRequest("pre-training", source := open_recipe(recipe), words, is_named=True)
    run_options = to_run_options(attempt, ranks, run or Path("runs") / source.name, resume, fail_if, stages, request.given)
    start_training(request, ["pretrain", recipe, *words], run_options, dry_run=dry_run, as_json=json)
