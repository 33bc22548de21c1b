"""The recipe of a new run: as written, with the changes of the command line, or as decided from the data and the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tfkit.engine.listener import Listener
from tfkit.engine.request.given import Given
from tfkit.engine.request.inputs import Inputs, recipe_inputs
from tfkit.engine.request.killed import complete_killed_run
from tfkit.errors import UsageError
from tfkit.recipe import RecipeText
from tfkit.recipe.dump import dump_document, recipe_document
from tfkit.recipe.schema.objective_facts import judges_only

if TYPE_CHECKING:
    from tfkit.recipe.schema.sections import Recipe


@dataclass(frozen=True)
class Decided:
    """The recipe of a run, also as a document that can be saved, with its leading comment."""

    recipe: "Recipe"
    document: dict[str, Any]
    comment: str = ""

    @property
    def text(self) -> str:
        """The recipe as YAML."""
        return self.comment + dump_document(self.document)


@dataclass(frozen=True)
class Beginning:
    """A run to start: its checked recipe, if there is one, and its inputs.

    `decide` returns the recipe once the run folder is locked; no data are read before.
    """

    decide: Callable[[Listener], Decided]
    inputs: Inputs
    recipe: "Recipe | None" = None


class RecipeFromData(Protocol):
    """A recipe that nobody wrote: it is made from the data and the checkpoint (recognition/unwritten_recipe.py)."""

    @property
    def inputs(self) -> Inputs:
        """The files and the checkpoint to make it from. Raises UsageError if the command does not name them."""
        ...

    def decide(self, listener: Listener, /) -> Decided:
        """Read the data and the checkpoint, and make the recipe."""
        ...


Kind = Literal["pre-training", "fine-tuning"]


def kind_of(recipe: "Recipe") -> Kind:
    """Return whether a recipe is pre-training or fine-tuning."""
    return "pre-training" if recipe.model.start is None else "fine-tuning"


@dataclass(frozen=True)
class TrainingRequest:
    """A training that a command or a call requests: from random weights by a recipe, or from a checkpoint by a recipe or its data.

    `words`: key=value, including those of `model.from` and `data.train`; STAGE.key=value for a recipe with stages. `checkpoint`: the value
    of `model.from`, if `words` sets it. `is_named`: the user named this recipe in this command, so that its code may be run; it
    does not come from the folder of an earlier one. `unwritten`: the recipe that is made, where there is no source.
    """

    kind: Kind
    source: RecipeText | None
    words: Sequence[str] = ()
    checkpoint: str | None = None
    is_named: bool = False
    unwritten: RecipeFromData | None = None

    @property
    def given(self) -> Given:
        """The part of the request that run.json keeps."""
        return Given(self.source, tuple(self.words))

    def beginning(self) -> Beginning:
        """Return the checked recipe and its inputs. Raises UsageError."""
        if self.kind == "fine-tuning":
            return finetuning(self.source, self.words, self.checkpoint, self.unwritten)
        assert self.source is not None
        return pretraining(self.source, self.words)


def pretraining(source: RecipeText, words: Sequence[str]) -> Beginning:
    """Return the beginning of a training from random weights; `words` are key=value. Raises UsageError."""
    recipe, document = source.changed(words)
    if recipe.model.start is not None:
        raise UsageError(f"{source.path}: model.from: pretraining starts from random weights; `tfkit finetune` starts from a checkpoint")
    require_trainable(recipe)
    decided = Decided(recipe, document, source.comment)
    return Beginning(lambda _: decided, recipe_inputs(recipe, source.path), recipe)


def finetuning(
    source: RecipeText | None, words: Sequence[str], checkpoint: str | None, unwritten: RecipeFromData | None = None
) -> Beginning:
    """Return the beginning of a training from a checkpoint; the arguments are those of TrainingRequest. Raises UsageError."""
    if checkpoint is not None:
        complete_killed_run(checkpoint)
    if source is None:
        assert unwritten is not None
        return Beginning(unwritten.decide, unwritten.inputs)
    recipe, document = source.changed(words)
    if recipe.model.start is None:
        raise UsageError(f"{source.path}: which checkpoint? Give --from CKPT, or model: {{from: CKPT}} in the recipe")
    require_trainable(recipe)
    decided, inputs = Decided(recipe, document, source.comment), recipe_inputs(recipe, source.path)
    if checkpoint is not None and recipe.model.sha256 is not None:
        return Beginning(lambda listener: _with_checkpoint(checkpoint, source, decided, words, listener), inputs, recipe)
    return Beginning(lambda _: decided, inputs, recipe)


def require_trainable(recipe: "Recipe") -> None:
    """Raise UsageError for an objective that only judges, and for an unknown place."""
    from tfkit.carbon import resolve_place

    if recipe.objective.scored_by == "likelihood":
        raise judges_only(recipe.objective)
    resolve_place(recipe.carbon)


def _with_checkpoint(checkpoint: str, source: RecipeText, decided: Decided, words: Sequence[str], listener: Listener) -> Decided:
    """Return a run's resolved recipe with another checkpoint, to which its description of the model does not apply, except dropout."""
    from tfkit.hub import content_hash, find_checkpoint
    from tfkit.recipe.reading.read import read_document

    if content_hash(find_checkpoint(checkpoint)) == decided.recipe.model.sha256:
        return decided
    own = source.read()
    document = recipe_document(own, None)
    document["model"] = {"from": checkpoint} | {name: value for name, value in own.model.changes.items() if name == "dropout"}
    listener.say(f"{source.path}: was run from {own.model.start}; of its section model, only dropout is used for {checkpoint}")
    return Decided(*read_document(document, str(source.path), words))
