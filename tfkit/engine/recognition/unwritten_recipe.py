"""A fine-tuning without a recipe: the data and the checkpoint that its command names, from which a recipe is made. Torch-free."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfkit.engine.listener import Listener
from tfkit.engine.request.inputs import Inputs, inputs_of
from tfkit.errors import UsageError, argument
from tfkit.recipe import RecipeError, ResolvedRecipe
from tfkit.recipe.reading.overrides import Overrides, given_sections
from tfkit.recipe.reading.read import slug
from tfkit.recipe.reading.tree import OVERRIDES, Mapping
from tfkit.recipe.reading.validate import problems_in
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.run.checkpoints import step_folders


@dataclass(frozen=True)
class UnwrittenRecipe:
    """The recipe of a fine-tuning that names data and a checkpoint only, in its overrides.

    They are checked when something asks for them, the data are read by `decide`. Raises UsageError if one is missing.
    """

    overrides: Overrides

    @cached_property
    def given(self) -> dict[str, Any]:
        """The overrides as an incomplete recipe."""
        given = given_sections(self.overrides)
        if "data" in self.overrides:
            given.get("data", {}).setdefault("validation", None)  # a whole section replaces the decided one, with its held-out rows
        return given

    @cached_property
    def source(self) -> SourceSection:
        """The first of the data to learn from."""
        sources = self.given.get("data", {}).get("train")
        if not (isinstance(sources, list) and sources):
            raise UsageError(f"what should be learned? Give a RECIPE, or {argument('data', 'F')}")
        return _source(sources[0])

    @cached_property
    def start(self) -> str:
        """The checkpoint to start from."""
        start = self.given.get("model", {}).get("from")
        if not isinstance(start, str):
            raise UsageError(f"which checkpoint? Give {argument('start', 'CKPT')}")
        return start

    @property
    def data_name(self) -> str:
        """The name of the data."""
        return _data_name(self.source)

    @property
    def run_name(self) -> str:
        """The name of the run, from those of the checkpoint and the data."""
        return slug(f"{_model_name(self.start)}-{self.data_name}")

    @property
    def sources(self) -> list[SourceSection]:
        """The data to learn from, and those to validate on."""
        first, held_out = self.source, self.given["data"].get("validation")
        return [first, *map(_source, held_out if isinstance(held_out, list) else [])]

    @property
    def inputs(self) -> Inputs:
        """The inputs that the command line names."""
        return inputs_of([], self.sources, [self.start])

    def decide(self, _listener: Listener) -> ResolvedRecipe:
        """Make the recipe for this data and model. Raises UsageError if no task fits, DataError and ModelError."""
        from tfkit.engine.recognition.decided_recipe import decide_recipe  # which imports torch

        return decide_recipe(self.source, self.start, self.overrides, self.given)


def _source(values: Any) -> SourceSection:
    try:
        return SourceSection.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise RecipeError(problems_in(error, SourceSection, values, Mapping(OVERRIDES), ("data", "train", 0))) from None


def _model_name(start: str) -> str:
    """Return the last part of a checkpoint's name, without a revision; for a checkpoint of a run, the run's name."""
    path = Path(start.removeprefix("hub:").partition("@")[0])
    if path.parent.name == "checkpoints" and path in step_folders(path.parent):
        path = path.resolve().parent.parent
    return path.name or path.resolve().name


def _data_name(section: SourceSection) -> str:
    """Return the last part of a source's name, for a file without its suffixes."""
    from tfkit.data.formats.suffixes import stem_of  # which imports all of data

    if section.path is None:
        return Path(section.hub).name if section.hub is not None else str(section.stdlib)
    path = Path(section.path)
    return path.resolve().name if path.is_dir() else stem_of(path)
