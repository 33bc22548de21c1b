"""Rows that share an input: the model writes one text for them, and their answers are the references of that text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tfkit.data import ExampleSet, Source
from tfkit.engine.settings import Settings
from tfkit.evaluation.predictions import Judged
from tfkit.evaluation.written import rows_of, undrawn, write_texts
from tfkit.objectives.labelled import WritingObjective
from tfkit.objectives.metrics import Numbers
from tfkit.parallel.deal import BatchWork

if TYPE_CHECKING:
    from tfkit.hub import Loaded


@dataclass(frozen=True)
class SharedInput:
    """One input: the numbers of its rows in their set, in order, and the different answers of these."""

    rows: list[int]
    references: list[str]


def shared_inputs(objective: WritingObjective, source: Source, stored: ExampleSet, count: int) -> list[SharedInput]:
    """Return the inputs of the first `count` rows of a set, in the order of their first rows.

    Rows share an input if the model reads the same of both; where it is cut to the context, what was cut off is compared, too.
    """
    found: dict[object, SharedInput] = {}
    for number, row in zip(range(count), rows_of(source, stored), strict=False):
        example = stored[number]
        one = found.setdefault((tuple(objective.prompt_ids(example)), row.input_key), SharedInput([], []))
        one.rows.append(number)
        one.references.extend(text for text in objective.references(row, example) if text not in one.references)
    return list(found.values())


def number_inputs(sets: Sequence[Sequence[SharedInput]]) -> Numbers:
    """Return the number of each row's input, (N,), counted over the rows and inputs of all sets."""
    inputs = [one for part in sets for one in part]
    firsts = np.cumsum([0, *(sum(len(one.rows) for one in part) for part in sets)])  # where the rows of each set begin
    found = np.empty(firsts[-1], np.int64)
    for number, (first, one) in enumerate(zip(np.repeat(firsts[:-1], [len(part) for part in sets]), inputs, strict=True)):
        found[first + np.array(one.rows)] = number
    return found


def with_texts(
    settings: Settings,
    objective: WritingObjective,
    stored: ExampleSet,
    judged: Sequence[Judged],
    inputs: Sequence[SharedInput],
    loaded: "Loaded",
    work: BatchWork,
) -> list[Judged]:
    """Return the same rows with what the model writes for the input of each, and what was to be written."""
    examples = [stored[one.rows[0]] for one in inputs]
    decoding, size = undrawn(settings.generation), settings.evaluation.batch_size
    texts = write_texts(loaded.model, objective, examples, decoding, size, loaded.eos_ids, work)
    predictions = {
        number: {"text": text, "references": one.references} for one, text in zip(inputs, texts, strict=True) for number in one.rows
    }
    return [replace(one, prediction=predictions[one.number]) for one in judged]
