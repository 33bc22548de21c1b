"""Evaluation by an objective that defines its own rows: labelled rows, or pieces that it cuts from texts.

If answers are texts, rows can share an input: the model generates one text for them, and their answers are the references of that text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tfkit.data import ExampleSet, Source
from tfkit.data.sources.open_sources import validation_sources
from tfkit.data.store.overlap import Hashes
from tfkit.data.store.token_stream import check_ids
from tfkit.engine.assembly.base_model import open_finished
from tfkit.engine.assembly.preflight import with_lost
from tfkit.engine.assembly.reference_model import with_finished_reference
from tfkit.engine.assembly.training_data import RowStore, ValidationSet, report_rows, set_names
from tfkit.engine.assembly.training_rows import evaluation_baselines, scored_rows
from tfkit.engine.assembly.validation import SetScorer, join_metrics
from tfkit.engine.assembly.verdict import predicts_one_class
from tfkit.engine.inference.session import WHOLE, Session
from tfkit.engine.request.evaluation_settings import EvaluationSettings
from tfkit.errors import UsageError, argument
from tfkit.evaluation.baselines import Baselines
from tfkit.evaluation.lost_rows import completed, reasons, rows_of, wrong_answers
from tfkit.evaluation.row_scores import (
    RowPrediction,
    answer_metrics,
    deterministic,
    tokens_of_first,
    write_texts,
    written_metrics,
)
from tfkit.hub import Loaded
from tfkit.objectives.context import RowOrder, Stored, row_length, tokens_of
from tfkit.objectives.labelled import LabelledObjective, LabelProbabilities, WritingObjective
from tfkit.objectives.metrics import Numbers, Scores, unit_weights
from tfkit.objectives.metrics.texts import require_libraries
from tfkit.objectives.objective import Objective, weighted_loss
from tfkit.parallel.rank_map import BatchWork
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer

_DECODING = {
    *("max_new_tokens", "num_beams", "length_penalty", "length_law"),
    *("early_stopping", "repetition_penalty", "no_repeat_ngram", "stop"),
}


class ReadSet(NamedTuple):
    """The name and the fingerprint of a source that was read, as the evaluation's result lists them."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Scored:
    """The metrics of all validation sets, and the data from which they were computed."""

    metrics: dict[str, float]
    examples: int
    tokens: int
    stored: Sequence[Stored | ReadSet]
    scores: Scores | None = None  # computes the metrics from a weight for each unit, for bootstrap intervals; None: no intervals
    units: int = 0  # how many units a bootstrap sample draws: rows, prompts or texts; or inputs, if generated texts are scored
    predictions: list[dict[str, Any]] = field(default_factory=list)  # a line of --predictions for each labelled row, prompt or text
    facts: dict[str, Any] = field(default_factory=dict)  # further fields of the result, such as how texts were generated
    texts: Sequence[Hashes] = ()  # the hashes of the scored texts, by validation set
    baselines: Baselines = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A model to evaluate, and the settings of its evaluation. `each`: also return the lines of --predictions."""

    settings: EvaluationSettings
    loaded: Loaded
    session: Session
    each: bool

    def sources(self, roles: tuple[Role, ...], what: str) -> tuple[DataSection, list[Source]]:
        """Return the settings' section `data` and its sources to score. Raises UsageError, "there are no `what`", if there are none."""
        data = self.settings.data
        sources = validation_sources(data, roles, self.settings.seed) if data is not None else []
        objective = self.settings.objective
        if data is None and objective.roles != objective.trained_for.roles:
            raise UsageError(
                f"there are no {what}: the recipe has prompts, to which its training sampled completions; give rows of "
                f"{objective.trained_for.kind} as {argument('data', 'F')}"
            )
        if data is None or not sources:
            raise UsageError(f"there are no {what}: give them as {argument('data', 'F')}, or a recipe with data.validation")
        return data, sources

    def sets(self, roles: tuple[Role, ...], what: str, objective: Objective, tokenizer: Tokenizer) -> tuple[list[ValidationSet], SetScorer]:
        """Return a validation set for each source, without rows that cannot be encoded (`scored_sets` adds lost ones), and a SetScorer."""
        settings, listener, config = self.settings, self.session.listener, self.loaded.config
        data, sources = self.sources(roles, what)
        for source in sources:
            listener.say(source.describe())
        with self.session.first_alone(), self.session.stop.at_once():
            store = RowStore(data, objective, tokenizer, listener)
            stored = [store.rows(source, counts_lost=True) for source in sources]
        for examples in stored:
            check_ids(examples.name, examples.max_id, config.vocab_size)
        order = RowOrder(row_length(data.sequence_length, config), settings.seed, settings.batch_size, data.length_groups)
        sets = [ValidationSet(*examples) for examples in zip(set_names(data, sources), stored, sources, strict=True)]
        return sets, SetScorer(settings.evaluation, order, objective)

    def scored_sets(self, scorer: SetScorer, sets: Sequence[ValidationSet]) -> tuple[list[ValidationSet], list[int]]:
        """Return the sets of labelled rows with their lost rows, which the model cannot read or answer (evaluation/lost_rows.py), and how
        many other rows of each set are scored. With evaluation.max_tokens, sets for which no tokens are left are omitted.
        """
        labelled, listener, counts = scorer.objective.labelled, self.session.listener, scorer.counts(sets)
        assert labelled is not None
        scored = [with_lost(held_out, labelled, listener, count) for held_out, count in zip(sets, counts, strict=False)]
        report_rows([held_out.stored for held_out in scored], listener)
        return scored, counts


