"""Evaluation by an objective's own rows, for every objective but a causal language model's."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from tfkit.data import ExampleSet, Source
from tfkit.data.sources.open_sources import validation_sources
from tfkit.data.store.overlap import Hashes
from tfkit.engine.base_model import check_order
from tfkit.engine.baseline_scores import evaluation_baselines, scored_rows
from tfkit.engine.reference_model import of_finished
from tfkit.engine.scoring.prediction_lines import prediction_lines
from tfkit.engine.scoring.shared_inputs import SharedInput, number_inputs, shared_inputs, with_texts
from tfkit.engine.session import WHOLE
from tfkit.engine.settings import Settings
from tfkit.engine.training_data import ValidationSet, report_rows, set_names, store, with_lost
from tfkit.engine.validation import judge_sets, of_sets, score_sets
from tfkit.errors import ModelError, UsageError
from tfkit.evaluation.baselines import Baselines
from tfkit.evaluation.lost_rows import completed, only_class, reasons, wrong_answers
from tfkit.evaluation.predictions import Judged, answer_metrics, written_metrics
from tfkit.evaluation.row_scores import first_rows, tokens_of_first
from tfkit.evaluation.token_budget import TokenBudget
from tfkit.evaluation.written import undrawn
from tfkit.hub.config_json import read_facts
from tfkit.objectives.context import ModelContext, RowOrder, Stored, row_length, tokens_of
from tfkit.objectives.labelled import LabelledObjective
from tfkit.objectives.metrics import Scores, unit_weights
from tfkit.objectives.metrics.texts import require_libraries
from tfkit.objectives.objective import Objective
from tfkit.objectives.registry import objective_tokenizer, open_objective
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer

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
    """The entry of a receipt for data that was read."""

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
    scores: Scores | None = None  # of labelled rows and texts: the metrics of all together, for their intervals
    units: int = 0  # by whose weights these are: rows, or the inputs for which texts were written
    predictions: list[dict[str, Any]] = field(default_factory=list)  # of labelled rows, one each
    facts: dict[str, Any] = field(default_factory=dict)  # further ones of the result: how texts were written, where some were
    texts: Sequence[Hashes] = ()  # the hashes of the scored texts of each set
    baselines: Baselines = field(default_factory=dict)


def evaluate_rows(settings: Settings, loaded: "Loaded", work: "Session", *, each: bool = False) -> Scored:
    """Score the rows of data.validation for the objective; of a distillation for what the student is trained for.

    `each`: with a prediction for every row that has an answer.

    Raises UsageError if the model is not for this objective, or has no such rows; ModelError if nobody says what its classes are.
    """
    section = settings.objective.trained_for.judged_alone
    objective, tokenizer = open_finished(section, loaded, settings)
    if section.answers_in_text:
        require_libraries(settings.evaluation.text_metrics)
    data, sources = scored_sources(settings, section.roles, "rows to score")
    sets, order = stored_sets(settings, data, sources, objective, tokenizer, loaded, work)
    if objective.labelled is not None:
        examples = [one.stored for one in sets if isinstance(one.stored, ExampleSet)]
        counts = rows_within(objective.labelled, order, examples, settings.evaluation.max_tokens)
        sets = [with_lost(one, objective, work.listener, count) for one, count in zip(sets, counts, strict=False)]
        report_rows([one.stored for one in sets], work.listener)
        sets = _referenced(settings, objective.labelled, sets, loaded, work)
        return _labelled(settings, order, objective.labelled, sources, sets, counts, loaded, work, each=each)
    report_rows([one.stored for one in sets], work.listener)
    return _unlabelled(settings, order, objective, sets, loaded, work)


def scored_sources(settings: Settings, roles: tuple[Role, ...], what: str) -> tuple[DataSection, list[Source]]:
    """The sources that are scored. Raises UsageError if there are none; `what`: what they hold, and what is done with it."""
    data = settings.data
    sources = validation_sources(data, roles) if data is not None else []
    if data is None or not sources:
        raise UsageError(f"there are no {what}: give them as --data F, or a recipe with data.validation")
    return data, sources


def stored_sets(
    settings: Settings,
    data: DataSection,
    sources: Sequence[Source],
    objective: Objective,
    tokenizer: Tokenizer,
    loaded: "Loaded",
    work: "Session",
) -> tuple[list[ValidationSet], RowOrder]:
    """The set of each source, whose rows that are cut are counted, and the order of the rows of a set."""
    for source in sources:
        work.listener.say(source.describe())
    with work.first_alone(), work.stop.at_once():
        stored = [store(source, data, objective, tokenizer, work.listener, counts_lost=True) for source in sources]
    for one in stored:
        one.check_vocabulary(loaded.config.vocab_size)
    order = RowOrder(row_length(data.sequence_length, loaded.config), settings.seed, settings.batch_size, data.length_groups)
    return [ValidationSet(*one) for one in zip(set_names(data, sources), stored, sources, strict=True)], order


def _referenced(
    settings: Settings, objective: LabelledObjective, sets: Sequence[ValidationSet], loaded: "Loaded", work: "Session"
) -> list[ValidationSet]:
    """The sets with what the reference says of their rows, of an objective that compares the model with one."""
    stored = [one.stored for one in sets if isinstance(one.stored, ExampleSet)]
    with work.first_alone(), work.stop.at_once(WHOLE):
        found = of_finished(stored, objective, loaded, settings.evaluation.batch_size, work.listener)
    return [replace(one, stored=read) for one, read in zip(sets, found, strict=True)]


def open_finished(section: ObjectiveSection, loaded: "Loaded", settings: Settings) -> tuple[Objective, Tokenizer]:
    """The objective for a finished model, and the tokenizer that it reads. Raises ModelError if they do not fit."""
    if problems := fitting_problems(section, loaded.config):
        raise ModelError(f"{loaded.folder}: {'; '.join(problems)}; give a recipe with the objective that it was trained for")
    assert loaded.codec is not None
    tokenizer = objective_tokenizer(section, loaded.codec, is_finished=True)
    labels, facts = _labels(section, loaded), read_facts(loaded.folder)
    context = ModelContext(loaded.config, tokenizer, labels, settings.seed, loaded.folder, facts, settings.sequence_length)
    return open_objective(section, context), tokenizer


def _unlabelled(
    settings: Settings, order: RowOrder, objective: Objective, sets: list[ValidationSet], loaded: "Loaded", work: "Session"
) -> Scored:
    """Rows that are cut from texts: what the objective measures, and no answers."""
    budget = TokenBudget(settings.evaluation.max_tokens)
    scored: list[Stored] = []
    rows = tokens = 0
    for one in budget.until_spent(sets):
        cut = objective.open_rows([(one.stored, 1.0)], order)
        first = first_rows(cut, budget.left)
        scored.append(one.stored)
        rows, tokens = rows + first, tokens + (tokens_of(one.stored) if first == len(cut) else tokens_of_first(cut, first))
        budget.spend(tokens_of_first(cut, first))
    with work.listener.progress("scoring", rows, "rows") as bar, work.stop.at_once(WHOLE):
        metrics = score_sets(settings.evaluation, order, objective, sets, loaded.model, work=work.batches(bar))
    assert metrics is not None  # nothing asked it to stop
    return Scored(metrics, rows, tokens, scored, texts=[one.texts for one in scored])


def _labelled(
    settings: Settings,
    order: RowOrder,
    objective: LabelledObjective,
    sources: Sequence[Source],
    sets: Sequence[ValidationSet],
    counts: Sequence[int],
    loaded: "Loaded",
    work: "Session",
    *,
    each: bool,
) -> Scored:
    """Rows that have an answer each: the model's, and the metrics of all of them, those that are lost included."""
    writer = objective.writer if settings.evaluation.text_metrics else None
    text_metrics = settings.evaluation.text_metrics if writer else ()
    used = [one.stored for one in sets if isinstance(one.stored, ExampleSet)]
    inputs: list[list[SharedInput]] = []
    if writer is not None:
        inputs = [shared_inputs(writer, *one) for one in zip(sources, used, counts, strict=False)]
    with work.listener.progress("scoring", sum(counts) + sum(map(len, inputs)), "rows") as bar, work.stop.at_once(WHOLE):
        read = judge_sets(settings.evaluation, order, objective, used, loaded.model, work=work.batches(bar))
        assert read is not None  # nothing asked it to stop
        if writer is not None:
            read = [with_texts(settings, writer, *one, loaded, work.batches(bar)) for one in zip(used, read, inputs, strict=True)]
        read = [completed(objective, *one) for one in zip(sources, used, read, strict=False)]
        wrong = [wrong_answers(objective, one.lost, count) for one, count in zip(sets, counts, strict=True)]
        if writer is not None:
            inputs = [
                [*shared, *(SharedInput([one.number], one.prediction["references"]) for one in lost)]
                for shared, lost in zip(inputs, wrong, strict=True)
            ]
        judged = [[*found, *lost] for found, lost in zip(read, wrong, strict=True)]
        metrics, scores, units = _metrics(settings, objective, [one.name for one in sets], judged, inputs)
    predictions = [found.prediction for part in judged for found in part]
    if label := only_class([one["label"] for one in predictions if "label" in one]):
        work.listener.warn(f"all {len(predictions):,} rows have the label {label!r}: the metrics say nothing about the other classes")
    facts = objective.answer_figures(predictions) | {"lost": reasons([one for part in sets for one in part.lost])}
    if writer is not None:
        facts |= _of_texts(settings, units, inputs)
    with work.stop.at_once(WHOLE):
        beside = evaluation_baselines(settings.objective.trained_for, text_metrics, loaded.folder, scored_rows(sources, used, read))
        lines = prediction_lines(settings.objective.trained_for, objective, sources, sets, read) if each else []
    return Scored(
        metrics,
        len(predictions),
        sum(int(one.lengths[: len(found)].sum()) for one, found in zip(used, read, strict=True)),
        used,
        scores,
        units,
        lines,
        facts,
        [one.texts[:count] for one, count in zip(used, counts, strict=True)],
        beside,
    )


