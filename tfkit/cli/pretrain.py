"""The command tfkit pretrain, which trains a model from random weights."""

from tfkit.cli import options

EXAMPLES = (
    "tfkit pretrain demo",
    "tfkit pretrain --data book.txt --minutes 10 --run runs/own",
    "tfkit pretrain gpt2-stdlib training.steps=200 --run runs/short",
    "tfkit pretrain gpt2-stdlib --run runs/short --resume",
)


def pretrain(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    data: options.TrainingRows = None,
    columns: options.Columns = None,
    rows: options.Rows = None,
    tokens: options.Tokens = None,
    minutes: options.Minutes = None,
    *,
    training: options.Training,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume continues from it.

    With --data F, the model learns from the text in F, a part of which is held out to measure the loss. The vocabulary, the length of rows,
    the batch and the number of steps are then chosen by the size of the text, unless a key=value sets them. Without a recipe, a small
    decoder is trained. The stages of a recipe that has some are trained one after another, each in a folder of its own in the run folder;
    --data and --tokens apply to the first.
    """
    from tfkit.cli.train import start_training
    from tfkit.engine.request.training_request import TrainingRequest
    from tfkit.errors import UsageError
    from tfkit.recipe import open_recipe
    from tfkit.recipe.reading.overrides import parse_overrides

    chosen, words = options.split_recipe("pretrain", recipe, overrides)
    if chosen is None and data is None:
        raise UsageError("pretrain: what is trained? Give a RECIPE (`tfkit recipes` lists the bundled ones), or --data F, a text")

    def request() -> TrainingRequest:
        source = open_recipe(chosen) if chosen is not None else None
        changes = parse_overrides(words)
        if all(named is None for named in (data, columns, rows, tokens, minutes)):
            return TrainingRequest("pre-training", source, changes, is_named=True)
        from tfkit.engine.recognition.own_data import training_request, with_length

        longer = with_length(changes, source, tokens, minutes)
        return training_request("pre-training", source, longer, None, data, options.named_columns(columns), minutes, rows)

    command = ["pretrain", *([chosen] if chosen is not None else []), *words]
    command += options.option_words(("data", data), ("columns", columns), ("rows", rows), ("tokens", tokens), ("minutes", minutes))
    start_training(request, command, training, minutes)
