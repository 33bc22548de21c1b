"""tfkit pretrain: a model trained from random weights."""

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

    With --data, the text is F, of which a part is held out, and what depends on its size follows: vocabulary, row length, batch and steps,
    unless a key=value sets them. Without a recipe, a small decoder is trained. A recipe with stages is run one stage after another, each in
    a folder of its own below the run folder; --data and --tokens belong to the first.
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
