"""tfkit finetune: a model from the weights of a checkpoint, by a recipe or by what the data shows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options

if TYPE_CHECKING:
    from tfkit.engine.recognition import Recognition
    from tfkit.recipe import RecipeText
    from tfkit.recipe.schema.sections import Recipe


def finetune(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    checkpoint: Annotated[str | None, typer.Option("--from", metavar="CKPT", help="The checkpoint to start from; else model.from.")] = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob of rows to train on; else data.train.")] = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a checkpoint further, on the data and for the objective of a recipe. A head that it lacks is new, and said so.

    Without a recipe the task is read from the columns of the data and the kind of the model; what was decided is printed as a recipe.
    """
    from tfkit.cli.train import Options, train
    from tfkit.engine.given import Given
    from tfkit.engine.settings import quoted, split_arguments
    from tfkit.errors import UsageError
    from tfkit.recipe import open_recipe

    words, changes = split_arguments([*([recipe] if recipe else []), *(overrides or ())])
    if len(words) > 1:
        raise UsageError(f"finetune takes one recipe, not {' and '.join(words)}; changes to it are written key=value")
    again = list(changes)  # what a resume is given, beside the recipe
    for name, value in (("--from", checkpoint), ("--data", data)):
        again += [name, value] if value is not None else []
    if data is not None:  # before the others, so that data.train.0.columns can name columns
        changes.insert(0, f"data.train=[{{path: {quoted(data)}}}]")
    if checkpoint is not None:
        changes.append(f"model.from={quoted(checkpoint)}")
    source = open_recipe(words[0]) if words else None

    def begin() -> "Callable[[], Recipe]":
        if source is not None:
            return _by_recipe(source, checkpoint, changes, chosen.run)
        seen = _recognition(changes)
        seen.inputs.refuse_folder(chosen.run, "--run")
        return lambda: seen.recipe(console)

    if source is not None:
        name = source.name
    elif run is not None and Options(run, resume).goes_on:
        name = run.resolve().name
    else:
        name = _recognition(changes).run_name
    chosen = Options(run or Path("runs") / name, resume, exact, force, device, threads, json)
    start = None if chosen.goes_on else begin()  # what is wrong with a recipe is reported before there is a folder
    command = chosen.resume_command("finetune", source, words, again)
    train(start or (lambda: begin()()), Given(source, tuple(changes)), name, "fine-tuning", chosen, command)


def _recognition(changes: list[str]) -> "Recognition":
    """The command line without a recipe."""
    from tfkit.engine.recognition import Recognition  # which imports torch

    return Recognition.of(changes)


def _by_recipe(source: "RecipeText", checkpoint: str | None, changes: list[str], run: Path) -> "Callable[[], Recipe]":
    """What makes the recipe of a run that begins, once its folder is locked. Raises UsageError for what is wrong with the recipe."""
    from tfkit.cli.train import require_trainable
    from tfkit.engine.inputs import recipe_inputs
    from tfkit.errors import UsageError

    recipe = source.read(changes)
    if recipe.model.start is None:
        raise UsageError(f"{source.path}: which checkpoint? Give --from CKPT, or model: {{from: CKPT}} in the recipe")
    require_trainable(recipe)
    recipe_inputs(recipe, source.path).refuse_folder(run, "--run")
    if checkpoint is not None and recipe.model.sha256 is not None:
        return lambda: _from_this_one(checkpoint, source, recipe, changes)
    return lambda: recipe


def _from_this_one(checkpoint: str, source: "RecipeText", recipe: "Recipe", changes: list[str]) -> "Recipe":
    """The resolved recipe of a run, from another checkpoint than its own: what it says of that one does not hold, but for dropout."""
    from tfkit.hub import content_hash, find_checkpoint
    from tfkit.recipe.dump import recipe_document
    from tfkit.recipe.reading.read import read_document

    if content_hash(find_checkpoint(checkpoint)) == recipe.model.sha256:
        return recipe
    own = source.read()
    document = recipe_document(own, None)
    document["model"] = {"from": checkpoint} | {name: value for name, value in own.model.changes.items() if name == "dropout"}
    console.say(f"{source.path}: was run from {own.model.start}; of what it says of the model only dropout holds for {checkpoint}")
    return read_document(document, str(source.path), changes)[0]
