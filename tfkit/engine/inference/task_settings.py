"""The settings with which a checkpoint is evaluated or asked: those of its run, else with the objective that its files name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.engine.request.evaluation_settings import EvaluationSettings, read_settings
from tfkit.errors import ModelError
from tfkit.model.config import ModelConfig
from tfkit.recipe import RecipeText
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.schema.objective_facts import OWN_HEADS, SECTIONS, ObjectiveSection

if TYPE_CHECKING:
    from tfkit.hub import Described

_SECTIONS = ("data", "objective", "evaluation", "generation", "carbon")


def read_task_settings(
    recipe: RecipeText | None, folder: Path, overrides: Overrides, data: str | None, *, scores_texts: bool = False
) -> EvaluationSettings:
    """Return the settings as `read_settings` does; without a recipe, with the objective that the model was trained for.

    `scores_texts`: a decoder without another head is scored on texts, also if it has a chat template.

    Raises UsageError, or ModelError if the files of the model do not show its task.
    """
    settings = read_settings(recipe, folder, overrides, _SECTIONS, data)
    if settings.has_recipe or any(name.partition(".")[0] == "objective" for name in overrides):
        return settings
    from tfkit.adapters import describe

    model = describe(folder)
    if scores_texts and model.config.stacks == "decoder" and model.config.head.kind == "lm":
        return settings
    named = {f"objective.{name}": value for name, value in infer_objective(model).items()}
    return read_settings(recipe, folder, {**named, **overrides}, _SECTIONS, data)


def infer_objective(model: "Described") -> Mapping[str, Any]:
    """Return the section of the objective of labelled rows that a model was trained for, by its files alone. Raise ModelError if none fits.

    It is the one that tfkit.json names, else the one with the model's head and problem type.
    """
    kinds = [kind for kind, section in SECTIONS.items() if _reads_rows(section) and _fits(section, model)]
    if not kinds:
        head = _head(model.config)
        if unfit := [kind for kind, section in SECTIONS.items() if _reads_rows(section) and section.head == head in OWN_HEADS]:
            section = SECTIONS[unfit[0]].model_validate({"kind": unfit[0]})
            raise ModelError(f"{model.folder}: {'; '.join(fitting_problems(section, model.config))}")
        raise ModelError(
            f"{model.folder}: {_describe_head(model.config)}, so its task is not known; fine-tune it on labelled rows, name its "
            'objective, such as "objective={kind: classification}", or continue texts with tfkit generate'
        )
    if model.objective in kinds:
        kinds = [model.objective]
    sections = [SECTIONS[kind].model_validate({"kind": kind}) for kind in kinds]
    typed = next((section for section in sections if section.problem_type == model.problem_type is not None), sections[0])
    may_be_number = "regression" in type(typed).model_fields
    is_number = may_be_number and (model.problem_type == "regression" or getattr(model.config.head, "count", 0) == 1)
    settings = {name: value for name, value in model.objective_settings.items() if name in typed.needed_alone}
    return {"kind": typed.kind} | ({"regression": True} if is_number else {}) | (settings if typed.kind == model.objective else {})


def _reads_rows(section: type[ObjectiveSection]) -> bool:
    """Whether an objective answers rows; one that compares the model with the initial one does not."""
    return not section.reads_text and section.scored_by == "row" and not section.needs_start


def _fits(section: type[ObjectiveSection], model: "Described") -> bool:
    """Whether the model has the stacks, the head and, for a chat, the template of an objective."""
    config = model.config
    answers = section.head != "lm" or config.stacks == "both" or (model.codec is not None and model.codec.chat_template is not None)
    return config.stacks in section.stacks and section.head == _head(config) and answers


def _head(config: ModelConfig) -> str:
    """Return the kind of the head; "choices" for a language model that also scores whole sequences."""
    return "choices" if getattr(config.head, "choices", False) else config.head.kind


def _describe_head(config: ModelConfig) -> str:
    return {
        "none": "this model has no head",
        "lm": "this model continues texts, and has no chat template",
        "masked_lm": "this model fills the masks of a text",
    }.get(_head(config), f"this model has a head of kind {_head(config)}")
