"""The recipe with which a run continues, and the result of a finished one. Torch-free: a refusal is quick."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tfkit.alignment.user_code import code_hashes
from tfkit.engine.listener import Listener
from tfkit.engine.request.training_request import RequestRecord, require_trainable
from tfkit.errors import DataError, MachineError, TfkitError, UsageError, argument
from tfkit.model.config import ModelConfig
from tfkit.recipe import model_config, read_recipe, read_run_recipe
from tfkit.recipe.presets import merge
from tfkit.recipe.reading.overrides import LENGTH, followed_by, split_overrides
from tfkit.recipe.reading.tree import flatten
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.checkpoints import newest_step
from tfkit.run.folder import RunFolder, rounding_fields
from tfkit.run.listing import read_run
from tfkit.run.lock import is_locked
from tfkit.run.machine import describe_machine
from tfkit.run.manifest import verify
from tfkit.run.run_json import stage_folders
from tfkit.run.strict_json import is_number

_PATIENCE = "training.patience"  # changes the end of a run, not its steps
_GUARDS = ("training.max_skipped_steps", "training.loss_jump_sigmas", "data.max_lost")  # a user raises one that ended the run
_ROUNDING = ("training.compile", "training.activation_checkpointing")  # change the rounding only, as another machine does
# What may change between attempts: it has no effect on the steps so far.
_FREE = (
    *(*LENGTH, _PATIENCE, *_GUARDS, *_ROUNDING, "training.log_every", "training.tensorboard", "data.language"),
    *("checkpoint.", "evaluation.", "generation.", "trackers", "carbon.", "parallel."),
)
_LENGTH_SCHEDULES = ("linear", "cosine", "wsd")  # schedules whose rate at a step depends on the length of the run


@dataclass(frozen=True)
class Resumption:
    """How a run continues: its recipe now, what all commands gave, and what differs from the recipe with which it began."""

    recipe: Recipe
    given: RequestRecord  # to this command and those before it
    changes: dict[str, str]  # the fields that differ from the run's, each with a line that describes the difference

    @property
    def same_end(self) -> bool:
        """Whether the run ends where it would have ended before."""
        return not self.changes.keys() & {*LENGTH, _PATIENCE}


def nothing_to_resume(run: Path) -> TfkitError:
    """Return the error for a folder without a checkpoint to continue from; its message says what the folder is."""
    listed = read_run(run)
    if is_locked(run / "lock"):
        return MachineError(
            f"{run}: this run folder is in use by another process, which has saved no checkpoint yet. Wait for it or stop it"
        )
    if listed.status in ("foreign", "damaged"):
        return UsageError(f"{run}: there is no run to continue here ({listed.problem}); name the folder of a run")
    if listed.checkpoints and not (run / "recipe.yaml").is_file():
        return UsageError(
            f"{run}: its recipe.yaml is missing, without which the run cannot continue. Restore that file; or use a checkpoint of this run "
            f"with {argument('start')}, and give another folder with {argument('run')}"
        )
    because, again = f" ({listed.problem})" if listed.problem else "", f". Start it again: {listed.resume}" if listed.resume else ""
    return UsageError(f"{run}: this run has no checkpoint to continue from; it is {listed.status}{because}{again}")


def resolve_resumption(folder: RunFolder, now: RequestRecord) -> Resumption:
    """Return how a run continues: with its resolved recipe, and the changes between what was given before and what is given now.

    Raises UsageError, with a list of the changes, if the run would have taken other steps with them, and ModelError if the run's recipe is
    damaged. If the run was begun by an older version, which did not record what was given, its whole recipe is compared with the one that
    is given now.
    """
    begun = read_run_recipe(folder.path).recipe
    before = RequestRecord.from_document(folder.recorded.given)
    given, base, wanted = now, begun, None
    taken_back: dict[str, None] = {}
    if now.recipe is None:
        given = merged(before, now) if before else now
        new = _changed_by(before, now) if before else now.overrides
        wanted = read_recipe(str(folder.recipe), new).recipe
    elif before is not None and before.recipe is not None:
        given = merged(before, now)
        wanted = now.recipe.read(given.overrides)
        with suppress(UsageError):  # a recipe of an older version that is no longer valid: then everything is compared
            base = before.recipe.read(before.overrides)
            taken_back = _taken_back(base, wanted)
    else:
        wanted = _as_tried(now.recipe.read(followed_by(split_overrides(begun, now.recipe.fields()), now.overrides)), begun)
    own, then, new_fields = _fields(begun, begun), _fields(base, begun), _fields(wanted, begun)
    touched = {name for name in then.keys() | new_fields.keys() if then.get(name) != new_fields.get(name)}
    changes = _differences(own, own | {name: new_fields.get(name) for name in touched} | taken_back)
    if refused := [line for name, line in changes.items() if not name.startswith(_FREE)]:
        lines = "\n  ".join(refused)
        raise UsageError(
            f"{folder.path}: this run was started with another recipe, so it cannot continue:\n  {lines}\n"
            f"Revert these changes, or start another run with {argument('run')}"
        )
    return Resumption(_beside(_with_changes(begun, wanted, changes), folder.path), given, changes)


def merged(before: RequestRecord, now: RequestRecord) -> RequestRecord:
    """Return the earlier recipe and overrides, changed by the edited file and by `now`."""
    return RequestRecord(now.recipe or before.recipe, followed_by(before.overrides, _changed_by(before, now)))


def _changed_by(before: RequestRecord, now: RequestRecord) -> dict[str, Any]:
    """Return what the request `now` changes: edits of the file that the overrides of `before` would hide, and new overrides."""
    given = now.overrides.items()
    new = {name: value for name, value in given if _last(now, name) == (name, value) != _last(before, name)}
    if not before.recipe or not now.recipe:
        return new
    written = before.recipe.fields()
    edited = {name: value for name, value in now.recipe.fields().items() if name not in written or written[name] != value}
    hidden = {name: value for name, value in edited.items() if _touches(name, before.overrides) and not _touches(name, now.overrides)}
    return followed_by(hidden, new)


def _last(request: RequestRecord, name: str) -> tuple[str, Any] | None:
    """Return the last override of a field, which is the valid one; the length of a training is one field, in whatever unit it is given."""
    names = _alternatives(name)
    return next((one for one in reversed([*request.overrides.items()]) if one[0] in names), None)


def _touches(name: str, overrides: Iterable[str]) -> bool:
    """Whether one of the overrides sets a field, a part of it, or its section; the length of a training is one field, whatever its unit."""
    names = _alternatives(name)
    return any(field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.") for key in overrides for field in names)


def _alternatives(name: str) -> tuple[str, ...]:
    """Return all names of a field: for the length of a training or a stage, its name in each unit; for any other field, its one name."""
    for unit in LENGTH:
        if name == unit or name.endswith(f".{unit}"):
            return tuple(name.removesuffix(unit) + other for other in LENGTH)
    return (name,)


def check_resumption(folder: RunFolder, resumption: Resumption, listener: Listener) -> None:
    """Raise UsageError or DataError for a run that cannot continue in this way, before torch is imported; report what changes."""
    recipe = resumption.recipe
    require_trainable(recipe)
    require_length(folder.path, recipe.training.steps, newest_step(folder.checkpoints))
    require_same_code(folder, recipe)
    report_changes(folder, resumption, listener)


def unchanged_budget(folder: RunFolder, resumption: Resumption) -> str | None:
    """Return the field of the budget that ended the run's last attempt, if it is as it was; else None."""
    field = (folder.recorded.larger_budget or "").partition("=")[0]
    return field if field and field not in resumption.changes else None


