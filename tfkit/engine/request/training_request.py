"""The request for a run: a recipe as written with its changes, or as decided from the data and the model. Torch-free."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from tfkit.engine.listener import Listener
from tfkit.engine.request.inputs import Inputs, recipe_inputs
from tfkit.engine.request.stale_runs import finalize_killed_run
from tfkit.errors import UsageError
from tfkit.recipe import RecipeText
from tfkit.recipe.dump import dump_document, recipe_document
from tfkit.recipe.reading.overrides import LENGTH
from tfkit.recipe.schema.objective_facts import judges_only

if TYPE_CHECKING:
    from tfkit.recipe.schema.sections import Recipe


@dataclass(frozen=True)
class RequestRecord:
    """The recipe of a run as the command line gave it, and its overrides, key=value; without a recipe, the overrides are all.

    run.json keeps it, since only a comparison with it shows what a resume changes: an edit of the file or a different key=value is a
    change, a key=value that is left out the second time is not.
    """

    recipe: RecipeText | None
    overrides: tuple[str, ...]

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """Read the result of `document`; None for anything else, as in run.json of an older version."""
        if not isinstance(document, dict) or document.keys() != {"recipe", "text", "overrides"}:
            return None
        recipe, text, overrides = document["recipe"], document["text"], document["overrides"]
        if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
            return None
        if isinstance(recipe, str) and isinstance(text, str):
            return cls(RecipeText(Path(recipe), text), tuple(overrides))
        return cls(None, tuple(overrides)) if recipe is None and text is None else None

    def document(self) -> dict[str, Any]:
        """Return the document for run.json."""
        path, text = (str(self.recipe.path), self.recipe.text) if self.recipe else (None, None)
        return {"recipe": path, "text": text, "overrides": list(self.overrides)}

    def sha256(self) -> str:
        """Return a hash that is the same for all ranks with the same recipe and overrides."""
        text = json.dumps([self.recipe.text if self.recipe else None, self.overrides])
        return hashlib.sha256(text.encode()).hexdigest()

    def merged_with(self, now: "RequestRecord") -> "RequestRecord":
        """Return the combination of this with a later `now`: the earlier recipe and overrides, changed by the edited file and by `now`."""
        new = [word for word in now.overrides if word == now._last(_key(word)) != self._last(_key(word))]
        edits: list[str] = []
        if self.recipe and now.recipe:
            before = self.recipe.fields()
            changed = {name: value for name, value in now.recipe.fields().items() if name not in before or before[name] != value}
            hidden = [name for name in changed if _touches(name, self.overrides) and not _touches(name, now.overrides)]
            edits = [f"{name}={json.dumps(changed[name], ensure_ascii=False)}" for name in hidden]
        return RequestRecord(now.recipe or self.recipe, (*self.overrides, *edits, *new))

    def _last(self, key: str) -> str | None:
        """Return the last override of a field, which holds; the units of the length are one field."""
        names = _alternatives(key)
        return next((word for word in reversed(self.overrides) if _key(word) in names), None)


def _key(word: str) -> str:
    return word.partition("=")[0].strip()


def _alternatives(name: str) -> tuple[str, ...]:
    """Return a field with its alternatives: the units of a length, also of a stage's, are one field."""
    for unit in LENGTH:
        if name == unit or name.endswith(f".{unit}"):
            return tuple(name.removesuffix(unit) + other for other in LENGTH)
    return (name,)


def _touches(name: str, overrides: Iterable[str]) -> bool:
    """Whether one of the overrides sets a field, a part of it, or its section; the units of the length are one field."""
    names = _alternatives(name)
    return any(
        field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.") for key in map(_key, overrides) for field in names
    )


@dataclass(frozen=True)
class ResolvedRequest:
    """The recipe of a run, also as a document that can be saved, with its leading comment."""

    recipe: "Recipe"
    document: dict[str, Any]
    comment: str = ""

    @property
    def text(self) -> str:
        """The recipe as YAML."""
        return self.comment + dump_document(self.document)


@dataclass(frozen=True)
class CheckedRequest:
    """A run to start: its checked recipe, if there is one, and its inputs.

    `decide` returns the recipe once the run folder is locked; no data are read before.
    """

    decide: Callable[[Listener], ResolvedRequest]
    inputs: Inputs
    recipe: "Recipe | None" = None