def _of_texts(settings: Settings, units: int, inputs: Sequence[Sequence[SharedInput]]) -> dict[str, Any]:
    """Return how texts were written, and with how many they were compared."""
    facts: dict[str, Any] = {"decoding": undrawn(settings.generation).model_dump(include=set(_DECODING))}
    facts |= {"bleu_tokenize": settings.evaluation.bleu_tokenize} if "bleu" in settings.evaluation.text_metrics else {}
    return facts | {"inputs": units, "references": sum(len(one.references) for part in inputs for one in part)}


def rows_within(objective: LabelledObjective, order: RowOrder, sets: Sequence[ExampleSet], max_tokens: int | None) -> list[int]:
    """Return how many rows of each set are scored; the last sets may be left out."""
    budget, counts = TokenBudget(max_tokens), []
    for one in budget.until_spent(sets):
        rows = objective.open_rows([(one, 1.0)], order)
        counts.append(first_rows(rows, budget.left))
        budget.spend(tokens_of_first(rows, counts[-1]))
    return counts


def _metrics(
    settings: Settings,
    objective: LabelledObjective,
    names: Sequence[str],
    judged: Sequence[Sequence[Judged]],
    inputs: Sequence[Sequence[SharedInput]],
) -> tuple[dict[str, float], Scores, int]:
    """The metrics; the same as a function of how often each input counts (where no texts are written, each row is one); the inputs."""

    def scores_of(sets: Sequence[Sequence[Judged]], shared: Sequence[Sequence[SharedInput]]) -> tuple[Scores, int]:
        rows = [one for part in sets for one in part]
        if not shared:
            return answer_metrics(objective, rows), len(rows)
        evaluation, of_input = settings.evaluation, number_inputs(shared)
        return written_metrics(objective, rows, of_input, evaluation.text_metrics, evaluation.bleu_tokenize), int(of_input.max()) + 1

    scores, units = scores_of(judged, inputs)
    parts = [scores_of([part], inputs[number : number + 1]) for number, part in enumerate(judged) if len(names) > 1]
    return of_sets(scores(unit_weights(units)), [part(unit_weights(count)) for part, count in parts], names), scores, units


def _labels(section: ObjectiveSection, loaded: "Loaded") -> list[str]:
    """The classes of the checkpoint, in its own order; by the section's names, if it gives as many."""
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
