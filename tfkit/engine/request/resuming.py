"""The recipe with which a run continues, and the result of a finished run. This module does not import torch, so errors appear quickly."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tfkit.alignment.user_code import code_hashes
from tfkit.engine.listener import Listener
from tfkit.engine.request.training_request import RequestRecord, require_trainable
from tfkit.errors import DataError, MachineError, TfkitError, UsageError, argument
from tfkit.recipe import model_config, read_recipe, read_run_recipe
from tfkit.recipe.presets import merge
from tfkit.recipe.reading.overrides import LENGTH, followed_by, split_overrides
from tfkit.recipe.reading.tree import flatten
from tfkit.recipe.schema.sections import ModelSection, Recipe
from tfkit.run.checkpoints import newest_step
from tfkit.run.folder import RunFolder, rounding_fields
from tfkit.run.listing import read_run
from tfkit.run.lock import is_locked
from tfkit.run.machine import describe_machine
from tfkit.run.manifest import verify
from tfkit.run.run_json import stage_folders
from tfkit.run.strict_json import is_number

_PATIENCE = "training.patience"  # changes when a run ends, not its steps
_GUARDS = ("training.max_skipped_steps", "training.loss_jump_sigmas", "data.max_lost")  # limits that end a run; higher ones let it continue
_ROUNDING = ("training.compile", "training.activation_checkpointing")  # change only the rounding, as another machine does
# Fields that may change between attempts, because they have no effect on the steps so far.
_FREE = (
    *(*LENGTH, _PATIENCE, *_GUARDS, *_ROUNDING, "training.log_every", "training.tensorboard", "data.language"),
    *("checkpoint.", "evaluation.", "generation.", "trackers", "carbon.", "parallel."),
)
_LENGTH_SCHEDULES = ("linear", "cosine", "wsd")  # schedules in which the learning rate of a step depends on the length of the run


@dataclass(frozen=True)
class Resumption:
    """How a run continues."""

    recipe: Recipe  # the run's resolved recipe, with the changes by this command
    given: RequestRecord  # the recipe and overrides that the user gave to this command and to earlier ones
    changes: dict[str, str]  # the fields in which `recipe` differs from the run's resolved recipe, each with a line for messages

    @property
    def same_end(self) -> bool:
        """Whether the changes leave the length and the patience of the run, and so its planned end, as they were."""
        return not self.changes.keys() & {*LENGTH, _PATIENCE}


def nothing_to_resume(run: Path) -> TfkitError:
    """Return the error for a folder without a checkpoint from which a run could continue; its message gives the reason and a remedy."""
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
    """Return how a run continues: with its resolved recipe, except for fields that this command states differently from earlier commands.

    `now`: the recipe and overrides of this command. Those of earlier commands are in run.json; if they had no recipe, or an
    older version of tfkit did not record them, the run's whole recipe is compared with the recipe of this command.

    Raises UsageError, which lists the changes that would have led to other steps so far, and ModelError if the run's recipe is damaged.
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
        with suppress(UsageError):  # if the earlier recipe is not valid in this version, all fields are compared
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
    """Return the earlier recipe and overrides with the changes of this command: an edited recipe, and new overrides."""
    return RequestRecord(now.recipe or before.recipe, followed_by(before.overrides, _changed_by(before, now)))


def _changed_by(before: RequestRecord, now: RequestRecord) -> dict[str, Any]:
    """Return the overrides that `now` adds: new ones, and edited fields of its recipe that earlier overrides would otherwise replace."""
    given = now.overrides.items()
    new = {name: value for name, value in given if _last(now, name) == (name, value) != _last(before, name)}
    if not before.recipe or not now.recipe:
        return new
    written = before.recipe.fields()
    edited = {name: value for name, value in now.recipe.fields().items() if name not in written or written[name] != value}
    hidden = {name: value for name, value in edited.items() if _touches(name, before.overrides) and not _touches(name, now.overrides)}
    return followed_by(hidden, new)


def _last(request: RequestRecord, name: str) -> tuple[str, Any] | None:
    """Return the name and value of a field's last override, the one that counts. Lengths in steps, epochs and tokens are one field."""
    names = _alternatives(name)
    return next((one for one in reversed([*request.overrides.items()]) if one[0] in names), None)