@dataclass(frozen=True)
class _SharedInput:
    """An input of one or more rows: the indices of these rows in their set, in increasing order, and their distinct answers."""

    rows: list[int]
    references: list[str]


def evaluate_rows(evaluation: Evaluation) -> Scored:
    """Score the rows of data.validation by the objective; after a distillation, by the student's objective without the teacher.

    Raises ModelError if the model does not fit the objective or the names of its classes are unknown, UsageError if there are no rows.
    """
    settings, session = evaluation.settings, evaluation.session
    section = settings.objective.trained_for.judged_alone
    objective, tokenizer = open_finished(section, evaluation.loaded, settings)
    if section.answers_in_text:
        require_libraries(settings.evaluation.text_metrics)
    sets, scorer = evaluation.sets(section.roles, "rows to score", objective, tokenizer)
    if objective.labelled is None:
        report_rows([held_out.stored for held_out in sets], session.listener)
        return _score_unlabelled(evaluation, scorer, sets)
    sets, counts = evaluation.scored_sets(scorer, sets)
    examples, size = [held_out.examples for held_out in sets], settings.evaluation.batch_size
    with session.first_alone(), session.stop.at_once(WHOLE):
        referenced = with_finished_reference(examples, objective.labelled, evaluation.loaded, size, session.listener)
    sets = [replace(held_out, stored=stored) for held_out, stored in zip(sets, referenced, strict=True)]
    return _score_labelled(evaluation, scorer, objective.labelled, sets, counts)


def _score_unlabelled(evaluation: Evaluation, scorer: SetScorer, sets: list[ValidationSet]) -> Scored:
    """Score the rows that an objective without labels cuts from texts, by the metrics of the objective."""
    session, scored = evaluation.session, list[Stored]()
    rows = tokens = 0
    for held_out, (opened, _, count) in zip(sets, scorer.opened(sets), strict=False):
        scored.append(held_out.stored)
        rows, tokens = rows + count, tokens + (tokens_of(held_out.stored) if count == len(opened) else tokens_of_first(opened, count))
    with session.listener.progress("scoring", rows, "rows") as bar, session.stop.at_once(WHOLE):
        scores = scorer.scores(sets, evaluation.loaded.model, session.batches(bar))
    return Scored(scores.metrics, rows, tokens, scored, texts=[stored.texts for stored in scored])


