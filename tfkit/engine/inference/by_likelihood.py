"""Evaluation by the two objectives that no model is trained with: minimal pairs, and multiple choice with examples in the prompt."""

from collections.abc import Iterator

from tfkit.data import Row, Source
from tfkit.data.columns.rows import Skipped, describe_skipped
from tfkit.data.sources.open_sources import training_sources
from tfkit.engine.assembly.training_data import set_names
from tfkit.engine.assembly.validation import join_metrics
from tfkit.engine.inference.by_row import Evaluation, ReadSet, Scored
from tfkit.engine.inference.session import WHOLE
from tfkit.engine.listener import Listener
from tfkit.errors import DataError, ModelError
from tfkit.evaluation.judging import JUDGES, Judgement, judge_by_likelihood, verdict_metrics
from tfkit.evaluation.row_scores import TokenBudget
from tfkit.objectives.metrics import unit_weights
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection


def evaluate_likelihood(evaluation: Evaluation) -> Scored:
    """Score the rows of data.validation by the likelihoods that the model gives to their texts.

    Raises ModelError if the model gives no likelihood of a text, UsageError if there are no rows, DataError if all rows are bad.
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
            total = sum(1 for _ in source.rows({})) if budget.left is None else None  # unknown if tokens are limited
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
