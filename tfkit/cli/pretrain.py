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
    from tfkit.engine.request.training_request import TrainingRequest
    from tfkit.recipe import open_recipe
    from tfkit.recipe.reading.overrides import parse_overrides

    def request() -> TrainingRequest:
        return TrainingRequest("pre-training", open_recipe(recipe), parse_overrides(overrides or ()), is_named=True)

    if (ranks := join_training(attempt.ranks, attempt.threads, request, planned=dry_run)) is None:
        return
    opened = request()
    assert opened.source is not None
    run_options = to_run_options(attempt, ranks, run or Path("runs") / opened.source.name, resume, fail_if, stages, opened)
    start_training(opened, ["pretrain", recipe, *(overrides or ())], run_options, dry_run=dry_run, as_json=json)
