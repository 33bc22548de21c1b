"""The objective of a checkpoint that comes without a recipe, by what its own files say."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.errors import ModelError
from tfkit.recipe.schema.objective_facts import SECTIONS, ObjectiveSection

if TYPE_CHECKING:
    from tfkit.hub import Described
    from tfkit.model.config import ModelConfig


def own_objective(folder: Path) -> dict[str, Any]:
    """Return the section of the objective of labelled rows that a model was trained for. Raise ModelError if none is known.

    That is the one that tfkit.json names, else the one whose head the model has, and whose labels are of its type.
    """
    from tfkit.adapters import describe

    found = describe(folder)
    kinds = [kind for kind, section in SECTIONS.items() if _reads_rows(section) and _fits(section, found)]
    if not kinds:
        raise ModelError(
            f"{folder}: {_shown(found.config)}, so its task is not known; fine-tune it on labelled rows, name its "
            'objective, such as "objective={kind: classification}", or continue texts with tfkit generate'
        )
    if found.objective in kinds:
        kinds = [found.objective]
    sections = [SECTIONS[kind].model_validate({"kind": kind}) for kind in kinds]
    typed = next((one for one in sections if one.problem_type is not None and one.problem_type == found.problem_type), sections[0])
    may_be_number = "regression" in type(typed).model_fields
    is_number = may_be_number and (found.problem_type == "regression" or getattr(found.config.head, "count", 0) == 1)
    settings = {name: value for name, value in found.objective_settings.items() if name in typed.needed_alone}
    return {"kind": typed.kind} | ({"regression": True} if is_number else {}) | (settings if typed.kind == found.objective else {})


def _reads_rows(section: type[ObjectiveSection]) -> bool:
    """Whether it answers rows; one that compares with the model of its first step does not."""
    return not section.reads_text and section.scored_by == "row" and not section.needs_start


def _fits(section: type[ObjectiveSection], found: "Described") -> bool:
    """Whether the model has the stacks, the head and, for a chat, the template of an objective."""
    config = found.config
    stacks = "both" if config.encoder_layers and config.decoder_layers else "encoder" if config.encoder_layers else "decoder"
    answers = section.head != "lm" or stacks == "both" or (found.codec is not None and found.codec.chat_template is not None)
    return stacks in section.stacks and section.head == _head(config) and answers


def _head(config: "ModelConfig") -> str:
    """The head's kind; `choices` of a language model that also scores whole sequences."""
    return "choices" if getattr(config.head, "choices", False) else config.head.kind


def _shown(config: "ModelConfig") -> str:
    return {
        "none": "this model has no head",
        "lm": "this model continues texts, and has no chat template",
        "masked_lm": "this model fills the masks of a text",
    }.get(_head(config), f"this model has a head of kind {_head(config)}")
