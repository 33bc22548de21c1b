"""Predictions of a checkpoint for rows that need no label, as of tfkit predict, tfkit.predict and loaded.predict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.data.sources.prediction_rows import PredictionColumns
from tfkit.engine.inference.infer_objective import infer_objective
from tfkit.engine.inference.opened_model import named_precision
from tfkit.engine.inference.row_answers import RowAnswers, RowModel
from tfkit.engine.request.evaluation_settings import EvaluationSettings, read_settings
from tfkit.engine.request.stale_runs import finalize_killed_run
from tfkit.errors import UsageError
from tfkit.hub import find_checkpoint
from tfkit.parallel.rank_map import RankMap
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.schema.objective_facts import ObjectiveSection

if TYPE_CHECKING:
    from tfkit.generation.answer_precision import Precision
    from tfkit.hub import Loaded

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
    task = Prediction(section, settings, all_labels)
    return RowAnswers(checkpoint, folder, settings, task, named_precision(settings, overrides, precision))


@dataclass(frozen=True)
class Prediction:
    """Answers rows by an objective. `all_labels`: with the probability of every label."""

    section: ObjectiveSection
    settings: EvaluationSettings
    all_labels: bool
    name = "prediction"

    def columns(self, named: Mapping[str, str | list[str]]) -> PredictionColumns:
        """Return the columns of the objective's roles, except for the label."""
        return PredictionColumns(self.section.asked_roles, named)

    def open(self, loaded: "Loaded", deal: RankMap) -> RowModel:
        """Return the model with its objective. Raises ModelError if they do not fit."""
        from tfkit.engine.inference.answering_model import AnsweringModel
        from tfkit.engine.inference.by_row import open_finished

        objective = open_finished(self.section, loaded, self.settings)[0].labelled
        assert objective is not None  # it reads rows
        return AnsweringModel(loaded, objective, self.settings, deal, all_labels=self.all_labels)

    def facts(self, loaded: "Loaded") -> dict[str, Any]:
        """Return the objective."""
        return {"objective": self.section.kind}


def _settings(folder: Path, overrides: Overrides, data: str) -> EvaluationSettings:
    """Return the settings of the run that made the checkpoint, else those with the objective that its files name."""
    settings = read_settings(None, folder, overrides, _SECTIONS, data)
    if settings.has_recipe or any(name.partition(".")[0] == "objective" for name in overrides):
        return settings
    named = {f"objective.{name}": value for name, value in infer_objective(folder).items()}
    return read_settings(None, folder, {**named, **overrides}, _SECTIONS, data)
