"""tfkit finetune: a model trained from the weights of a checkpoint, by a recipe or for the task that the data show."""

from functools import partial
from pathlib import Path

from tfkit.cli import options

EXAMPLES = (
    "tfkit finetune --from hub:HuggingFaceTB/SmolLM2-135M --data notes.txt",
    "tfkit finetune --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv --run runs/reviews",
    "tfkit finetune --from runs/reviews --data more.csv --dry-run > task.yaml",
    "tfkit finetune python-packages --from runs/bert-stdlib training.epochs=1",
)


def finetune(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    *,
    tuned: options.Tuned,
    run: options.RunFolder = None,
    resume: options.Resume = False,
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
    from tfkit.cli.train import start_training, to_run_options

    open_tuning = partial(tuned.request, "finetune", "fine-tuning", recipe, overrides)
    if (ranks := join_training(attempt.ranks, attempt.threads, lambda: open_tuning()[0], planned=dry_run)) is None:
        return
    request, arguments = open_tuning()
    folder = run or Path("runs") / ("" if dry_run else request.run_name)
    run_options = to_run_options(attempt, ranks, folder, resume, fail_if, stages, request)
    command = ["finetune", *arguments, *tuned.words()]
    start_training(request, command, run_options, dry_run=dry_run, as_json=json)
