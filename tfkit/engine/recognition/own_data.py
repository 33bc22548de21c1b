"""Training on data that the command names: the fields that the user does not set are decided from the data.

For a training from random weights, the decided fields are those that depend on the number of tokens (recipe/pretraining_sizes.py), in the
user's recipe or in that of a small decoder. For a training from a checkpoint without a recipe, all fields are decided.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfkit.engine.listener import Listener
from tfkit.engine.request.inputs import Inputs, inputs_of
from tfkit.engine.request.training_request import RecipeFromData, TrainingKind, TrainingRequest, kind_of
from tfkit.errors import UsageError, argument
from tfkit.recipe import RecipeError, RecipeText, ResolvedRecipe
from tfkit.recipe.dump import comment_of
from tfkit.recipe.pretraining_sizes import SMALL_DECODER, TextSize, decide_sizes
from tfkit.recipe.reading import tree
from tfkit.recipe.reading.overrides import LENGTH, NO_OVERRIDES, Overrides, followed_by, given_sections, within_sections
from tfkit.recipe.reading.read import slug
from tfkit.recipe.reading.validate import problems_in
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.starting_points import ENOUGH_CHARACTERS, HELD_OUT
from tfkit.run.checkpoints import step_folders


@dataclass(frozen=True)
class UnwrittenRecipe:
    """The recipe of a fine-tuning for which the user names only data and a checkpoint, as overrides; `decide` makes it.

    The properties raise UsageError if the data or the checkpoint is not named.
    """

    overrides: Overrides

    @cached_property
    def given(self) -> dict[str, Any]:
        """The overrides as an incomplete recipe."""
        given = given_sections(self.overrides)
        if "data" in self.overrides:
            given.get("data", {}).setdefault("validation", None)  # an override of the whole section decides about validation, too
        return given

    @cached_property
    def source(self) -> SourceSection:
        """The first source of data.train, from whose rows the recipe is decided."""
        sources = self.given.get("data", {}).get("train")
        if not (isinstance(sources, list) and sources):
            raise UsageError(f"what should be learned? Give a RECIPE, or {argument('data', 'F')}")
        return _source(sources[0], ("data", "train", 0))

    @cached_property
    def start(self) -> str:
        """The checkpoint to start from."""
        start = self.given.get("model", {}).get("from")
        if not isinstance(start, str):
            raise UsageError(f"which checkpoint? Give {argument('start', 'CKPT')}")
        return start

    @property
    def data_name(self) -> str:
        """The name of the data: the last part of their path, or of their name on the Hub."""
        return _data_name(self.source)

    @property
    def run_name(self) -> str:
        """The name of the run, made from the names of the checkpoint and the data."""
        return slug(f"{_model_name(self.start)}-{self.data_name}")

    @property
    def sources(self) -> list[SourceSection]:
        """The first source of training data, and the sources of validation data."""
        first, held_out = self.source, self.given["data"].get("validation")
        named = enumerate(held_out if isinstance(held_out, list) else [])
        return [first, *(_source(values, ("data", "validation", number)) for number, values in named)]

    @property
    def inputs(self) -> Inputs:
        """The named data and checkpoint, which outputs must not replace."""
        return inputs_of([], self.sources, [self.start])

    def decide(self, _listener: Listener) -> ResolvedRecipe:
        """Make the recipe. Raises UsageError if no task fits, and DataError or ModelError if the data or the checkpoint cannot be read."""
        from tfkit.engine.recognition.decided_recipe import decide_recipe  # this imports torch

        return decide_recipe(self.source, self.start, self.overrides, self.given)


def _source(values: Any, path: tree.Path) -> SourceSection:
    try:
        return SourceSection.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise RecipeError(problems_in(error, SourceSection, values, tree.Mapping(tree.OVERRIDES), path)) from None


def _model_name(start: str) -> str:
    """Return the last part of a checkpoint's name, without its Hub revision; for a checkpoint in a run folder, the name of that folder."""
    path = Path(start.removeprefix("hub:").partition("@")[0])
    if path.parent.name == "checkpoints" and path in step_folders(path.parent):
        path = path.resolve().parent.parent
    return path.name or path.resolve().name


