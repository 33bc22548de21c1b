"""What `tfkit evaluate` does for every objective but a causal language model's: its own rows, and what it tells of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from tfkit.data import ExampleSet, Source
from tfkit.data.sources.open_sources import validation_sources
from tfkit.engine.base_model import check_order
from tfkit.engine.session import WHOLE
from tfkit.engine.training_data import ValidationSet, report_rows, set_names, store
from tfkit.engine.validation import of_sets, score_sets
from tfkit.errors import ModelError, UsageError
from tfkit.evaluation.predictions import Judged, answer_metrics, judge_rows
from tfkit.evaluation.row_scores import first_rows, tokens_of_first
from tfkit.evaluation.written import rows_of, undrawn, write_texts
from tfkit.objectives.context import Stored
from tfkit.objectives.labelled import LabelledObjective, WritingObjective
from tfkit.objectives.metrics import Scores, unit_weights
from tfkit.objectives.metrics.texts import require_libraries
from tfkit.objectives.objective import Objective, weighted_loss
from tfkit.objectives.registry import objective_tokenizer, open_objective, open_rows, row_order
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.sections import Recipe

if TYPE_CHECKING:
    from tfkit.engine.session import Session
    from tfkit.hub import Loaded

_DECODING = (
    "max_new_tokens",
    "num_beams",
    "length_penalty",
    "length_law",
    "early_stopping",
    "repetition_penalty",
    "no_repeat_ngram",
    "stop",
)


class Read(Protocol):
    """What a receipt says of data that was read."""

    @property
    def name(self) -> str:
        """Of its source."""

    @property
    def fingerprint(self) -> str:
        """Of its rows."""


@dataclass(frozen=True)
class Scored:
    """The metrics of all sets, and what they are of."""

    metrics: dict[str, float]
    examples: int
    tokens: int
    stored: Sequence[Read]
    scores: Scores | None = None  # of labelled rows: the metrics of all together, for their intervals
    predictions: list[dict[str, Any]] = field(default_factory=list)  # of labelled rows, one each
    decoding: dict[str, Any] | None = None  # how texts were written, where some were


def evaluate_rows(recipe: Recipe, loaded: "Loaded", work: "Session") -> Scored:
    """Score the rows of data.validation for the recipe's objective; of a distillation for what the student is trained for.

    Raises UsageError if the model is not for this objective, or has no such rows; ModelError if nobody says what its classes are.
    """
    recipe = _judged_alone(recipe)
    if problems := fitting_problems(recipe, loaded.config):
        raise ModelError(f"{loaded.folder}: {'; '.join(problems)}; give a recipe with the objective that it was trained for")
    if recipe.objective.answers_in_text:
        require_libraries(recipe.evaluation.text_metrics)
    sources = validation_sources(recipe.data, recipe.objective.roles)
    if not sources:
        raise UsageError("there are no rows to score: give them as --data F, or a recipe with data.validation")
    assert loaded.codec is not None
    tokenizer = objective_tokenizer(recipe, loaded.codec)
    objective = open_objective(recipe, loaded.config, tokenizer, _labels(recipe, loaded))
    with work.stop.at_once():
        stored = [store(source, recipe, objective, tokenizer, work.listener) for source in sources]
    report_rows(stored, work.listener)
    for one in stored:
        one.check_vocabulary(loaded.config.vocab_size)
    names = set_names(recipe.data, sources)
    if objective.labelled is not None:
        return _labelled(recipe, objective.labelled, list(zip(names, sources, stored, strict=True)), loaded, work)
    sets = [ValidationSet(name, one) for name, one in zip(names, stored, strict=True)]
    return _unlabelled(recipe, objective, sets, loaded, work)


def _judged_alone(recipe: Recipe) -> Recipe:
    """The recipe with the objective itself, each row of which is judged on its own."""
    return recipe.model_copy(update={"objective": recipe.objective.trained_for.judged_alone})


def _unlabelled(recipe: Recipe, objective: Objective, sets: list[ValidationSet], loaded: "Loaded", work: "Session") -> Scored:
    """Rows that are cut from texts: what the objective measures, and no answers."""
    left = recipe.evaluation.max_tokens
    scored: list[Stored] = []
    rows = tokens = 0
    for one in sets:
        if left is not None and left <= 0:
            break
        cut = open_rows(recipe, objective, [(one.stored, 1.0)], loaded.config)
        first = first_rows(cut, left)
        scored.append(one.stored)
        rows, tokens = rows + first, tokens + (_tokens(one.stored) if first == len(cut) else tokens_of_first(cut, first))
        left = None if left is None else left - tokens_of_first(cut, first)
    with work.listener.progress("scoring", rows, "rows") as bar, work.stop.at_once(WHOLE):
        metrics = score_sets(recipe, objective, sets, loaded.model, progress=bar.advance)
    assert metrics is not None  # nothing asked it to stop
    return Scored(metrics, rows, tokens, scored)


def _labelled(
    recipe: Recipe, objective: LabelledObjective, sets: Sequence[tuple[str, Source, Stored]], loaded: "Loaded", work: "Session"
) -> Scored:
    """Rows that have an answer each: the model's, and the metrics of all of them."""
    evaluation, tokens, names = recipe.evaluation, 0, [name for name, _, _ in sets]
    writer = objective.writer if evaluation.text_metrics else None
    text_metrics = evaluation.text_metrics if writer else ()
    judged: dict[str, list[Judged]] = {}
    documents: list[dict[str, Any]] = []
    total = sum(len(stored.lengths) for _, _, stored in sets if isinstance(stored, ExampleSet))
    with work.listener.progress("scoring", total * (2 if writer else 1), "rows") as bar, work.stop.at_once(WHOLE):
        for name, source, stored in sets:
            left = None if evaluation.max_tokens is None else evaluation.max_tokens - tokens
            if left is not None and left <= 0:
                break
            rows = objective.open_rows([(stored, 1.0)], row_order(recipe, loaded.config))
            assert isinstance(stored, ExampleSet)
            found = judge_rows(loaded.model, objective, rows, evaluation.batch_size, max_tokens=left, progress=bar.advance)
            assert found is not None  # nothing asked it to stop
            if writer is not None:
                found = _with_texts(recipe, writer, source, stored, found, loaded, bar.advance)
            judged[name] = found
            documents += [
                {"place": stored.place(one.number), "loss": weighted_loss(objective.terms, one.sums), **one.prediction} for one in found
            ]
            tokens += sum(int(stored.lengths[one.number]) for one in found)
        everything = [one for found in judged.values() for one in found]
        scores = answer_metrics(objective, everything, text_metrics)
        metrics = scores(unit_weights(len(everything)))
        metrics = of_sets(metrics, names, [answer_metrics(objective, one, text_metrics)(unit_weights(len(one))) for one in judged.values()])
    used = [stored for (_, _, stored), _ in zip(sets, judged, strict=False)]
    settings = undrawn(recipe.generation).model_dump(include=set(_DECODING)) if writer else None
    return Scored(metrics, len(everything), tokens, used, scores, documents, settings)


