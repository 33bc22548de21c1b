"""The request for a run: a recipe as written with its changes, or as decided from the data and the model. Torch-free."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from tfkit.carbon import resolve_place
from tfkit.engine.listener import Listener
from tfkit.engine.request.inputs import Inputs, recipe_inputs
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.errors import UsageError, argument
from tfkit.recipe import RecipeText, ResolvedRecipe
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.reading.overrides import Overrides, followed_by
from tfkit.recipe.reading.read import read_document
from tfkit.recipe.schema.objective_facts import judges_only
from tfkit.recipe.schema.sections import Recipe


class RecipeFromData(Protocol):
    """Makes a recipe, or the fields that a written one leaves open, from the data and the checkpoint (engine/recognition)."""

    @property
    def run_name(self) -> str:
        """The name of the run that the recipe is for."""
        ...

    @property
    def inputs(self) -> Inputs:
        """The files and the checkpoint that the recipe is made from. Raises UsageError if the command does not name them."""
        ...

    def decide(self, listener: Listener, /) -> ResolvedRecipe:
        """Read the data and the checkpoint, and make the recipe."""
        ...


TrainingKind = Literal["pre-training", "fine-tuning"]


def kind_of(recipe: Recipe) -> TrainingKind:
    """Return whether a recipe is pre-training or fine-tuning."""
    return "pre-training" if recipe.model.start is None else "fine-tuning"


@dataclass(frozen=True)
class RequestRecord:
    """The recipe of a run as it was given, and its overrides; without a recipe, the overrides alone.

    run.json keeps this record, since only it shows what a resumed command changes: an edit of the file or a different override is a
    change, an override that is left out the second time is not.
    """

    recipe: RecipeText | None
    overrides: Overrides

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """Read the result of `document`; None for anything else, as in run.json of an older version."""
        if not isinstance(document, dict) or document.keys() != {"recipe", "text", "overrides"}:
            return None
        recipe, text, overrides = document["recipe"], document["text"], document["overrides"]
        if not isinstance(overrides, dict):
            return None
        if isinstance(recipe, str) and isinstance(text, str):
            return cls(RecipeText(Path(recipe), text), overrides)
        return cls(None, overrides) if recipe is None and text is None else None

    def document(self) -> dict[str, Any]:
        """Return the record as run.json holds it: the recipe's path and text, and the overrides."""
        path, text = (str(self.recipe.path), self.recipe.text) if self.recipe else (None, None)
        return {"recipe": path, "text": text, "overrides": dict(self.overrides)}

    def sha256(self) -> str:
        """Return a hash that is the same for all ranks with the same recipe and overrides."""
        text = json.dumps([self.recipe.text if self.recipe else None, dict(self.overrides)])
        return hashlib.sha256(text.encode()).hexdigest()

    def with_decided(self, decided: Overrides) -> "RequestRecord":
        """Return the record with what was decided when the run began, which a later request does not decide again."""
        return RequestRecord(self.recipe, followed_by(self.overrides, decided))


@dataclass(frozen=True)
class TrainingRequest:
    """A training that a command or a call requests: from random weights by a recipe, or from a checkpoint by a recipe or its data.

    `kind`: None if the recipe decides it. `overrides` include those of `model.from` and `data.train`; in a recipe with stages each begins
    with a stage's name. `is_named`: the user named this recipe in this command, so that its code may be run; the recipe was not read from
    a run folder. `unwritten`: makes from the data the whole recipe, if there is no `source`, or the fields that depend on the amount of
    data.
    """

    kind: TrainingKind | None
    source: RecipeText | None
    overrides: Overrides = field(default_factory=dict)
    is_named: bool = False
    unwritten: RecipeFromData | None = None

    @property
    def given(self) -> RequestRecord:
        """The part of the request that run.json keeps."""
        return RequestRecord(self.source, self.overrides)

    @property
    def has_stages(self) -> bool:
        """Whether the request is for a recipe with stages, a chain of trainings (chains/stages.py)."""
        return self.source is not None and self.source.has_stages

    @property
    def run_name(self) -> str:
        """The name of the run, and of its folder if the command gives none. Raises UsageError without a recipe and data."""
        if self.source is not None:
            return self.source.name
        assert self.unwritten is not None
        return self.unwritten.run_name

    @cached_property
    def written(self) -> ResolvedRecipe | None:
        """The recipe as it is written, with the overrides; None: there is none. Raises UsageError."""
        return self.source.resolve(self.overrides) if self.source is not None else None

    @property
    def inputs(self) -> Inputs:
        """The files, the data and the models that the training reads. Raises UsageError."""
        if self.written is not None:
            return recipe_inputs(self.written.recipe, self.written.path)
        assert self.unwritten is not None
        return self.unwritten.inputs

    def check(self) -> Recipe | None:
        """Check the request, and return its recipe; None: it is yet to be made from the data, which are not read here. Raises UsageError.

        The run.json of a killed run from which the training starts is completed.
        """
        if self.written is None:
            for model in self.inputs.models:
                finalize_killed_run(model)
            return None
        recipe, path = self.written.recipe, self.written.path
        start = recipe.model.start
        if start is not None and self.kind == "pre-training":
            raise UsageError(f"{path}: model.from: pretraining starts from random weights; `tfkit finetune` starts from a checkpoint")
        if start is None and self.kind == "fine-tuning":
            raise UsageError(f"{path}: which checkpoint? Give {argument('start', 'CKPT')}, or model: {{from: CKPT}} in the recipe")
        if start is not None:
            finalize_killed_run(start)
        require_trainable(recipe)
        return recipe

    def decide(self, listener: Listener) -> ResolvedRecipe:
        """Return the recipe; what is unwritten is made from the data. The run folder is locked by now. Raises UsageError and DataError."""
        if self.unwritten is not None:
            return self.unwritten.decide(listener)
        assert self.source is not None
        assert self.written is not None
        if "model.from" in self.overrides and self.written.recipe.model.sha256 is not None:
            return _with_checkpoint(self.source, self.written, self.overrides, listener)
        return self.written


def require_trainable(recipe: Recipe) -> None:
    """Raise UsageError for a recipe whose objective only judges finished models, or whose section carbon names an unknown place."""
    if recipe.objective.scored_by == "likelihood":
        raise judges_only(recipe.objective)
    resolve_place(recipe.carbon)


def _with_checkpoint(source: RecipeText, decided: ResolvedRecipe, overrides: Overrides, listener: Listener) -> ResolvedRecipe:
    """Return a run's resolved recipe with another checkpoint: of the recipe's own changes to the model, only dropout is kept."""
    from tfkit.hub import content_hash, find_checkpoint

    checkpoint = overrides["model.from"]
    if content_hash(find_checkpoint(checkpoint)) == decided.recipe.model.sha256:
        return decided
    own = source.read()
    document = recipe_document(own, None)
    document["model"] = {"from": checkpoint} | {name: value for name, value in own.model.changes.items() if name == "dropout"}
    listener.say(f"{source.path}: was run from {own.model.start}; of its section model, only dropout is used for {checkpoint}")
    return read_document(document, str(source.path), overrides)