def _data_name(section: SourceSection) -> str:
    """Return the last part of a source's name; for a file, without its suffixes."""
    from tfkit.data.formats.suffixes import stem_of  # this imports all modules of tfkit.data, which takes time

    if section.path is None:
        return Path(section.hub).name if section.hub is not None else str(section.stdlib)
    path = Path(section.path)
    return path.resolve().name if path.is_dir() else stem_of(path)


_WORDS, _CHARACTERS = 3, 30  # the most words and characters of TextSize.beginning, the prompt of the run's samples


def tuning_overrides(
    overrides: Overrides,
    source: RecipeText | None,
    start: str | None,
    data: str | None,
    columns: Mapping[str, Any] = NO_OVERRIDES,
    rows: int | None = None,
) -> dict[str, Any]:
    """Return the overrides together with those for the checkpoint `start`, the `data`, their `columns` and the number of `rows` to draw. In
    a recipe with stages, the added overrides apply to the first stage.

    If the recipe has validation sources or starts from random weights, a part of `data` is held out for validation, and replaces the
    recipe's data.validation; but overrides of data.validation are kept.
    """
    fields = source.fields() if source is not None and (start or data or columns or rows) else {}
    stage = f"{next(iter(fields), '').partition('.')[0]}." if source is not None and source.has_stages else ""
    # The override of data.train comes first, because that of data.train.0.columns applies to a source in it.
    named: dict[str, Any] = {} if data is None else {f"{stage}data.train": [{"path": data}]}
    is_new = source is not None and start is None and not {f"{stage}model.from", f"{stage}model"} & {*fields, *overrides}
    replaces = is_new or isinstance(fields.get(f"{stage}data.validation"), list)
    has_own = any(name == f"{stage}data" or f"{name}.".startswith(f"{stage}data.validation.") for name in overrides)
    if named and replaces and not has_own:
        named[f"{stage}data.validation"] = HELD_OUT
    named |= {f"{stage}data.train.0.columns": dict(columns)} if columns else {}
    named |= {} if rows is None else {f"{stage}data.rows": rows}
    base = {} if start is None else {f"{stage}model.from": start}
    return followed_by(within_sections(named, overrides), base)


def with_length(overrides: Overrides, source: RecipeText | None, tokens: int | None, minutes: float | None) -> Overrides:
    """Return the overrides with the length in `tokens`; in a recipe with stages, it is the length of the first stage.

    A length in `minutes` is only checked here: a forecast turns it into steps once the data are prepared (fit_length). Raises UsageError
    for more than one length, for `minutes` that are not a positive number, and for `minutes` of a recipe with stages.
    """
    if tokens is None and minutes is None:
        return overrides
    if minutes is not None and not (isinstance(minutes, Real) and 0 < minutes < math.inf):
        raise UsageError(f"{argument('minutes', minutes)}: give a number of minutes above 0")
    stages = [*dict.fromkeys(name.partition(".")[0] for name in source.fields())] if source is not None and source.has_stages else []
    lengths = [argument(name) for name, value in (("tokens", tokens), ("minutes", minutes)) if value is not None]
    own = [".".join([*stages[:1], unit]) for unit in LENGTH]
    if (named := [name for name in overrides if name in own]) or len(lengths) > 1:
        raise UsageError(f"{' and '.join([*lengths, *named])}: two lengths of one training; keep one")
    if minutes is not None and stages:
        raise UsageError(
            f"{argument('minutes')}: a recipe with stages has a length for each; give {stages[0]}.training.steps or {argument('tokens')}"
        )
    return overrides if tokens is None else followed_by(overrides, {".".join([*stages[:1], "training.tokens"]): tokens})