class RecipeFromData(Protocol):
    """A recipe that nobody wrote: it is made from the data and the checkpoint (recognition/unwritten_recipe.py)."""

    @property
    def inputs(self) -> Inputs:
        """The files and the checkpoint to make it from. Raises UsageError if the command does not name them."""
        ...

    def decide(self, listener: Listener, /) -> ResolvedRequest:
        """Read the data and the checkpoint, and make the recipe."""
        ...


TrainingKind = Literal["pre-training", "fine-tuning"]


def kind_of(recipe: "Recipe") -> TrainingKind:
    """Return whether a recipe is pre-training or fine-tuning."""
    return "pre-training" if recipe.model.start is None else "fine-tuning"


@dataclass(frozen=True)
class TrainingRequest:
    """A training that a command or a call requests: from random weights by a recipe, or from a checkpoint by a recipe or its data.

    `words`: key=value, including those of `model.from` and `data.train`; STAGE.key=value for a recipe with stages. `checkpoint`: the value
    of `model.from`, if `words` sets it. `is_named`: the user named this recipe in this command, so that its code may be run; it
    does not come from the folder of an earlier one. `unwritten`: the recipe that is made, where there is no source.
    """

    kind: TrainingKind
    source: RecipeText | None
    words: Sequence[str] = ()
    checkpoint: str | None = None
    is_named: bool = False
    unwritten: RecipeFromData | None = None

    @property
    def given(self) -> RequestRecord:
        """The part of the request that run.json keeps."""
        return RequestRecord(self.source, tuple(self.words))

    def check(self) -> CheckedRequest:
        """Return the checked recipe and its inputs. Raises UsageError."""
        if self.kind == "fine-tuning":
            return finetuning(self.source, self.words, self.checkpoint, self.unwritten)
        assert self.source is not None
        return pretraining(self.source, self.words)


def pretraining(source: RecipeText, words: Sequence[str]) -> CheckedRequest:
    """Return the checked request of a training from random weights; `words` are key=value. Raises UsageError."""
    recipe, document = source.changed(words)
    if recipe.model.start is not None:
        raise UsageError(f"{source.path}: model.from: pretraining starts from random weights; `tfkit finetune` starts from a checkpoint")
    require_trainable(recipe)
    decided = ResolvedRequest(recipe, document, source.comment)
    return CheckedRequest(lambda _: decided, recipe_inputs(recipe, source.path), recipe)


def finetuning(
    source: RecipeText | None, words: Sequence[str], checkpoint: str | None, unwritten: RecipeFromData | None = None
) -> CheckedRequest:
    """Return the checked request of a training from a checkpoint; the arguments are those of TrainingRequest. Raises UsageError."""
    if checkpoint is not None:
        finalize_killed_run(checkpoint)
    if source is None:
        assert unwritten is not None
        return CheckedRequest(unwritten.decide, unwritten.inputs)
    recipe, document = source.changed(words)
    if recipe.model.start is None:
        raise UsageError(f"{source.path}: which checkpoint? Give --from CKPT, or model: {{from: CKPT}} in the recipe")
    require_trainable(recipe)
    decided, inputs = ResolvedRequest(recipe, document, source.comment), recipe_inputs(recipe, source.path)
    if checkpoint is not None and recipe.model.sha256 is not None:
        return CheckedRequest(lambda listener: _with_checkpoint(checkpoint, source, decided, words, listener), inputs, recipe)
    return CheckedRequest(lambda _: decided, inputs, recipe)


def require_trainable(recipe: "Recipe") -> None:
    """Raise UsageError for an objective that only judges, and for an unknown place."""
    from tfkit.carbon import resolve_place

    if recipe.objective.scored_by == "likelihood":
        raise judges_only(recipe.objective)
    resolve_place(recipe.carbon)


def _with_checkpoint(
    checkpoint: str, source: RecipeText, decided: ResolvedRequest, words: Sequence[str], listener: Listener
) -> ResolvedRequest:
    """Return a run's resolved recipe with another checkpoint, to which its description of the model does not apply, except dropout."""
    from tfkit.hub import content_hash, find_checkpoint
    from tfkit.recipe.reading.read import read_document

    if content_hash(find_checkpoint(checkpoint)) == decided.recipe.model.sha256:
        return decided
    own = source.read()
    document = recipe_document(own, None)
    document["model"] = {"from": checkpoint} | {name: value for name, value in own.model.changes.items() if name == "dropout"}
    listener.say(f"{source.path}: was run from {own.model.start}; of its section model, only dropout is used for {checkpoint}")
    return ResolvedRequest(*read_document(document, str(source.path), words))
