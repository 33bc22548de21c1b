"""What a model writes for labelled rows, beside what was to be written: translations, summaries, answers.

The texts are the model's best guess: greedy, or by beam search, as the recipe's `generation` says; nothing is drawn.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from tfkit.data import ExampleSet, Row, Source
from tfkit.data.store.example_sets import Example
from tfkit.generation.complete import complete_ids
from tfkit.model.transformer import Transformer
from tfkit.objectives.chat import Chat, conversation
from tfkit.objectives.objective import IGNORED
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.schema.sections import GenerationSection


def undrawn(settings: GenerationSection) -> GenerationSection:
    """The settings with which texts are judged: those of the recipe, without chance."""
    return settings.model_copy(update={"temperature": 0.0})


def write_texts(
    model: Transformer,
    objective: TextToText | Chat,
    examples: Sequence[Example],
    settings: GenerationSection,
    batch_size: int,
    eos_ids: Collection[int],
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The text for each example: what answers its source, or the last answer of its conversation.

    `eos_ids` end a text, beside what the objective says; `progress(n)` tells of n more texts.
    """
    tokenizer = objective.tokenizer
    prompts = [_source(one) if isinstance(objective, TextToText) else _conversation_before(one) for one in examples]
    ends = {*eos_ids, *(objective.end_ids if isinstance(objective, Chat) else [objective.eos_id])}
    start_id = objective.start_id if isinstance(objective, TextToText) else None
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # alike in length; what does not fit fails at once
    texts = [""] * len(prompts)
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        batch = [prompts[number] for number in numbers]
        for number, found in zip(numbers, complete_ids(model, tokenizer, batch, settings, eos_ids=ends, start_id=start_id), strict=True):
            texts[number] = found.text.strip()
        if progress is not None:
            progress(len(numbers))
    return texts


def references(objective: TextToText | Chat, row: Row, example: Example) -> list[str]:
    """What may be written for a row: all its targets, or the answer of the assistant that `write_texts` is asked for."""
    if isinstance(objective, TextToText):
        return _not_blank(row.values["target"])
    if "output" in row.values:
        return _not_blank(row.values["output"])
    answers = [message["content"] for message in conversation(row) if message["role"] == "assistant"]
    return [answers[len(_answers(example)) - 1]]  # later ones were cut off


def _not_blank(texts: list[str]) -> list[str]:
    """The texts that hold more than white space; where none does, the first, since each row has a reference."""
    return [text for text in texts if text.strip()] or texts[:1]


def rows_of(source: Source, stored: ExampleSet) -> Iterator[Row]:
    """The row of each example. A set keeps the order of its source, and lacks its bad rows."""
    rows = source.rows({})
    for number in range(len(stored)):
        place = stored.place(number)
        yield next(row for row in rows if row.place.encode(errors="replace").decode() == place)


def _source(example: Example) -> list[int]:
    ids: list[int] = example["source"].tolist()
    return ids


def _conversation_before(example: Example) -> list[int]:
    """The ids up to where the last answer begins."""
    ids: list[int] = example["input_ids"][: _answers(example)[-1] + 1].tolist()
    return ids


def _answers(example: Example) -> list[int]:
    """The positions whose next one begins an answer: the labels are the ids one position on."""
    is_target = example["labels"] != IGNORED
    begins: list[int] = np.flatnonzero(is_target & ~np.append(False, is_target[:-1])).tolist()
    return begins