def _with_texts(
    recipe: Recipe,
    objective: WritingObjective,
    source: Source,
    stored: ExampleSet,
    judged: Sequence[Judged],
    loaded: "Loaded",
    progress: Any,
) -> list[Judged]:
    """The same rows with what the model writes for each, and what was to be written."""
    examples = [stored[one.number] for one in judged]
    settings, size = undrawn(recipe.generation), recipe.evaluation.batch_size
    texts = write_texts(loaded.model, objective, examples, settings, size, loaded.eos_ids, progress)
    wanted = {one.number: example for one, example in zip(judged, examples, strict=True)}
    right = {number: objective.references(row, wanted[number]) for number, row in enumerate(rows_of(source, stored)) if number in wanted}
    return [replace(one, prediction={"text": text, "references": right[one.number]}) for one, text in zip(judged, texts, strict=True)]


def _labels(recipe: Recipe, loaded: "Loaded") -> list[str]:
    """The classes of the checkpoint, in its own order; by the recipe's names, if it gives as many."""
    if not recipe.objective.has_labels:
        return []
    if named := recipe.objective.named_labels:
        count = getattr(loaded.config.head, "count", 0)
        if len(named) != count:
            raise UsageError(
                f"objective.labels names {len(named)} classes, and {loaded.folder} has {count}: name all, in its order, or leave it out"
            )
        check_order(str(loaded.folder), loaded.labels, named)
        return named
    if not loaded.labels:
        raise ModelError(f"{loaded.folder}: config.json names no labels (id2label), so nobody knows what its classes are; name them there")
    return list(loaded.labels)


def _tokens(stored: Stored) -> int:
    return int(stored.lengths.sum()) if isinstance(stored, ExampleSet) else len(stored.tokens)