def _score_labelled(
    evaluation: Evaluation, scorer: SetScorer, objective: LabelledObjective, sets: Sequence[ValidationSet], counts: Sequence[int]
) -> Scored:
    """Score labelled rows. Lost rows (which the model cannot read or answer) count as wrong answers, except, for example, in regression."""
    settings, loaded, session = evaluation.settings, evaluation.loaded, evaluation.session
    section = settings.objective.trained_for
    writer = objective.writer if settings.evaluation.text_metrics else None
    text_metrics = settings.evaluation.text_metrics if writer else ()
    inputs: list[list[_SharedInput]] = []
    if writer is not None:
        inputs = [_shared_inputs(writer, *one) for one in zip(sets, counts, strict=True)]
    with session.listener.progress("scoring", sum(counts) + sum(map(len, inputs)), "rows") as bar, session.stop.at_once(WHOLE):
        used, work = [held_out.examples for held_out in sets], session.batches(bar)
        results = scorer.judge(sets, loaded.model, work)
        if writer is not None:
            results = [_with_texts(settings, writer, *one, loaded, work) for one in zip(used, results, inputs, strict=True)]
        results = [completed(objective, one.source, one.examples, rows) for one, rows in zip(sets, results, strict=True)]
        wrong = [wrong_answers(objective, held_out.lost, count) for held_out, count in zip(sets, counts, strict=True)]
        if writer is not None:
            inputs = [
                [*shared, *(_SharedInput([row.number], row.prediction["references"]) for row in lost)]
                for shared, lost in zip(inputs, wrong, strict=True)
            ]
        judged = [[*rows, *lost] for rows, lost in zip(results, wrong, strict=True)]
        metrics, scores, units = _metrics(settings, objective, [held_out.name for held_out in sets], judged, inputs)
    predictions = [row.prediction for rows in judged for row in rows]
    labels = [prediction["label"] for prediction in predictions if "label" in prediction]
    if len(labels) > 1 and len(set(labels)) == 1:
        session.listener.warn(
            f"all {len(predictions):,} rows have the label {labels[0]!r}: the metrics say nothing about the other classes"
        )
    elif predicts_one_class(metrics):
        session.listener.warn("the model predicts the same class for every row: it does not distinguish the classes")
    facts = objective.label_metrics(predictions) | {"lost": reasons([row for held_out in sets for row in held_out.lost])}
    if writer is not None:
        facts |= _generation_facts(settings, units, inputs)
    with session.stop.at_once(WHOLE):
        rows = scored_rows([held_out.source for held_out in sets], used, results)
        baselines = evaluation_baselines(section, text_metrics, loaded.folder, rows)
        lines = _prediction_lines(section, objective, sets, results) if evaluation.each else []
    return Scored(
        metrics,
        len(predictions),
        sum(int(examples.lengths[: len(rows)].sum()) for examples, rows in zip(used, results, strict=True)),
        used,
        scores,
        units,
        lines,
        facts,
        [examples.texts[:count] for examples, count in zip(used, counts, strict=True)],
        baselines,
    )


def _shared_inputs(objective: WritingObjective, held_out: ValidationSet, count: int) -> list[_SharedInput]:
    """Return the distinct inputs of the first `count` rows of a set, in the order in which they first occur.

    Rows share an input if the model reads the same tokens for them and their whole inputs, before any truncation, are equal too.
    """
    inputs, stored = dict[object, _SharedInput](), held_out.examples
    for number, row in zip(range(count), rows_of(held_out.source, stored), strict=False):
        example = stored[number]
        shared = inputs.setdefault((tuple(objective.prompt_ids(example)), row.input_key), _SharedInput([], []))
        shared.rows.append(number)
        shared.references.extend(text for text in objective.references(row, example) if text not in shared.references)
    return list(inputs.values())


