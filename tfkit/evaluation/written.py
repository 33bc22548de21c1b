"""Generation of the answers to labelled rows, where answers are texts, such as translations or summaries.

Texts are decoded greedily or by beam search, as the recipe's section `generation` says, but never by sampling.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from tfkit.data import ExampleSet, Row, Source
from tfkit.data.store.example_sets import Example
from tfkit.data.store.hashes import text_hash
from tfkit.generation.complete import complete
from tfkit.generation.next_token import Constraints
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import WritingObjective
from tfkit.parallel.rank_map import UNWATCHED, BatchWork
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer.conversations import end_ids


def deterministic(settings: GenerationSection) -> GenerationSection:
    """Return the section `generation` with temperature 0, so that evaluations do not sample."""
    return settings.model_copy(update={"temperature": 0.0})


def write_texts(
    model: Transformer,
    objective: WritingObjective,
    examples: Sequence[Example],
    settings: GenerationSection,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[str]:
    """Return the text that the model generates as the answer to each example, in order."""
    tokenizer = objective.tokenizer
    prompts = [objective.prompt_ids(example) for example in examples]
    ends, start_id, constraints = end_ids(tokenizer), objective.start_id, Constraints(forced_first=tokenizer.forced_first_id)
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # longest first: similar lengths in a batch
    texts = [""] * len(prompts)

    def write(numbers: Sequence[int]) -> list[str]:
        batch = [prompts[number] for number in numbers]
        completions = complete(model, tokenizer, batch, settings, eos_ids=ends, start_id=start_id, constraints=constraints)
        return [completion.text.strip() for completion in completions]

    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    for numbers, written in zip(batches, work.deal(write, batches), strict=True):
        for number, text in zip(numbers, written, strict=True):
            texts[number] = text
        work.progress(len(numbers))
    return texts


def rows_of(source: Source, stored: ExampleSet) -> Iterator[Row]:
    """Yield the row of each example, read from the source again. Examples have the order of the rows; bad rows have no example.

    The source's files may have been moved to another folder since the examples were stored, so folders are not compared.
    """
    rows = source.rows({})
    for number in range(len(stored)):
        yield next(row for row in rows if is_row_of(row, stored, number))


def is_row_of(row: Row, stored: ExampleSet, number: int) -> bool:
    """Whether example `number` was made from a row: both have the same file name, line and text."""
    place = row.place.encode(errors="replace").decode()  # the stored examples have places in this form
    if PurePath(place).name != PurePath(stored.place(number)).name:
        return False
    return text_hash(row.text) == np.asarray(stored.texts[number], "<u8").tobytes()