def training_request(
    kind: TrainingKind | None,
    source: RecipeText | None,
    overrides: Overrides,
    start: str | None,
    data: str | None,
    columns: Mapping[str, Any] = NO_OVERRIDES,
    minutes: float | None = None,
    rows: int | None = None,
) -> TrainingRequest:
    """Return the request for a training. `start`, `data`, `columns`, `rows`: as the user gave them; `minutes`: the length of the training.

    Raises UsageError if a recipe that is to be completed from the data is invalid, or does not fit the overrides.
    """
    changes = tuning_overrides(overrides, source, start, data, columns, rows)
    unwritten: RecipeFromData | None
    named = UnwrittenRecipe(changes)
    is_new = kind == "pre-training" or (kind is None and start is None)
    if source is None:
        unwritten = OwnData(None, named, minutes) if is_new else named
    else:
        is_sized = is_new and data is not None and not source.has_stages and kind_of(source.read(changes)) == "pre-training"
        unwritten = OwnData(source, named, minutes) if is_sized else None
    return TrainingRequest(kind, source, changes, is_named=True, unwritten=unwritten)


@dataclass(frozen=True)
class OwnData:
    """A pretraining on data that the command names; `decide` completes the user's recipe, or that of a small decoder."""

    source: RecipeText | None  # the user's recipe; None: that of a small decoder
    named: UnwrittenRecipe  # the overrides that name the data
    minutes: float | None = None  # the length of the training as a time; None: in steps, epochs or tokens

    @property
    def run_name(self) -> str:
        """The name of the run, which is that of the data."""
        return slug(self.named.data_name)

    @property
    def inputs(self) -> Inputs:
        """The named data. Raises UsageError if no data are named."""
        return inputs_of([], self.named.sources, [])

    def decide(self, listener: Listener) -> ResolvedRecipe:
        """Read the data, and return the recipe with the fields that follow from the number of rows and characters. Raises UsageError if
        the recipe is invalid, and DataError if the data cannot be read.
        """
        source, overrides = self.source or RecipeText(Path("the recipe of a small decoder"), SMALL_DECODER), self.named.overrides
        text = _size_of(recipe := source.read(overrides))
        sizes = decide_sizes(recipe, source.fields().get("training.steps"), text, overrides, self.minutes, grows=self.source is None)
        decided = replace(source.resolve(followed_by(overrides, sizes.fields)), decided=sizes.fields)
        model = f"The recipe {source.name}" if self.source is not None else "A small decoder"
        lines = [f"{model} from random weights, for {self.named.data_name}."]
        if isinstance(held_out := decided.recipe.data.validation, float):
            lines.append(f"{held_out:.0%} of the text is held out, or the files called valid are, to choose the best checkpoint")
        timed = [f"training.steps follows from the time of a few steps, for {self.minutes:g} minutes"] if self.minutes is not None else []
        comment = comment_of([*lines, *sizes.reasons, *timed])
        if self.source is not None:
            listener.decided(comment)
        return replace(decided, source=RecipeText(source.path, f"{comment}# Saved as a file, this is a recipe: tfkit pretrain FILE\n"))


def _size_of(recipe: Recipe) -> TextSize:
    """Count the rows and characters of the training data, up to ENOUGH_CHARACTERS, after which a larger count would change no decision.

    Raises DataError if the data cannot be read, or if there are no characters.
    """
    from tfkit.data.sources.open_sources import training_sources
    from tfkit.data.store.example_sets import no_rows

    rows = characters = 0
    beginning = ""
    sources = training_sources(recipe.data, recipe.objective.roles, recipe.training.seed)
    for source in sources:
        for row in source.rows():
            rows += 1
            characters += len(row.text) or sum(len(str(value)) for value in row.values.values())
            beginning = beginning or " ".join(row.text[:1000].split()[:_WORDS])[:_CHARACTERS]
            if characters >= ENOUGH_CHARACTERS:
                return TextSize(rows, characters, False, beginning)
    if not characters:
        raise no_rows(sources[0])
    return TextSize(rows, characters, True, beginning)
