"""Predictions of a checkpoint for rows that need no label, as of tfkit predict, tfkit.predict and loaded.predict."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tfkit.data.sources.prediction_rows import PredictionColumns
from tfkit.engine.inference.row_answers import RowAnswers, RowModel, RowTask
from tfkit.engine.inference.session import named_precision
from tfkit.engine.inference.task_settings import read_task_settings
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.errors import UsageError
from tfkit.hub import find_checkpoint
from tfkit.parallel.rank_map import RankMap
from tfkit.recipe.reading.overrides import Overrides

if TYPE_CHECKING:
    from tfkit.generation.answer_precision import Precision
    from tfkit.hub import Loaded


def open_predictor(
    checkpoint: str | Path, overrides: Overrides, data: str = "-", *, all_labels: bool = False, precision: "Precision" = "auto"
) -> RowAnswers:
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

    def open_answering(loaded: "Loaded", deal: RankMap) -> RowModel:
        from tfkit.engine.inference.answering_model import AnsweringModel, open_finished

        objective = open_finished(section, loaded, settings)[0].labelled
        assert objective is not None  # it reads rows
        return AnsweringModel(loaded, objective, settings, deal, all_labels=all_labels)

    task = RowTask("prediction", partial(PredictionColumns, section.asked_roles), open_answering, lambda _: {"objective": section.kind})
    return RowAnswers(checkpoint, folder, settings, task, named_precision(settings, overrides, precision))
