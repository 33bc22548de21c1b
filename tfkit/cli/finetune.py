"""The command tfkit finetune, which trains a checkpoint further, with a recipe or for the task that the data imply."""

from functools import partial

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
    training: options.Training,
) -> None:
    """Train a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is newly initialized and reported.

    Without a recipe, the task is recognised by the columns of the data and the kind of the model, and printed as a recipe.
    """
    from tfkit.cli.train import start_training

    chosen, changes = options.split_recipe("finetune", recipe, overrides)
    words = ["finetune", *([chosen] if chosen is not None else []), *changes, *tuned.words()]
    start_training(partial(tuned.request, "fine-tuning", chosen, changes), words, training)