def require_same_text(begun: Mapping[str, list[str]], data: Mapping[str, list[str]]) -> None:
    """Raise DataError if the fingerprints `data` of the text are not those with which the run was begun."""
    for part, now in data.items():
        if (before := begun.get(part, [])) != now:
            raise DataError(
                f"the {part} text is not what this run was started with: its fingerprints were {', '.join(before)} and are now "
                f"{', '.join(now)}. Restore the text and the tokenizer, or start another run with {argument('run')}"
            )


def require_same_code(folder: RunFolder, recipe: Recipe) -> None:
    """Raise DataError if the code files are not those with which the run was started. No code is run here."""
    before, now = folder.recorded.data.get("code"), code_hashes(recipe.objective.code_files)
    if isinstance(before, list) and before != now:
        raise DataError(
            f"the code of objective.rules is not what this run was started with: its SHA-256 was {', '.join(map(str, before))} and is now "
            f"{', '.join(now)}. Restore the file, or start another run with {argument('run')}"
        )


def report_changes(folder: RunFolder, resumption: Resumption, listener: Listener) -> None:
    """Report the changes, and warn of effects that no uninterrupted run has: a bent curve of the learning rate, incomparable scores."""
    changes, recipe = resumption.changes, resumption.recipe
    if changes:
        lines = "\n  ".join(changes.values())
        listener.say(f"{folder.path}: this run continues with changes to its recipe:\n  {lines}")
    lengths = [line for name, line in changes.items() if name in LENGTH]
    if lengths and recipe.schedule.kind in _LENGTH_SCHEDULES:
        listener.warn(
            f"{'; '.join(lengths)}. The {recipe.schedule.kind} schedule follows from the length, so from here on the learning "
            "rate has another curve than before"
        )
    if judged := changes.get("evaluation.metric"):
        listener.warn(f"{judged}. From now on the best checkpoint is chosen by the new one")
    if scored := changes.get("evaluation.max_tokens"):
        listener.warn(f"{scored}. Scores from now on cannot be compared with earlier ones, nor with that of the best checkpoint so far")


