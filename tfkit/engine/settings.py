"""The settings of evaluate and generate: from a recipe, from the run that made the checkpoint, and from key=value."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tfkit.engine.inputs import Inputs, inputs_of, sections_of
from tfkit.errors import UsageError
from tfkit.model.config import Data
from tfkit.recipe import RecipeError, RecipeText, open_recipe
from tfkit.recipe.reading.overrides import apply_overrides
from tfkit.recipe.reading.read import recipe_of
from tfkit.recipe.reading.tree import COMMAND_LINE, Mapping, plain
from tfkit.recipe.reading.validate import problems_in
from tfkit.recipe.schema.data_sections import DataSection, ValidationSets
from tfkit.recipe.schema.sections import CarbonSection, EvaluationSection, GenerationSection, Recipe

PROMPTS_AT_ONCE = 16  # which generate continues together


@dataclass(frozen=True)
class Settings:
    """The sections of a recipe that do not train."""

    data: DataSection | None  # None: no recipe, and no texts were given
    evaluation: EvaluationSection
    generation: GenerationSection
    carbon: CarbonSection
    recipe: Recipe | None = None  # the whole, where there is one
    path: Path | None = None  # the file that it was read from


class _Texts(Data):
    """The data section where there is no recipe: only what to score."""

    validation: ValidationSets | None = None
    on_bad_row: Literal["error", "skip"] = "error"


class _Sections(Data):
    data: _Texts = _Texts()
    evaluation: EvaluationSection = EvaluationSection()
    generation: GenerationSection = GenerationSection()
    carbon: CarbonSection = CarbonSection()


def settings_inputs(settings: Settings, *models: str | Path) -> Inputs:
    """Return the inputs of a command with these settings, and these models."""
    files = [settings.path] if settings.path is not None else []
    return inputs_of(files, sections_of(settings.data) if settings.data is not None else [], models)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plain words of a command line, and its key=value, which may come without any word before. A path may hold "=" after a slash."""
    overrides = [argument for argument in arguments if "=" in argument.partition("/")[0]]
    return [argument for argument in arguments if argument not in overrides], overrides


def quoted(text: str) -> str:
    """A text as a value in key=value, whatever it holds."""
    return json.dumps(text, ensure_ascii=False)  # YAML reads JSON's strings, except that it knows no pairs of surrogates


def read_settings(
    recipe: RecipeText | None, checkpoint: Path, overrides: Sequence[str], sections: Collection[str], scored: str | None = None
) -> Settings:
    """The settings of the recipe, else of the run that the checkpoint belongs to, else the defaults; overrides win.

    `scored`: a file, folder or glob in place of data.validation. Where no recipe is, an override of `objective` makes one for the
    checkpoint. Raises UsageError, also for an override of another section than `sections`: the command would not read it.
    """
    names = [override.partition("=")[0].strip() for override in overrides]
    for name in names:
        if name.partition(".")[0] not in sections:
            raise UsageError(f"command line: {name}: this command reads only the sections {', '.join(sections)}")
    if scored is not None:  # before the others, so that data.validation.0.text=... can name the column
        overrides = [f"data.validation=[{{path: {quoted(scored)}}}]", *overrides]
    source = recipe or _saved_recipe(checkpoint)
    other_objective = any(name.partition(".")[0] == "objective" for name in names)
    if source is None and not other_objective:
        return _without_recipe(overrides)
    if recipe is None and other_objective:
        overrides = [*_defaults_of_other_objectives(), *overrides]
    if source is not None:
        found = source.read(overrides)
        if scored is not None:
            found = found.model_copy(update={"data": _read_as_trained(found.data, scored)})
    else:  # evaluate trains nothing, so what is trained on, and how long, may be anything
        found = recipe_of([f"model.from={quoted(str(checkpoint))}", "data.train=[{path: nothing}]", "training.steps=1", *overrides])
    return Settings(found.data, found.evaluation, found.generation, found.carbon, found, source.path if source is not None else None)


def _defaults_of_other_objectives() -> list[str]:
    """Overrides that undo what the run's own recipe says for its objective alone, where another one judges its checkpoint."""
    evaluation, data = EvaluationSection.model_fields, DataSection.model_fields
    fields = {f"evaluation.{name}": evaluation[name] for name in ("metric", "text_metrics")}
    fields |= {f"data.{name}": data[name] for name in ("max_lost", "length_groups")}
    return [f"{name}={json.dumps(field.default)}" for name, field in fields.items()]


def _without_recipe(overrides: Sequence[str]) -> Settings:
    """The defaults, and what the overrides say."""
    tree = Mapping(COMMAND_LINE)
    problems = apply_overrides(tree, overrides)
    data = plain(tree)
    try:
        given = _Sections.model_validate_json(json.dumps(data), strict=True)  # as read_recipe does
    except ValidationError as error:
        problems += problems_in(error, _Sections, data, tree)
    if problems:
        raise RecipeError(problems)
    texts = given.data.validation
    scored = DataSection(train=texts, validation=texts, on_bad_row=given.data.on_bad_row) if texts else None
    return Settings(scored, given.evaluation, given.generation, given.carbon)


def _read_as_trained(data: DataSection, path: str) -> DataSection:
    """The columns of data.train's first source hold for the one that is scored in place of data.validation, unless it names its own.

    So do the settings of files without a header, if it is such a file, too.
    """
    trained, sets = data.train[0], data.validation
    if not isinstance(sets, list) or not sets or sets[0].path != path:
        return data  # an override has put others in its place
    [scored, *others] = sets
    update: dict[str, object] = {}
    if not scored.columns and scored.text is None:
        update |= {"columns": trained.columns, "text": trained.text}
    alike = scored.path and trained.path and Path(scored.path).suffix == Path(trained.path).suffix
    if alike and scored.format is None and scored.header is None:
        update |= {"format": trained.format, "header": trained.header}
    return data.model_copy(update={"validation": [scored.model_copy(update=update), *others]})


def _saved_recipe(checkpoint: Path) -> RecipeText | None:
    """The recipe.yaml of the run folder that holds a checkpoint, if it is in one."""
    folder = checkpoint.resolve().parent
    saved = folder.parent / "recipe.yaml"
    return open_recipe(str(saved)) if folder.name == "checkpoints" and saved.is_file() else None
