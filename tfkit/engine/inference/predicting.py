"""Predictions for rows without labels, for tfkit predict, tfkit.predict and loaded.predict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.data import Encoded, ExampleBatch
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.sources.prediction_rows import PredictionColumns
from tfkit.engine.assembly.base_model import open_finished
from tfkit.engine.inference.row_answers import RowAnswers
from tfkit.engine.inference.session import named_precision
from tfkit.engine.request.evaluation_settings import EvaluationSettings, read_task_settings
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.errors import UsageError
from tfkit.evaluation.row_scores import deterministic, write_texts
from tfkit.generation.answer_precision import Precision
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.hub import Loaded, find_checkpoint
from tfkit.objectives.labelled import Answer
from tfkit.parallel.rank_map import BatchWork, RankMap, serial_map
from tfkit.recipe.reading.overrides import Overrides


class Predictor(RowAnswers):
    """Answers rows with predictions. `all_labels`: an answer also has the probability of every label."""

    name = "prediction"

    def __init__(self, checkpoint: str | Path, folder: Path, settings: EvaluationSettings, precision: Precision, *, all_labels: bool):
        super().__init__(checkpoint, folder, settings, precision)
        self.section, self.all_labels = settings.objective.trained_for.judged_alone, all_labels

    def columns(self, named: Mapping[str, str | list[str]]) -> PredictionColumns:
        """Return the columns of the objective's inputs, such as the text; the label is not read. `named`: names of columns, by role."""
        return PredictionColumns(self.section.asked_roles, named)

    def use(self, loaded: Loaded, deal: RankMap = serial_map) -> None:
        """Set the model that answers rows. Raises ModelError if it does not fit the task. `deal` distributes its batches over the ranks."""
        super().use(loaded, deal)
        objective = open_finished(self.section, loaded, self.settings)[0].labelled
        assert objective is not None  # None only for objectives that open_predictor refuses
        self.objective = objective

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return each row encoded as an example, or the reason why the row cannot be read."""
        return self.objective.encode_unlabelled(rows)

    def answer(self, rows: Sequence[Any], encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """Return the prediction for each row. Rows of similar lengths share a batch."""
        model, objective, size = self.loaded.model, self.objective, self.settings.evaluation.batch_size
        examples = [one.example() for one in encoded]
        check_vocabulary([example[name].tolist() for example in examples for name in objective.ids], self.loaded.config.vocab_size)
        if objective.writer is not None:
            generation = deterministic(self.settings.generation)
            texts = write_texts(model, objective.writer, examples, generation, size, BatchWork(deal=self.deal))
            return [Answer(text).fields() for text in texts]
        device = next(model.parameters()).device
        order = sorted(range(len(examples)), key=lambda number: -encoded[number].length)

        def answer(numbers: Sequence[int]) -> list[Answer]:
            indices = np.array(numbers, np.int64)
            batch = objective.collate(ExampleBatch([[examples[number]] for number in numbers], np.zeros_like(indices), indices)).to(device)
            return list(objective.answers(model, batch, [rows[number] for number in numbers], all_labels=self.all_labels))

        answers: dict[int, Answer] = {}
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        with inference(model):
            for numbers, answered in zip(batches, self.deal(answer, batches), strict=True):
                answers |= {number: Answer(*fields) for number, fields in zip(numbers, answered, strict=True)}
        return [answers[number].fields() for number in range(len(examples))]

    def facts(self) -> dict[str, Any]:
        """Return the field of the result that only `tfkit predict` has: the kind of the objective."""
        return {"objective": self.section.kind}


def open_predictor(
    checkpoint: str | Path, overrides: Overrides, data: str = "-", *, all_labels: bool = False, precision: Precision = "auto"
) -> Predictor:
    """Return a Predictor with the objective and the input columns on which the checkpoint was trained; no model is loaded yet. Raises
    UsageError for invalid settings, and for an objective that gives no answer to a row.

    `overrides`: changed settings, such as data.validation.0.columns. `data`: a file, folder or glob; "-": the rows come from stdin or from
    a call. `precision`: auto means evaluation.precision if the overrides set it, else a choice made when the model is loaded.
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
