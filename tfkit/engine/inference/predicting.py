"""Predictions of a checkpoint for rows that need no label, as of tfkit predict, tfkit.predict and loaded.predict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfkit.data import Encoded
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.sources.prediction_rows import PredictionColumns
from tfkit.engine.inference.answering_model import answer_rows, open_finished
from tfkit.engine.inference.row_answers import RowAnswers
from tfkit.engine.inference.session import named_precision
from tfkit.engine.request.evaluation_settings import EvaluationSettings, read_task_settings
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.errors import UsageError
from tfkit.generation.answer_precision import Precision
from tfkit.hub import Loaded, find_checkpoint
from tfkit.parallel.rank_map import RankMap, serial_map
from tfkit.recipe.reading.overrides import Overrides


class Predictor(RowAnswers):
    """Rows and their predictions. `all_labels`: with the probability of every label."""

    name = "prediction"

    def __init__(self, checkpoint: str | Path, folder: Path, settings: EvaluationSettings, precision: Precision, *, all_labels: bool):
        super().__init__(checkpoint, folder, settings, precision)
        self.section, self.all_labels = settings.objective.trained_for.judged_alone, all_labels

    def columns(self, named: Mapping[str, str | list[str]]) -> PredictionColumns:
        """Return the columns of the objective's roles that need no label."""
        return PredictionColumns(self.section.asked_roles, named)

    def use(self, loaded: Loaded, deal: RankMap = serial_map) -> None:
        """Use a loaded model with its objective; `deal` computes its batches. Raises ModelError if they do not fit each other."""
        super().use(loaded, deal)
        objective = open_finished(self.section, loaded, self.settings)[0].labelled
        assert objective is not None  # it reads rows
        self.objective = objective

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the example of each row, or the reason why it cannot be read."""
        return self.objective.encode_unlabelled(rows)

    def answer(self, rows: Sequence[Any], encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """Return the prediction for each row."""
        return answer_rows(self.loaded, self.objective, self.settings, rows, encoded, self.deal, all_labels=self.all_labels)

    def facts(self) -> dict[str, Any]:
        """Return the kind of the objective."""
        return {"objective": self.section.kind}


def open_predictor(
    checkpoint: str | Path, overrides: Overrides, data: str = "-", *, all_labels: bool = False, precision: Precision = "auto"
) -> Predictor:
    """Read the settings by which a checkpoint answers rows: its objective, and the columns that its training read. Raises UsageError.

    `overrides`: such as data.validation.0.columns for the rows. `data`: a file, folder or glob; "-": the rows are given in another way.
    `precision`: auto: as evaluation.precision among the overrides, else chosen for the model when it is loaded.
    """
    finalize_killed_run(checkpoint)
    folder = find_checkpoint(checkpoint)
    settings = read_task_settings(None, folder, overrides, data)
    section = settings.objective.trained_for.judged_alone
    if section.reads_text or section.scored_by != "row":
        raise UsageError(
            f"{folder}: {section.kind} gives no answer to a row: predict is for models that were trained on labelled rows, "
            "on pairs of texts or on conversations; fine-tune it on such rows, or continue texts with tfkit generate"
        )
    return Predictor(checkpoint, folder, settings, named_precision(settings, overrides, precision), all_labels=all_labels)
