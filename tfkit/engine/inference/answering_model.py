"""A finished model with its objective, and its answers to rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.data import Encoded, ExampleBatch
from tfkit.engine.assembly.base_model import check_order
from tfkit.engine.request.evaluation_settings import EvaluationSettings
from tfkit.errors import ModelError, UsageError
from tfkit.evaluation.written import deterministic, write_texts
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.hub import Loaded
from tfkit.objectives.context import ModelContext
from tfkit.objectives.labelled import Answer, LabelledObjective
from tfkit.objectives.objective import Objective
from tfkit.objectives.registry import objective_tokenizer, open_objective
from tfkit.parallel.rank_map import BatchWork, RankMap
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.tokenizer import Tokenizer


def open_finished(section: ObjectiveSection, loaded: Loaded, settings: EvaluationSettings) -> tuple[Objective, Tokenizer]:
    """Return the objective for a finished model, and its tokenizer. Raises ModelError if the model does not fit the objective."""
    if problems := fitting_problems(section, loaded.config):
        raise ModelError(f"{loaded.folder}: {'; '.join(problems)}; give a recipe with the objective that it was trained for")
    assert loaded.codec is not None
    tokenizer = objective_tokenizer(section, loaded.codec, is_finished=True)
    labels, facts = _labels(section, loaded), loaded.facts
    context = ModelContext(loaded.config, tokenizer, labels, settings.seed, loaded.folder, facts, settings.sequence_length)
    return open_objective(section, context), tokenizer


def _labels(section: ObjectiveSection, loaded: Loaded) -> list[str]:
    """Return the classes of the checkpoint, in its own order, with the names that the section gives them, if any."""
    if not section.has_labels:
        return []
    if named := section.named_labels:
        count = getattr(loaded.config.head, "count", 0)
        if len(named) != count:
            raise UsageError(
                f"objective.labels names {len(named)} classes, and {loaded.folder} has {count}: name all, in its order, or leave it out"
            )
        check_order(str(loaded.folder), loaded.labels, named)
        return named
    if not loaded.labels:
        raise ModelError(f"{loaded.folder}: config.json names no labels (id2label), so its classes are not known; name them there")
    return list(loaded.labels)


def answer_rows(
    loaded: Loaded,
    objective: LabelledObjective,
    settings: EvaluationSettings,
    rows: Sequence[Any],
    encoded: Sequence[Encoded],
    deal: RankMap,
    *,
    all_labels: bool,
) -> list[dict[str, Any]]:
    """Return the fields of the answer to each row; batches have rows of similar lengths, and `deal` computes them."""
    model, size = loaded.model, settings.evaluation.batch_size
    examples = [one.example() for one in encoded]
    check_vocabulary([example[name].tolist() for example in examples for name in objective.ids], loaded.config.vocab_size)
    if objective.writer is not None:
        generation = deterministic(settings.generation)
        texts = write_texts(model, objective.writer, examples, generation, size, BatchWork(deal=deal))
        return [Answer(text).fields() for text in texts]
    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda number: -encoded[number].length)

    def answer(numbers: Sequence[int]) -> list[Answer]:
        indices = np.array(numbers, np.int64)
        batch = objective.collate(ExampleBatch([[examples[number]] for number in numbers], np.zeros_like(indices), indices)).to(device)
        return list(objective.answers(model, batch, [rows[number] for number in numbers], all_labels=all_labels))

    answers: dict[int, Answer] = {}
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    with inference(model):
        for numbers, answered in zip(batches, deal(answer, batches), strict=True):
            answers |= {number: Answer(*fields) for number, fields in zip(numbers, answered, strict=True)}
    return [answers[number].fields() for number in range(len(examples))]