def _touches(name: str, overrides: Iterable[str]) -> bool:
    """Whether an override sets a field, a part of it, or its section; the lengths in steps, epochs and tokens count as one field."""
    names = _alternatives(name)
    return any(field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.") for key in overrides for field in names)


def _alternatives(name: str) -> tuple[str, ...]:
    """Return the names of fields that replace each other: for a length, those in steps, epochs and tokens; else only `name`."""
    for unit in LENGTH:
        if name == unit or name.endswith(f".{unit}"):
            return tuple(name.removesuffix(unit) + other for other in LENGTH)
    return (name,)


def check_resumption(folder: RunFolder, resumption: Resumption, listener: Listener) -> None:
    """Report the changes, or raise UsageError or DataError if the run cannot continue with them. This is done before torch is imported."""
    recipe = resumption.recipe
    require_trainable(recipe)
    require_length(folder.path, recipe.training.steps, newest_step(folder.checkpoints))
    require_same_code(folder, recipe)
    report_changes(folder, resumption, listener)


def unchanged_budget(folder: RunFolder, resumption: Resumption) -> str | None:
    """Return the budget's field whose limit ended the run's last attempt, if this command does not change it; else None."""
    field = (folder.recorded.larger_budget or "").partition("=")[0]
    return field if field and field not in resumption.changes else None


def require_same_text(begun: Mapping[str, list[str]], data: Mapping[str, list[str]]) -> None:
    """Raise DataError if the data are not those with which the run began. Both arguments have the fingerprints (hashes) of
    each part of the data, such as the training rows.
    """
    for part, now in data.items():
        if (before := begun.get(part, [])) != now:
            raise DataError(
                f"the {part} text is not what this run was started with: its fingerprints were {', '.join(before)} and are now "
                f"{', '.join(now)}. Restore the text and the tokenizer, or start another run with {argument('run')}"
            )


def require_same_code(folder: RunFolder, recipe: Recipe) -> None:
    """Raise DataError if the code files are not those with which the run was started. The code is not run."""
    before, now = folder.recorded.data.get("code"), code_hashes(recipe.objective.code_files)
    if isinstance(before, list) and before != now:
        raise DataError(
            f"the code of objective.rules is not what this run was started with: its SHA-256 was {', '.join(map(str, before))} and is now "
            f"{', '.join(now)}. Restore the file, or start another run with {argument('run')}"
        )


def report_changes(folder: RunFolder, resumption: Resumption, listener: Listener) -> None:
    """Report the changes; warn if they affect the curve of the learning rate, the choice of the best checkpoint, or how rows are scored."""
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
        listener.warn(f"{judged}. From now on the new metric chooses the best checkpoint")
    if scored := changes.get("evaluation.max_tokens"):
        listener.warn(f"{scored}. Scores from now on cannot be compared with earlier scores, such as that of the best checkpoint so far")


def warn_without_effect(folder: Path, changes: Collection[str], listener: Listener) -> None:
    """Warn that changes have no effect, because the run or sweep is finished, and only its result is repeated."""
    if changes:
        lines = "\n  ".join(changes)
        listener.warn(f"{folder}: finished, so these changes have no effect:\n  {lines}")


def require_length(folder: Path, steps: int | None, done: int) -> None:
    """Raise UsageError if a run of length `steps` has already taken more steps, `done`. `steps`: None if it depends on the data."""
    if steps is not None and steps < done:
        raise UsageError(
            f"{folder}: this run has taken {done:,} steps, and its length would now be {steps:,}. Give a length of at least {done:,} "
            f"steps, leave it out to keep the run's own, or start another run with {argument('run')}"
        )


def warn_of_other_rounding(folder: RunFolder, arithmetic: dict[str, Any], listener: Listener) -> None:
    """Warn if a run continues with another number of threads, device, precision or machine than its last attempt had."""
    before, now = folder.arithmetic, arithmetic | rounding_fields(describe_machine())
    known = {name: value for name, value in before.items() if value is not None}
    if changed := _differences(known, {name: now.get(name) for name in known}):
        listener.warn(f"{'; '.join(changed.values())}. So the result equals that of an uninterrupted run only up to rounding")


def repeated_result(folder: RunFolder, resumption: Resumption, listener: Listener) -> dict[str, Any] | None:
    """Return the recorded result of a finished run; None if the run is not finished, or if this command changes its length or patience."""
    if not resumption.same_end or (result := finished_result(folder)) is None:
        return None
    warn_without_effect(folder.path, resumption.changes.values(), listener)
    listener.say(f"{folder.path}: this run is finished; here is its result again")
    folder.confirm_finished()
    return result


def finished_result(folder: RunFolder) -> dict[str, Any] | None:
    """Return the result of a finished training; None if the training is not finished, or its checkpoint is damaged or missing.

    If the run folder was moved after the training, the paths in the result are those of its current place.
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
    """Whether a document from run.json is a complete result of a training by this version or an older one, and not of an evaluation."""
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
    """Return the `wanted` recipe with the learning rate that the run chose by a trial, if the recipe would try this rate, too."""
    others = wanted.training.trial_rates
    if others is None or begun.training.trial_rates is not None or begun.optimizer.lr not in (wanted.optimizer.lr, *others):
        return wanted
    return wanted.with_rate(begun.optimizer.lr)


def _with_changes(begun: Recipe, wanted: Recipe, changes: Iterable[str]) -> Recipe:
    """Return the run's recipe, with the fields in `changes` as in the wanted recipe.

    Hashes of the checkpoint and companions (such as a teacher) are also as in the wanted recipe: `pin_models` compares them with the run's.
    """
    sections: dict[str, Any] = {"model": begun.model.model_copy(update={"sha256": wanted.model.sha256})}
    if begun.objective.companions:
        pins = wanted.objective.pins
        sections["objective"] = begun.objective.pinned({name: pins.get(name) for name in begun.objective.companions})
    for name in changes:
        section, _, rest = name.partition(".")
        old, new = sections.get(section, getattr(begun, section)), getattr(wanted, section)
        field = rest.partition(".")[0]
        sections[section] = old.model_copy(update={field: getattr(new, field)}) if field else new  # a list, such as trackers, has no fields
    return begun.model_copy(update=sections)


def _taken_back(given: Recipe, wanted: Recipe) -> dict[str, None]:
    """Return the fields of the model section that `given`, the recipe of earlier commands, states and `wanted` leaves out, mapped to None.

    Only fields that `_fields` fills in from the run's recipe are returned, since filling in hides that `wanted` leaves them out. If left
    out, a field has the checkpoint's value, or one that follows from the vocabulary and the objective.
    """
    names = flatten(given.model.changes).keys() - flatten(wanted.model.changes).keys()
    filled = names if wanted.model.start is not None else (name for name in names if name.partition(".")[0] in ("vocab_size", "head"))
    return {f"model.{name}": None for name in filled}


def _beside(recipe: Recipe, run: Path) -> Recipe:
    """Return the recipe of the stage in the folder `run`, with current paths of earlier stages if the folder of all stages was moved."""
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
    """Return all fields of a recipe by dotted name, with the full config of its model. What the recipe leaves open is filled in from the
    `saved` recipe of the run: vocabulary size, head, the checkpoint's config, and hashes of companions.
    """
    document = recipe.model_dump(mode="json")
    known = saved.model.changes
    if recipe.model.start is not None:  # fields that the recipe leaves open are the checkpoint's, all of which the saved recipe has
        description = ModelSection.model_validate(merge(known, recipe.model.changes))
        document["model"] = {"from": recipe.model.start, **model_config(description, 1).model_dump(mode="json")}
    else:
        head = known.get("head") if "head" not in recipe.model.changes else None  # the objective may have chosen the head
        document["model"] = model_config(recipe.model, known.get("vocab_size", 1), head).model_dump(mode="json")
    for name, pin in recipe.objective.pins.items():
        if pin is None:  # the run's recipe has the hash; whether the companion has the same hash is checked when it is loaded
            document["objective"][f"{name}_sha256"] = saved.objective.pins.get(name)
    return flatten(document)
