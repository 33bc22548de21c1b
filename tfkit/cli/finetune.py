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
    *,
    how: options.Attempt,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is newly initialized and reported.

    Without a recipe, the task is recognised by the columns of the data and the kind of the model, and printed as a recipe.
    """
    from tfkit.cli.ranks import place_of_this_process
    from tfkit.cli.train import begin, option_words, run_options, tuned_recipe
    from tfkit.engine.beginning import TrainingRequest, recognition_of

    if (here := place_of_this_process(how.ranks, how.threads, planned=dry_run)) is None:
        return
    tuned = tuned_recipe("finetune", recipe, overrides, checkpoint, data)
    folder = run or Path("runs") / (tuned.source.name if tuned.source else "" if dry_run else recognition_of(tuned.words).run_name)
    request = TrainingRequest("fine-tuning", tuned.source, tuned.words, checkpoint)
    again = ["finetune", *tuned.arguments, *option_words(("from", checkpoint), ("data", data))]
    begin(request, again, run_options(how, here, folder, resume, fail_if, stages), dry_run=dry_run, as_json=json)
