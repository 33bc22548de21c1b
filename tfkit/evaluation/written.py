"""The texts that a model writes for labelled rows: translations, summaries, answers.

The texts are the model's best guess: greedy, or by beam search, as the recipe's `generation` says; nothing is drawn.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePath

import numpy as np

from tfkit.data import ExampleSet, Row, Source
from tfkit.data.store.example_sets import Example
from tfkit.data.store.overlap import text_hash
from tfkit.generation.complete import complete
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import WritingObjective
from tfkit.parallel.deal import UNWATCHED, BatchWork
from tfkit.recipe.schema.sections import GenerationSection


def undrawn(settings: GenerationSection) -> GenerationSection:
    """The settings with which texts are judged: those of the recipe, without chance."""
    return settings.model_copy(update={"temperature": 0.0})


def write_texts(
    model: Transformer,
    objective: WritingObjective,
    examples: Sequence[Example],
    settings: GenerationSection,
    batch_size: int,
    eos_ids: Collection[int],
    work: BatchWork = UNWATCHED,
) -> list[str]:
    """The model's answer to each example. `eos_ids` end a text, beside the objective's own."""
    tokenizer = objective.tokenizer
    prompts = [objective.prompt_ids(one) for one in examples]
    ends, start_id = {*eos_ids, *objective.end_ids}, objective.start_id
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # alike in length; what does not fit fails at once
    texts = [""] * len(prompts)

    def write(numbers: Sequence[int]) -> list[str]:
        batch = [prompts[number] for number in numbers]
        return [found.text.strip() for found in complete(model, tokenizer, batch, settings, eos_ids=ends, start_id=start_id)]

    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    for numbers, written in zip(batches, work.deal(write, batches), strict=True):
        for number, text in zip(numbers, written, strict=True):
            texts[number] = text
        work.progress(len(numbers))
    return texts


def rows_of(source: Source, stored: ExampleSet) -> Iterator[Row]:
    """The row of each example. A set keeps the order of its source, and lacks its bad rows; the folder of its files may have moved."""
    rows = source.rows({})
    for number in range(len(stored)):
        yield next(row for row in rows if is_row_of(row, stored, number))


def is_row_of(row: Row, stored: ExampleSet, number: int) -> bool:
    """Whether a row is that of an example: by the end of its place, and its text."""
    return _name(row) == PurePath(stored.place(number)).name and text_hash(row.text) == np.asarray(stored.texts[number], "<u8").tobytes()


def _name(row: Row) -> str:
    """The end of a row's place, as a set has it: `rows.jsonl:17`."""
    return PurePath(row.place.encode(errors="replace").decode()).name
