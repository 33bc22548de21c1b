"""The request for a training: a recipe with overrides, or data and a checkpoint from which a recipe is made."""

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
    """Makes a recipe, or the fields that a written recipe leaves open, from data and a checkpoint (engine/recognition)."""

    @property
    def run_name(self) -> str:
        """The name of the run for which the recipe is made."""

    @property
    def inputs(self) -> Inputs:
        """The data and the checkpoint from which the recipe is made. Raises UsageError if the command does not name them."""

    def decide(self, listener: Listener, /) -> ResolvedRecipe:
        """Read the data and the checkpoint, and make or complete the recipe."""


TrainingKind = Literal["pre-training", "fine-tuning"]


def kind_of(recipe: Recipe) -> TrainingKind:
    """Return the kind of a recipe: fine-tuning if its model starts from a checkpoint, else pre-training."""
    return "pre-training" if recipe.model.start is None else "fine-tuning"


@dataclass(frozen=True)
class RequestRecord:
    """The recipe (None: there is none) and the overrides of a run, as the user gave them.

    run.json has this record, because only a comparison with it shows what a later command changes: an edited recipe or a different
    override is a change, but an override that is merely not repeated is none.
    """

    recipe: RecipeText | None
    overrides: Overrides

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """Return the record from the dict that its method `document` makes; None for any other value, such as that of an older version."""
        if not isinstance(document, dict) or document.keys() != {"recipe", "text", "overrides"}:
            return None
        recipe, text, overrides = document["recipe"], document["text"], document["overrides"]
        if not isinstance(overrides, dict):
            return None
        if isinstance(recipe, str) and isinstance(text, str):
            return cls(RecipeText(Path(recipe), text), overrides)
        return cls(None, overrides) if recipe is None and text is None else None

    def document(self) -> dict[str, Any]:
        """Return the record in the form that run.json has: the recipe's path and text, and the overrides."""
        path, text = (str(self.recipe.path), self.recipe.text) if self.recipe else (None, None)
        return {"recipe": path, "text": text, "overrides": dict(self.overrides)}

    def sha256(self) -> str:
        """Return a hash of the recipe's text and the overrides, by which ranks check that all have the same request."""
        text = json.dumps([self.recipe.text if self.recipe else None, dict(self.overrides)])
        return hashlib.sha256(text.encode()).hexdigest()

    def with_decided(self, decided: Overrides) -> "RequestRecord":
        """Return the record with the fields that were decided when the run began, so that a later command does not decide them again."""
        return RequestRecord(self.recipe, followed_by(self.overrides, decided))


@dataclass(frozen=True)
class TrainingRequest:
    """The training that a command or a call requests."""

    kind: TrainingKind | None  # None: either kind, as the recipe says
    source: RecipeText | None  # the recipe; None: `unwritten` makes one
    overrides: Overrides = field(default_factory=dict)  # including the named checkpoint and data; a stage's fields begin with its name
    is_named: bool = False  # whether the user named the recipe in this command, so that its code files may be run
    unwritten: RecipeFromData | None = None  # makes the recipe, or those fields of `source` that depend on the size of the data

    @property
    def given(self) -> RequestRecord:
        """The part of the request that is recorded in run.json."""
        return RequestRecord(self.source, self.overrides)

    @property
    def has_stages(self) -> bool:
        """Whether the recipe has stages, which chains/stages.py runs."""
        return self.source is not None and self.source.has_stages

    @property
    def run_name(self) -> str:
        """The default name of the run and its folder. Raises UsageError if neither a recipe nor data are named."""
        if self.source is not None:
            return self.source.name
        assert self.unwritten is not None
        return self.unwritten.run_name

    @cached_property
    def written(self) -> ResolvedRecipe | None:
        """The checked recipe of `source` with the overrides; None: there is no source. Raises UsageError if the recipe is invalid."""
        return self.source.resolve(self.overrides) if self.source is not None else None

    @property
    def inputs(self) -> Inputs:
        """The files, data and models that the training reads. Raises UsageError if the recipe is invalid, or no data are named."""
        if self.written is not None:
            return recipe_inputs(self.written.recipe, self.written.path)
        assert self.unwritten is not None
        return self.unwritten.inputs

    def check(self) -> Recipe | None:
        """Check the request, and return its recipe; None if the recipe will be made from the data, which are not read here.

        If the training starts from a run that was killed, the run.json of that run is completed. Raises UsageError if the recipe is
        invalid, or if it is of another kind than the request.
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
        """Return the recipe; `unwritten`, if there is one, makes or completes it from the data. A training locks its run folder first.

        Raises UsageError if no recipe fits the data, and DataError if the data cannot be read.
        """
        if self.unwritten is not None:
            return self.unwritten.decide(listener)
        assert self.source is not None
        assert self.written is not None
        if "model.from" in self.overrides and self.written.recipe.model.sha256 is not None:
            return _with_checkpoint(self.source, self.written, self.overrides, listener)
        return self.written


def require_trainable(recipe: Recipe) -> None:
    """Raise UsageError if a recipe's objective only evaluates finished models, or if its section `carbon` names an unknown place."""
    if recipe.objective.scored_by == "likelihood":
        raise judges_only(recipe.objective)
    resolve_place(recipe.carbon)


def _with_checkpoint(source: RecipeText, decided: ResolvedRecipe, overrides: Overrides, listener: Listener) -> ResolvedRecipe:
    """Return a run's recipe with the checkpoint in `overrides`. If the run itself had another checkpoint, only dropout is taken from
    its model section, because the other fields describe the checkpoint of the run.
    """
    from tfkit.hub import content_hash, find_checkpoint

    checkpoint = overrides["model.from"]
    if content_hash(find_checkpoint(checkpoint)) == decided.recipe.model.sha256:
        return decided
    own = source.read()
    document = recipe_document(own, None)
    document["model"] = {"from": checkpoint} | {name: value for name, value in own.model.changes.items() if name == "dropout"}
    listener.say(f"{source.path}: was run from {own.model.start}; of its section model, only dropout is used for {checkpoint}")
    return read_document(document, str(source.path), overrides)
