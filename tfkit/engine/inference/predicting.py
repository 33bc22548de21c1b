"""Predictions of a checkpoint for rows that need no label, as of tfkit predict, tfkit.predict and loaded.predict."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.data.sources.prediction_rows import PredictionColumns
from tfkit.engine.inference.row_answers import RowAnswers, RowModel, RowTask
from tfkit.engine.inference.session import named_precision
from tfkit.engine.request.evaluation_settings import EvaluationSettings, read_settings
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.errors import ModelError, UsageError
from tfkit.hub import find_checkpoint
from tfkit.parallel.rank_map import RankMap
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.schema.objective_facts import SECTIONS, ObjectiveSection

if TYPE_CHECKING:
    from tfkit.generation.answer_precision import Precision
    from tfkit.hub import Described, Loaded
    from tfkit.model.config import ModelConfig

_SECTIONS = ("data", "objective", "evaluation", "generation", "carbon")


def open_predictor(
    checkpoint: str | Path, overrides: Overrides, data: str = "-", *, all_labels: bool = False, precision: "Precision" = "auto"
) -> RowAnswers:
    """Read the settings by which a checkpoint answers rows: its objective, and the columns that its training read. Raises UsageError.

    `overrides`: such as data.validation.0.columns for the rows. `data`: a file, folder or glob; "-": the rows are given in another way.
    `precision`: auto: as evaluation.precision among the overrides, else chosen for the model when it is loaded.
    """
    finalize_killed_run(checkpoint)
    folder = find_checkpoint(checkpoint)
    settings = _settings(folder, overrides, data)
    section = settings.objective.trained_for.judged_alone
    if section.reads_text or section.scored_by != "row":
        raise UsageError(
            f"{folder}: {section.kind} gives no answer to a row: predict is for models that were trained on labelled rows, "
            "on pairs of texts or on conversations; fine-tune it on such rows, or continue texts with tfkit generate"
        )

    def open_answering(loaded: "Loaded", deal: RankMap) -> RowModel:
        from tfkit.engine.inference.answering_model import AnsweringModel, open_finished

        objective = open_finished(section, loaded, settings)[0].labelled
        assert objective is not None  # it reads rows
        return AnsweringModel(loaded, objective, settings, deal, all_labels=all_labels)

    task = RowTask("prediction", partial(PredictionColumns, section.asked_roles), open_answering, lambda _: {"objective": section.kind})
    return RowAnswers(checkpoint, folder, settings, task, named_precision(settings, overrides, precision))


def _settings(folder: Path, overrides: Overrides, data: str) -> EvaluationSettings:
    """Return the settings of the run that made the checkpoint, else those with the objective that its files name."""
    settings = read_settings(None, folder, overrides, _SECTIONS, data)
    if settings.has_recipe or any(name.partition(".")[0] == "objective" for name in overrides):
        return settings
    named = {f"objective.{name}": value for name, value in infer_objective(folder).items()}
    return read_settings(None, folder, {**named, **overrides}, _SECTIONS, data)


def infer_objective(folder: Path) -> dict[str, Any]:
    """Return the section of the objective of labelled rows that a model was trained for, by its files alone. Raise ModelError if none fits.

    It is the one that tfkit.json names, else the one with the model's head and problem type.
    """
    from tfkit.adapters import describe

    model = describe(folder)
    kinds = [kind for kind, section in SECTIONS.items() if _reads_rows(section) and _fits(section, model)]
    if not kinds:
        raise ModelError(
            f"{folder}: {_describe_head(model.config)}, so its task is not known; fine-tune it on labelled rows, name its "
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


def _head(config: "ModelConfig") -> str:
    """Return the kind of the head; "choices" for a language model that also scores whole sequences."""
    return "choices" if getattr(config.head, "choices", False) else config.head.kind


def _describe_head(config: "ModelConfig") -> str:
    return {
        "none": "this model has no head",
        "lm": "this model continues texts, and has no chat template",
        "masked_lm": "this model fills the masks of a text",
    }.get(_head(config), f"this model has a head of kind {_head(config)}")
