"""tfkit finetune: a model trained from the weights of a checkpoint, by a recipe or for the task that the data show."""

from functools import partial
from pathlib import Path

from tfkit.cli import options


def finetune(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    checkpoint: options.Start = None,
    data: options.TrainingRows = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    *,
    attempt: options.Attempt,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is newly initialized and reported.

    Without a recipe, the task is recognised by the columns of the data and the kind of the model, and printed as a recipe.
    """
    from tfkit.cli.ranks import join_training
    from tfkit.cli.train import option_words, start_training, to_run_options
    from tfkit.cli.tuned_recipe import tuned_recipe
    from tfkit.engine.recognition.unwritten_recipe import UnwrittenRecipe
    from tfkit.engine.request.training_request import TrainingRequest

    open_tuned = partial(tuned_recipe, "finetune", recipe, overrides, checkpoint, data)
    if (ranks := join_training(attempt.ranks, attempt.threads, lambda: open_tuned().given, planned=dry_run)) is None:
        return
    tuned = open_tuned()
    unwritten = UnwrittenRecipe(tuned.words)
    folder = run or Path("runs") / (tuned.source.name if tuned.source else "" if dry_run else unwritten.run_name)
    request = TrainingRequest("fine-tuning", tuned.source, tuned.words, checkpoint, True, unwritten)
    command = ["finetune", *tuned.arguments, *option_words(("from", checkpoint), ("data", data))]
    run_options = to_run_options(attempt, ranks, folder, resume, fail_if, stages, tuned.given)
    start_training(request, command, run_options, dry_run=dry_run, as_json=json)
