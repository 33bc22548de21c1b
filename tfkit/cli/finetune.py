"""tfkit finetune: a model from the weights of a checkpoint, by a recipe or by what the data shows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit.cli import options

if TYPE_CHECKING:
    from tfkit.recipe import ResolvedRecipe
    from tfkit.recipe.schema import Recipe
    from tfkit.run.folder import RunFolder


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
    from tfkit.cli.settings import quoted, split_arguments
    from tfkit.cli.train import Options, train
    from tfkit.errors import UsageError
    from tfkit.recipe import read_recipe

    words, changes = split_arguments([*([recipe] if recipe else []), *(overrides or ())])
    if len(words) > 1:
        raise UsageError(f"finetune takes one recipe, not {' and '.join(words)}; changes to it are written key=value")
    if words:
        if data is not None:  # before the others, so that data.train.0.columns can name columns
            changes.insert(0, f"data.train=[{{path: {quoted(data)}}}]")
        if checkpoint is not None:
            changes.append(f"model.from={quoted(checkpoint)}")
        resolved = read_recipe(words[0], changes)
        if resolved.recipe.model.start is None:
            raise UsageError(f"{resolved.path}: which checkpoint? Give --from CKPT, or model: {{from: CKPT}} in the recipe")
        planned: Recipe | Callable[[RunFolder], Recipe] = resolved.recipe
        if checkpoint is not None and resolved.recipe.model.sha256 is not None:
            planned = lambda _: _from_this_one(checkpoint, resolved, changes)  # noqa: E731
        name = resolved.name
    else:
        from tfkit.cli.recognition import Recognition

        seen = Recognition.of(checkpoint, data, changes)
        planned, name = seen.recipe, seen.run_name
    train(planned, name, "fine-tuning", Options(run or Path("runs") / name, resume, exact, force, device, threads, json))


def _from_this_one(checkpoint: str, resolved: "ResolvedRecipe", changes: list[str]) -> "Recipe":
    """The resolved recipe of a run, from another checkpoint than its own: what it says of that one does not hold, but for dropout."""
    from tfkit import console
    from tfkit.hub import content_hash, find_checkpoint
    from tfkit.recipe.dump import recipe_document
    from tfkit.recipe.read import read_document

    if content_hash(find_checkpoint(checkpoint)) == resolved.recipe.model.sha256:
        return resolved.recipe
    own = resolved.without_changes()
    document = recipe_document(own, None)
    document["model"] = {"from": checkpoint} | {name: value for name, value in own.model.changes.items() if name == "dropout"}
    console.say(f"{resolved.path}: was run from {own.model.start}; of what it says of the model only dropout holds for {checkpoint}")
    return read_document(document, str(resolved.path), changes)[0]