def _number_inputs(sets: Sequence[Sequence[_SharedInput]]) -> Numbers:
    """Return for each row the index of its input, (rows,); rows and inputs are counted across all sets."""
    inputs = [one for part in sets for one in part]
    firsts = np.cumsum([0, *(sum(len(one.rows) for one in part) for part in sets)])  # index of each set's first row, and the row count
    numbers = np.empty(firsts[-1], np.int64)
    for number, (first, one) in enumerate(zip(np.repeat(firsts[:-1], [len(part) for part in sets]), inputs, strict=True)):
        numbers[first + np.array(one.rows)] = number
    return numbers


def _with_texts(
    settings: EvaluationSettings,
    objective: WritingObjective,
    stored: ExampleSet,
    judged: Sequence[RowPrediction],
    inputs: Sequence[_SharedInput],
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


def _generation_facts(settings: EvaluationSettings, units: int, inputs: Sequence[Sequence[_SharedInput]]) -> dict[str, Any]:
    """Return fields of the result: how texts were generated and compared, how many inputs there are, and how many reference texts."""
    facts: dict[str, Any] = {"decoding": deterministic(settings.generation).model_dump(include=_DECODING)}
    facts |= {"bleu_tokenize": settings.evaluation.bleu_tokenize} if "bleu" in settings.evaluation.text_metrics else {}
    return facts | {"inputs": units, "references": sum(len(one.references) for part in inputs for one in part)}


def _metrics(
    settings: EvaluationSettings,
    objective: LabelledObjective,
    names: Sequence[str],
    judged: Sequence[Sequence[RowPrediction]],
    inputs: Sequence[Sequence[_SharedInput]],
) -> tuple[dict[str, float], Scores, int]:
    """Return the metrics of all sets and of each set, a function that computes the former from a weight per unit, and the number of units.

    A unit is a row or, if texts are generated, an input: rows with the same input share one generated text.
    """

    def scores_of(sets: Sequence[Sequence[RowPrediction]], shared: Sequence[Sequence[_SharedInput]]) -> tuple[Scores, int]:
        rows = [one for part in sets for one in part]
        if not shared:
            return answer_metrics(objective, rows), len(rows)
        evaluation, of_input = settings.evaluation, _number_inputs(shared)
        return written_metrics(objective, rows, of_input, evaluation.text_metrics, evaluation.bleu_tokenize), int(of_input.max()) + 1

    scores, units = scores_of(judged, inputs)
    parts = [scores_of([part], inputs[number : number + 1]) for number, part in enumerate(judged) if len(names) > 1]
    return join_metrics(scores(unit_weights(units)), [part(unit_weights(count)) for part, count in parts], names), scores, units


def _prediction_lines(
    section: ObjectiveSection, objective: LabelledObjective, sets: Sequence[ValidationSet], judged: Sequence[Sequence[RowPrediction]]
) -> list[dict[str, Any]]:
    """Return a line of --predictions for each scored or lost row. Sources are read again, for the columns that stored examples lack."""
    lines = []
    for held_out, results in zip(sets, judged, strict=True):
        rows = [row for _, row in zip(results, rows_of(held_out.source, held_out.examples), strict=False)]
        places = [(number, 1, row, None) for number, row in enumerate(rows)] + [(lost.before, 0, lost.row, lost) for lost in held_out.lost]
        for number, _, row, lost in sorted(places, key=lambda place: place[:2]):
            asked = {role.name: row.values[role.name] for role in section.asked_roles if role.name in row.values}
            if lost is not None:
                result = objective.wrong(row)
                lines.append({"place": row.place, **asked, "lost": lost.reason, **(result.prediction if result else {})})
                continue
            values = results[number].prediction.items()
            answer = {name: value.by_label() if isinstance(value, LabelProbabilities) else value for name, value in values}
            lines.append({"place": row.place, **asked, "loss": weighted_loss(objective.terms, results[number].sums), **answer})
    return lines
