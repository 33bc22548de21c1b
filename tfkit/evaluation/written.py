"""Generated texts for labelled rows: translations, summaries, answers.

They are decoded greedily or by beam search, as configured in the recipe's `generation`, never by sampling.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from tfkit.data import ExampleSet, Row, Source
from tfkit.data.store.example_sets import Example
from tfkit.data.store.hashes import text_hash
from tfkit.generation.complete import complete
from tfkit.generation.constraints import Constraints
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import WritingObjective
from tfkit.parallel.rank_map import UNWATCHED, BatchWork
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer.conversations import end_ids


def deterministic(settings: GenerationSection) -> GenerationSection:
    """Return the recipe's settings without sampling, for evaluations."""
    return settings.model_copy(update={"temperature": 0.0})


def write_texts(
    model: Transformer,
    objective: WritingObjective,
    examples: Sequence[Example],
    settings: GenerationSection,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[str]:
    """Generate the model's answer to each example."""
    tokenizer = objective.tokenizer
    prompts = [objective.prompt_ids(example) for example in examples]
    ends, start_id, constraints = end_ids(tokenizer), objective.start_id, Constraints(forced_first=tokenizer.forced_first_id)
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # groups similar lengths, longest first
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
    """Yield the row of each example. Examples are in the order of the rows; bad rows have none.

    The source's files may lie in another folder than when the examples were stored.
    """
    rows = source.rows({})
    for number in range(len(stored)):
        yield next(row for row in rows if is_row_of(row, stored, number))


def is_row_of(row: Row, stored: ExampleSet, number: int) -> bool:
    """Whether a row is the source of an example, judged by the name of its file, its line and its text."""
    return _name(row) == PurePath(stored.place(number)).name and text_hash(row.text) == np.asarray(stored.texts[number], "<u8").tobytes()


def _name(row: Row) -> str:
    """Return a row's place without the folder, in the encoding of a stored set: `rows.jsonl:17`."""
    return PurePath(row.place.encode(errors="replace").decode()).name
