"""Evaluation by the probabilities that a language model gives to texts: by its loss on whole texts, or by an objective that no model is
trained with: minimal pairs, or multiple choice with examples in the prompt.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tfkit.data import Row, Source, TokenStream
from tfkit.data.columns.rows import Skipped, describe_skipped
from tfkit.data.sources.open_sources import training_sources
from tfkit.engine.assembly.training_data import report_rows, set_names, tokenized
from tfkit.engine.assembly.validation import join_metrics
from tfkit.engine.inference.by_row import Evaluation, ReadSet, Scored
from tfkit.engine.inference.session import WHOLE
from tfkit.engine.listener import Listener
from tfkit.errors import DataError, ModelError
from tfkit.evaluation.judging import JUDGES, Judgement, judge_by_likelihood, verdict_metrics
from tfkit.evaluation.row_scores import TokenBudget
from tfkit.evaluation.text_scores import TextScore, count_targets, score_streams, text_score_metrics
from tfkit.objectives.context import piece_length
from tfkit.objectives.metrics import unit_weights
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.roles import TEXT


def evaluate_texts(evaluation: Evaluation) -> Scored:
    """Score the texts of data.validation.

    Raises ModelError if the model is no language model or has an encoder, UsageError if there are no texts.
    """
    settings, loaded, session = evaluation.settings, evaluation.loaded, evaluation.session
    config = loaded.config
    if config.head.kind != "lm" or config.encoder_layers:
        what = "is not a language model" if config.head.kind != "lm" else "has an encoder"
        raise ModelError(
            f"{loaded.folder}: this model {what}, so a text alone has no score; name the objective that it was trained for, such as "
            "objective.kind=masked_lm, or fine-tune it on labelled rows"
        )
    data, sources = evaluation.sources(TEXT, "texts to score")
    for source in sources:
        session.listener.say(source.describe())
    streams: list[TokenStream] = []
    try:
        with session.first_alone(), session.stop.at_once():
            for source in sources:
                streams.append(tokenized(source, loaded.require_tokenizer(), session.listener))
    finally:  # report skipped rows even if a later source cannot be read
        report_rows(streams, session.listener)
    length = piece_length(settings.sequence_length, loaded.config)
    limit, size = settings.evaluation.max_tokens, settings.evaluation.batch_size
    with session.listener.progress("scoring", _targets_within(streams, limit), "tokens") as bar, session.stop.at_once(WHOLE):
        scores = score_streams(loaded.model, streams, length, size, max_tokens=limit, work=session.batches(bar))
    whole = sum(scores[1:], start=scores[0])
    tokens = whole.target_tokens + len(whole.targets)
    metrics = join_metrics(whole.metrics(), [score.metrics() for score in scores], set_names(data, sources))
    lines: list[dict[str, Any]] = []
    if evaluation.each:
        with session.stop.at_once(WHOLE):
            lines = _text_predictions(sources, scores)
    rows, used = len(whole.targets), streams[: len(scores)]
    texts = [stream.texts[: len(score.targets)] for stream, score in zip(used, scores, strict=True)]
    facts = {"sequence_length": length}
    return Scored(metrics, rows, tokens, used, text_score_metrics(whole), rows, lines, facts, texts)


def _targets_within(streams: Sequence[TokenStream], limit: int | None) -> int:
    """Return the number of tokens that `score_streams` scores: those of whole texts up to `limit`, but at least those of the first text."""
    budget, total = TokenBudget(limit), 0
    for stream in budget.until_spent(streams):
        count = int(count_targets(stream, budget.left).sum())
        budget.spend(count)
        total += count
    return total


def _text_predictions(sources: list[Source], scores: list[TextScore]) -> list[dict[str, Any]]:
    """Return a line of --predictions for each text: its place, its mean loss in nats per target, and its numbers of targets and bytes."""
    lines = []
    for source, score in zip(sources, scores, strict=False):
        places = (row.place for row in source.rows() if row.text)  # the token stream omits empty texts
        for place, loss, tokens, size in zip(places, score.losses, score.targets, score.bytes, strict=False):
            mean = float(loss / tokens) if tokens else None
            lines.append({"place": place, "loss": mean, "tokens": int(tokens), "bytes": int(size)})
    return lines


def evaluate_likelihood(evaluation: Evaluation) -> Scored:
    """Score the rows of data.validation by the likelihoods that the model gives to their texts.

    Raises ModelError if the model gives no likelihood or lacks a start token, UsageError without rows, DataError if all rows are bad.
    """
    settings, loaded, session = evaluation.settings, evaluation.loaded, evaluation.session
    section = settings.objective
    if problems := fitting_problems(section, loaded.config):
        raise ModelError(f"{loaded.folder}: {'; '.join(problems)}; only a language model gives the probability of a text")
    assert loaded.codec is not None
    data, sources = evaluation.sources(section.roles, "rows to score")
    start_id = loaded.start_id if loaded.config.encoder_layers else None
    if loaded.config.encoder_layers and start_id is None:
        raise ModelError(f"{loaded.folder}: the start token of its decoder is not known; name decoder_start_token_id in config.json")
    budget = TokenBudget(settings.evaluation.max_tokens)
    judged: dict[str, Judgement] = {}
    names = set_names(data, sources)
    with session.stop.at_once(WHOLE):
        judge = JUDGES[section.kind](section, _examples(section, data, settings.seed) if section.reads_training else (), data.on_bad_row)
        for name, source in budget.until_spent(zip(names, sources, strict=True)):
            skipped: dict[str, Skipped] = {}
            total = sum(1 for _ in source.rows({})) if budget.left is None else None  # None: unknown, since tokens are limited
            with session.listener.progress(f"judging {source.name}", total, "rows") as bar:
                judgement = judge_by_likelihood(
                    loaded.model,
                    loaded.codec,
                    judge,
                    source.rows(skipped),
                    settings.evaluation.batch_size,
                    start_id=start_id,
                    max_tokens=budget.left,
                    on_bad_row=data.on_bad_row,
                    skipped=skipped,
                    work=session.batches(bar),
                )
            _report(source, judgement, skipped, loaded.config.context_length, session.listener)
            judged[name] = judgement
            budget.spend(judgement.tokens)
    verdicts = [verdict for judgement in judged.values() for verdict in judgement.verdicts]
    if not verdicts:
        raise DataError(f"{', '.join(source.name for source in sources)}: no row could be judged: all of them are bad; correct them")
    scores = verdict_metrics(verdicts)
    each = [verdict_metrics(judgement.verdicts)(unit_weights(len(judgement.verdicts))) for judgement in judged.values()]
    metrics = join_metrics(scores(unit_weights(len(verdicts))), each, names)
    used = [ReadSet(source.name, source.fingerprint()) for source, _ in zip(sources, judged, strict=False)]
    tokens = sum(judgement.tokens for judgement in judged.values())
    return Scored(metrics, len(verdicts), tokens, used, scores, len(verdicts), [verdict.prediction for verdict in verdicts])


def _examples(section: ObjectiveSection, data: DataSection, seed: int) -> Iterator[Row]:
    """Yield the rows of data.train, of which some become the examples in prompts. Raises DataError if the rows cannot be read."""
    try:
        for source in training_sources(data, section.roles, seed):
            yield from source.rows()
    except DataError as error:
        raise DataError(
            f"{error}; the examples of objective.shots are rows of data.train: name such rows there, or set objective.shots=0"
        ) from error


def _report(source: Source, judgement: Judgement, skipped: dict[str, Skipped], length: int, listener: Listener) -> None:
    """Warn about skipped and truncated rows. `length`: the model's context length, for the warning."""
    if note := describe_skipped(source.name, skipped):
        listener.warn(note)
    if judgement.cut:
        listener.warn(
            f"{source.name}: {judgement.cut:,} of {len(judgement.verdicts):,} rows are longer than the model's context of {length:,} "
            "tokens: they were truncated at their beginning"
        )