def warn_without_effect(folder: Path, changes: Collection[str], listener: Listener) -> None:
    """Warn that changes have no effect: the run or sweep is finished, and only repeats its result."""
    if changes:
        lines = "\n  ".join(changes)
        listener.warn(f"{folder}: finished, so these changes have no effect:\n  {lines}")


def require_length(folder: Path, steps: int | None, done: int) -> None:
    """Raise UsageError if a run would end before the step that it has reached. `steps`: None: not known before the data are read."""
    if steps is not None and steps < done:
        raise UsageError(
            f"{folder}: this run has taken {done:,} steps, and its length would now be {steps:,}. Give a length of at least {done:,} "
            f"steps, leave it out to keep the run's own, or start another run with {argument('run')}"
        )


def warn_of_other_rounding(folder: RunFolder, arithmetic: dict[str, Any], listener: Listener) -> None:
    """Warn if a run continues with other threads, device, precision or machine; called before `folder` records the new ones."""
    before, now = folder.arithmetic, arithmetic | rounding_fields(describe_machine())
    known = {name: value for name, value in before.items() if value is not None}
    if changed := _differences(known, {name: now.get(name) for name in known}):
        listener.warn(f"{'; '.join(changed.values())}. So the result equals that of an uninterrupted run only up to rounding")


def repeated_result(folder: RunFolder, resumption: Resumption, listener: Listener) -> dict[str, Any] | None:
    """Return the result of a finished run again; None if its length or patience has changed, or something is left to do."""
    if not resumption.same_end or (result := finished_result(folder)) is None:
        return None
    warn_without_effect(folder.path, resumption.changes.values(), listener)
    listener.say(f"{folder.path}: this run is finished; here is its result again")
    folder.confirm_finished()
    return result


def finished_result(folder: RunFolder) -> dict[str, Any] | None:
    """Return the result of a finished training whose checkpoint is intact; None if there is something left to do.

    The paths in the result are those in the folder's current place: the folder may have been moved since.
    """
    result = folder.recorded.result
    if not is_training_result(result):
        return None
    checkpoint, best = folder.checkpoints / Path(result["checkpoint"]).name, result.get("best")
    if verify(checkpoint):
        return None
    if best:
        best = {**best, "checkpoint": str(folder.checkpoints / f"step-{best['step']:06d}")}
    return {**result, "run": str(folder.path), "checkpoint": str(checkpoint), "best": best}


