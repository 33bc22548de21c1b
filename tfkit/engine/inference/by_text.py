"""Evaluation of a causal language model by its loss on whole texts."""

from collections.abc import Sequence
from typing import Any

from tfkit.data import Source, TokenStream
from tfkit.engine.assembly.training_data import report_rows, set_names, tokenized
from tfkit.engine.assembly.validation import join_metrics
from tfkit.engine.inference.by_row import Evaluation, Scored
from tfkit.engine.inference.session import WHOLE
from tfkit.errors import ModelError
from tfkit.evaluation.row_scores import TokenBudget
from tfkit.evaluation.text_scores import TextScore, count_targets, score_streams, text_score_metrics
from tfkit.objectives.context import piece_length
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
    with session.first_alone(), session.stop.at_once():
        streams = [tokenized(source, loaded.require_tokenizer(), session.listener) for source in sources]
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
    """Return a line of --predictions for each text: its place, its mean loss in nats per target token, and how many targets and bytes."""
    lines = []
    for source, score in zip(sources, scores, strict=False):
        places = (row.place for row in source.rows() if row.text)  # the token stream omits empty texts
        for place, loss, tokens, size in zip(places, score.losses, score.targets, score.bytes, strict=False):
            mean = float(loss / tokens) if tokens else None
            lines.append({"place": place, "loss": mean, "tokens": int(tokens), "bytes": int(size)})
    return lines
