"""Rows that share an input: the model generates one text for all of them, and their answers are the references of that text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfkit.data import ExampleSet
from tfkit.engine.assembly.training_data import ValidationSet
from tfkit.engine.request.evaluation_settings import EvaluationSettings
from tfkit.evaluation.row_scores import RowPrediction
from tfkit.evaluation.written import deterministic, rows_of, write_texts
from tfkit.hub import Loaded
from tfkit.objectives.labelled import WritingObjective
from tfkit.objectives.metrics import Numbers
from tfkit.parallel.rank_map import BatchWork


@dataclass(frozen=True)
class SharedInput:
    """One input: the indices of its rows in their set, in order, and the distinct answers of these rows."""

    rows: list[int]
    references: list[str]


def shared_inputs(objective: WritingObjective, held_out: ValidationSet, count: int) -> list[SharedInput]:
    """Return the distinct inputs of the first `count` rows of a set, in the order in which they first occur.

    Rows share an input if the model reads the same tokens for them and their whole inputs, before any truncation, are equal too.
    """
    inputs, stored = dict[object, SharedInput](), held_out.examples
    for number, row in zip(range(count), rows_of(held_out.source, stored), strict=False):
        example = stored[number]
        shared = inputs.setdefault((tuple(objective.prompt_ids(example)), row.input_key), SharedInput([], []))
        shared.rows.append(number)
        shared.references.extend(text for text in objective.references(row, example) if text not in shared.references)
    return list(inputs.values())


def number_inputs(sets: Sequence[Sequence[SharedInput]]) -> Numbers:
    """Return for each row the index of its input, (rows,); rows and inputs are counted across all sets."""
    inputs = [one for part in sets for one in part]
    firsts = np.cumsum([0, *(sum(len(one.rows) for one in part) for part in sets)])  # the index of the first row of each set
    numbers = np.empty(firsts[-1], np.int64)
    for number, (first, one) in enumerate(zip(np.repeat(firsts[:-1], [len(part) for part in sets]), inputs, strict=True)):
        numbers[first + np.array(one.rows)] = number
    return numbers


def with_texts(
    settings: EvaluationSettings,
    objective: WritingObjective,
    stored: ExampleSet,
    judged: Sequence[RowPrediction],
    inputs: Sequence[SharedInput],
    loaded: Loaded,
    work: BatchWork,
) -> list[RowPrediction]:
    """Return the judged rows, each with the text that the model generates for its input, and the references of that text."""
    examples = [stored[shared.rows[0]] for shared in inputs]
    decoding, size = deterministic(settings.generation), settings.evaluation.batch_size
    texts = write_texts(loaded.model, objective, examples, decoding, size, work)
    written = zip(inputs, texts, strict=True)
    predictions = {number: {"text": text, "references": shared.references} for shared, text in written for number in shared.rows}
    return [replace(row, prediction=predictions[row.number]) for row in judged]