def is_training_result(result: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a document from run.json is the result of a training, of this version or an older one, and not that of an evaluation."""
    if not isinstance(result, dict) or not isinstance(result.get("checkpoint"), str) or not isinstance(result.get("evaluation"), dict):
        return False
    best = result.get("best") or {"step": 0, "metric": "", "value": None}
    counts = all(type(result.get(name)) is int for name in ("steps", "tokens"))
    names = ("loss", "seconds", "energy_kwh", "emissions_g")
    numbers = [*(result.get(name) for name in (*names, "train_seconds")), *result["evaluation"].values()]
    return (
        (counts and result.keys() >= {*names} and result["seconds"] is not None and all(map(is_number, numbers)))
        and isinstance(best, dict)
        and (type(best.get("step")) is int and isinstance(best.get("metric"), str) and is_number(best.get("value")))
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return the names whose values differ, each with a line that describes the difference."""
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return {name: f"{name}: {_shown(before.get(name))} in the run, {_shown(now.get(name))} now" for name in names}


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _as_tried(wanted: Recipe, begun: Recipe) -> Recipe:
    """Return the given recipe with the learning rate that the run chose, if that is one of those that the recipe would try."""
    others = wanted.training.trial_rates
    if others is None or begun.training.trial_rates is not None or begun.optimizer.lr not in (wanted.optimizer.lr, *others):
        return wanted
    return wanted.with_rate(begun.optimizer.lr)


def _with_changes(begun: Recipe, wanted: Recipe, changes: Iterable[str]) -> Recipe:
    """Return the run's recipe with the changed fields of the wanted one.

    A hash is pinned only if the wanted recipe has it: whether a checkpoint or companion is the same is checked when it is opened.
    """
    sections: dict[str, Any] = {"model": begun.model.model_copy(update={"sha256": wanted.model.sha256})}
    if begun.objective.companions:
        pins = wanted.objective.pins
        sections["objective"] = begun.objective.pinned({name: pins.get(name) for name in begun.objective.companions})
    for name in changes:
        section, _, rest = name.partition(".")
        old, new = sections.get(section, getattr(begun, section)), getattr(wanted, section)
        field = rest.partition(".")[0]
        sections[section] = old.model_copy(update={field: getattr(new, field)}) if field else new  # a list has no fields
    return begun.model_copy(update=sections)


def _taken_back(given: Recipe, wanted: Recipe) -> dict[str, None]:
    """Return the changes to the model that the recipe as it was `given` has, and the wanted one has no more.

    Only those whose values `_fields` fills in from the run: the values that would hold follow from the checkpoint, or from the vocabulary
    and the objective.
    """
    names = flatten(given.model.changes).keys() - flatten(wanted.model.changes).keys()
    filled = names if wanted.model.start is not None else (name for name in names if name.partition(".")[0] in ("vocab_size", "head"))
    return {f"model.{name}": None for name in filled}


def _beside(recipe: Recipe, run: Path) -> Recipe:
    """Return the recipe of a stage. If its chain was moved since it began, the paths of earlier stages are those where they are now."""
    stages = stage_folders(run.parent)

    def present(path: str | None) -> str | None:
        if path is None or path.startswith("hub:") or Path(path).exists():
            return path
        return str(stages.get(Path(path).name, path))

    objective, model = recipe.objective, recipe.model
    update = {
        "model": model if model.start is None else model.model_copy(update={"from": present(model.start)}),
        "tokenizer": recipe.tokenizer.model_copy(update={"path": present(recipe.tokenizer.path)}),
        "objective": objective.model_copy(update={name: present(getattr(objective, name)) for name in objective.companions}),
    }
    return recipe.model_copy(update=update)


def _fields(recipe: Recipe, saved: Recipe) -> dict[str, Any]:
    """Return every field by its dotted name; the model with its full configuration, including the run's vocabulary and head."""
    document = recipe.model_dump(mode="json")
    known = saved.model.changes
    if recipe.model.start is not None:  # the saved recipe has the checkpoint's whole configuration
        description = ModelConfig.model_validate(merge(known, recipe.model.changes)).model_dump(mode="json")
        document["model"] = {"from": recipe.model.start, **description}
    else:
        head = known.get("head") if "head" not in recipe.model.changes else None  # the objective may have chosen the head
        document["model"] = model_config(recipe.model, known.get("vocab_size", 1), head).model_dump(mode="json")
    for name, pin in recipe.objective.pins.items():
        if pin is None:  # the run records it; whether it is the same model is checked later
            document["objective"][f"{name}_sha256"] = saved.objective.pins.get(name)
    return flatten(document)
