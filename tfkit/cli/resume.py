"""The recipe in the run folder: whether a run may go on with another, and what a finished one gave. Torch-free: a refusal is quick."""

from pathlib import Path
from typing import Any

from tfkit import console
from tfkit.errors import MachineError, UsageError
from tfkit.model.config import ModelConfig
from tfkit.recipe import dump_recipe, model_config, read_recipe
from tfkit.recipe.presets import merge
from tfkit.recipe.schema import LENGTHS, Recipe
from tfkit.run.durable import write_atomically
from tfkit.run.folder import RunFolder

_LENGTH = tuple(f"training.{name}" for name in LENGTHS)
_PATIENCE = "training.patience"  # when to end, not what to do until then
_GUARDS = ("training.max_skipped_steps", "training.loss_jump_sigmas", "data.max_lost")  # raised or set after they ended a run
_ROUNDING = ("training.compile", "training.activation_checkpointing")  # how, not what: as another machine
# What may change between attempts: it does not touch what the steps so far would have done.
_FREE = (
    *(*_LENGTH, _PATIENCE, *_GUARDS, *_ROUNDING, "training.log_every", "training.tensorboard"),
    *("checkpoint.", "evaluation.", "generation.", "carbon."),
)
_OF_THE_LENGTH = ("linear", "cosine", "wsd")  # the schedules whose every step depends on how many there are


def check_resumable(folder: RunFolder, recipe: Recipe) -> None:
    """Raise UsageError, with the differences, if the run was begun with a recipe that would have taken other steps.

    Warns of what may change and yet leaves no run that could have been one piece: a learning rate that bends, scores of other texts.
    Without a checkpoint there is nothing to go on from: the run begins anew, with any recipe.
    """
    if not folder.recipe.exists() or not folder.has_checkpoints:
        return
    begun = read_recipe(str(folder.recipe)).recipe
    before, now = _fields(begun, begun), _fields(recipe, begun)
    changed = _differences(before, now)
    if refused := [line for name, line in changed.items() if not name.startswith(_FREE)]:
        lines = "\n  ".join(refused)
        raise UsageError(
            f"{folder.path}: this run was begun with another recipe, so it cannot go on:\n  {lines}\n"
            "Take these changes back, or start another run with --run"
        )
    lengths = [line for name, line in changed.items() if name in _LENGTH]
    if lengths and recipe.schedule.kind in _OF_THE_LENGTH:
        console.warn(
            f"{'; '.join(lengths)}. The {recipe.schedule.kind} schedule follows from the length, so the learning rate goes on along "
            "another curve than it came"
        )
    if judged := changed.get("evaluation.metric"):
        console.warn(f"{judged}. The best checkpoint is told by the new one from here on")
    if scored := changed.get("evaluation.max_tokens"):
        console.warn(f"{scored}. Scores from here on are of other texts than those before, and so is what was the best checkpoint")


def warn_of_other_rounding(folder: RunFolder, arithmetic: dict[str, Any]) -> None:
    """Say, once, that the run goes on with other threads, device, precision or machine than it came; call it before the attempt begins."""
    before, now = folder.arithmetic, arithmetic | folder.machine
    known = {name: value for name, value in before.items() if value is not None}
    if changed := _differences(known, {name: now.get(name) for name in known}):
        console.warn(f"{'; '.join(changed.values())}. So the result is that of the run that was never stopped only up to rounding")


def finished_result(folder: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
    """The result of a training that has reached the end of this recipe, and still has its model; None if there is something left to do."""
    result = folder.result or {}
    if "steps" not in result or not (folder.checkpoints / Path(result["checkpoint"]).name).is_dir() or not folder.recipe.exists():
        return None
    begun = read_recipe(str(folder.recipe)).recipe
    before, now = _fields(begun, begun), _fields(recipe, begun)
    return result if all(before.get(name) == now.get(name) for name in (*_LENGTH, _PATIENCE)) else None


def write_recipe(folder: RunFolder, recipe: Recipe, config: ModelConfig) -> None:
    """The resolved recipe into the run folder, whole or not at all: a kill must not tear what resuming reads. Raises MachineError."""
    try:
        write_atomically(folder.recipe, dump_recipe(recipe, config))
    except OSError as error:
        raise MachineError(f"{folder.recipe}: cannot be written ({error.strerror}); mend the disk, or give another --run") from error


def _differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """The names whose values differ, each with a line that says how."""
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return {name: f"{name}: {before.get(name)} in the run, {now.get(name)} now" for name in names}


def _fields(recipe: Recipe, saved: Recipe) -> dict[str, Any]:
    """Every field under its dotted name; the model as its full description, with the vocabulary and the head that the run gave it."""
    document = recipe.model_dump(mode="json")
    known = saved.model.changes
    if recipe.model.start is not None:  # what the checkpoint itself says stands in the saved recipe, whole
        description = ModelConfig.model_validate(merge(known, recipe.model.changes)).model_dump(mode="json")
        document["model"] = {"from": recipe.model.start, **description}
    else:
        head = known.get("head") if "head" not in recipe.model.changes else None  # the objective may have given it one of its own
        document["model"] = model_config(recipe.model, known.get("vocab_size", 1), head).model_dump(mode="json")
    if document["objective"].get("teacher_sha256", "") is None:  # a run writes it down; whether it is the same teacher is seen later
        document["objective"]["teacher_sha256"] = getattr(saved.objective, "teacher_sha256", None)
    return _flatten(document, "")


def _flatten(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
