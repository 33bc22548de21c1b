"""The recipe in the run folder: whether a run may go on with another, and what a finished one gave. Torch-free: a refusal is quick."""

from typing import Any

from tfkit.errors import MachineError, UsageError
from tfkit.model.config import ModelConfig
from tfkit.recipe import dump_recipe, model_config, read_recipe
from tfkit.recipe.schema import Recipe
from tfkit.run.durable import write_atomically
from tfkit.run.folder import RunFolder

_LENGTH = ("training.steps", "training.epochs", "training.tokens")
# What may change between attempts: it does not touch what the steps so far would have done.
_FREE = (*_LENGTH, "training.log_every", "training.tensorboard", "checkpoint.", "evaluation.", "generation.", "carbon.")


def check_resumable(folder: RunFolder, recipe: Recipe) -> None:
    """Raise UsageError, with the differences, if the run was begun with a recipe that would have taken other steps.

    Without a checkpoint there is nothing to go on from: the run begins anew, with any recipe.
    """
    if not folder.recipe.exists() or not any(folder.checkpoints.glob("step-*")):
        return
    begun = read_recipe(str(folder.recipe)).recipe
    before, now = _fields(begun, begun), _fields(recipe, begun)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name) and not name.startswith(_FREE)]
    if changed:
        lines = "\n  ".join(f"{name}: {before.get(name)} in the run, {now.get(name)} now" for name in changed)
        raise UsageError(
            f"{folder.path}: this run was begun with another recipe, so it cannot go on:\n  {lines}\n"
            "Take these changes back, or start another run with --run"
        )


def finished_result(folder: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
    """The result of a run that has reached the end of this recipe; None if there is something left to do."""
    if not folder.finished or not folder.recipe.exists():
        return None
    begun = _fields(read_recipe(str(folder.recipe)).recipe, recipe)
    now = _fields(recipe, recipe)
    return folder.result if all(begun.get(name) == now.get(name) for name in _LENGTH) else None


def write_recipe(folder: RunFolder, recipe: Recipe, config: ModelConfig) -> None:
    """The resolved recipe into the run folder, whole or not at all: a kill must not tear what resuming reads. Raises MachineError."""
    try:
        write_atomically(folder.recipe, dump_recipe(recipe, config))
    except OSError as error:
        raise MachineError(f"{folder.recipe}: cannot be written ({error.strerror}); mend the disk, or give another --run") from error


def _fields(recipe: Recipe, saved: Recipe) -> dict[str, Any]:
    """Every field under its dotted name; the model as its full description, with the vocabulary that the run's tokenizer gave it."""
    document = recipe.model_dump(mode="json")
    document["model"] = model_config(recipe.model, saved.model.changes.get("vocab_size", 1)).model_dump(mode="json")
    return _flatten(document, "")


def _flatten(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
