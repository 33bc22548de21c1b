"""A model that answers rows, as its objective has it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.data import Encoded, ExampleBatch
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.sources.asked_rows import Asked
from tfkit.engine.settings import Settings
from tfkit.evaluation.written import undrawn, write_texts
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.hub import Loaded
from tfkit.objectives.labelled import Answer, LabelledObjective
from tfkit.parallel.deal import BatchWork, Deal


class AnsweringModel:
    """A loaded model with its objective. `deal` has the batches computed, by several ranks where there are some."""

    def __init__(self, loaded: Loaded, objective: LabelledObjective, settings: Settings, deal: Deal, *, all_labels: bool):
        self.loaded, self.objective, self.settings, self.deal, self.all_labels = loaded, objective, settings, deal, all_labels

    def encoded(self, window: Sequence[Asked]) -> list[Encoded | BadRow]:
        """Return the example of each row, or what is wrong with it."""
        rows = [asked.row for asked in window if isinstance(asked.row, Row)]
        encoded = iter(self.objective.encode_unlabelled(rows) if rows else ())
        return [next(encoded) if isinstance(asked.row, Row) else asked.row for asked in window]

    def answers(self, rows: Sequence[Any], encoded: Sequence[Encoded]) -> list[Answer]:
        """Return the answer to each row; batches are of rows of similar lengths."""
        model, objective, size = self.loaded.model, self.objective, self.settings.evaluation.batch_size
        examples = [one.example() for one in encoded]
        check_vocabulary([example[name].tolist() for example in examples for name in objective.ids], self.loaded.config.vocab_size)
        if objective.writer is not None:
            settings = undrawn(self.settings.generation)
            texts = write_texts(model, objective.writer, examples, settings, size, self.loaded.eos_ids, BatchWork(deal=self.deal))
            return [Answer(text) for text in texts]
        device = next(model.parameters()).device
        order = sorted(range(len(examples)), key=lambda number: -encoded[number].length)

        def answer(numbers: Sequence[int]) -> list[Answer]:
            kept = np.array(numbers, np.int64)
            batch = objective.collate(ExampleBatch([[examples[number]] for number in numbers], np.zeros_like(kept), kept)).to(device)
            return list(objective.answers(model, batch, [rows[number] for number in numbers], all_labels=self.all_labels))

        found: dict[int, Answer] = {}
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        with inference(model):
            for numbers, answered in zip(batches, self.deal(answer, batches), strict=True):
                found |= {number: Answer(*one) for number, one in zip(numbers, answered, strict=True)}
        return [found[number] for number in range(len(examples))]
