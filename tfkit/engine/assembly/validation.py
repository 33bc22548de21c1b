"""Score the validation sets during a training: all sets together and, if there are several, each set by itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tfkit.adapters import FrozenReference
from tfkit.data import Rows, TokenStream
from tfkit.engine.assembly.training_data import TrainingData, ValidationSet
from tfkit.errors import DataError, Stopped, UsageError
from tfkit.evaluation.lost_rows import completed, within, wrong_answers
from tfkit.evaluation.row_scores import RowPrediction, TokenBudget, answer_metrics, first_rows, judge_rows, score_rows, tokens_of_first
from tfkit.evaluation.text_scores import score_streams
from tfkit.generation.complete import encode_prompts
from tfkit.generation.decoding import check_length
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import RowOrder, row_length
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.objective import Objective, Sum
from tfkit.objectives.registry import open_rows, row_order
from tfkit.parallel.rank_map import BatchWork
from tfkit.recipe.schema.output_sections import EvaluationSection
from tfkit.recipe.schema.sections import Recipe

_MOST_COUNTS = 400  # the most elements of a confusion matrix that is logged; a larger one would make the log too long


@dataclass(frozen=True)
class SetScores:
    """The metrics of the validation sets, and the confusion matrix by target and predicted class (None: no classes, or too many)."""

    metrics: dict[str, float]
    confusion: dict[str, dict[str, int]] | None = None


@dataclass(frozen=True)
class SetScorer:
    """Scores rows of validation sets: `evaluation.max_tokens` limits the tokens of all sets together, so the last may not be scored."""

    settings: EvaluationSection
    order: RowOrder
    objective: Objective

    def opened(self, sets: Iterable[ValidationSet]) -> Iterator[tuple[Rows, int | None, int]]:
        """Yield, for each set that is scored, its rows, how many tokens they may have (None: no limit), and how many rows are scored."""
        budget = TokenBudget(self.settings.max_tokens)
        for held_out in budget.until_spent(sets):
            rows = self.objective.open_rows([(held_out.stored, 1.0)], self.order)
            count = first_rows(rows, budget.left)
            yield rows, budget.left, count
            budget.spend(tokens_of_first(rows, count))

    def counts(self, sets: Iterable[ValidationSet]) -> list[int]:
        """Return how many rows of each set are scored."""
        return [count for _, _, count in self.opened(sets)]

    def judge(self, sets: Iterable[ValidationSet], model: Transformer, work: BatchWork) -> list[list[RowPrediction]]:
        """Return the predictions for each set's rows. The objective must read labelled rows. Raises Stopped."""
        labelled, size = self.objective.labelled, self.settings.batch_size
        assert labelled is not None
        return [judge_rows(model, labelled, rows, size, max_tokens=left, work=work) for rows, left, _ in self.opened(sets)]

    def scores(self, sets: Sequence[ValidationSet], model: Transformer, work: BatchWork) -> SetScores:
        """Return the scores of all sets together and, if there are several, of each set. Raises Stopped."""
        names, objective, labelled = [one.name for one in sets], self.objective, self.objective.labelled
        if labelled is not None and labelled.evaluates_answers:
            judged = self.judge(sets, model, work)
            judged = [
                [
                    *completed(labelled, one.source, one.examples, part),
                    *wrong_answers(labelled, within(one.lost, len(part), len(one.stored)), len(part)),
                ]
                for part, one in zip(judged, sets, strict=False)
            ]
            everything = [one for part in judged for one in part]  # an F1 over all sets is not the mean of the sets' F1
            whole, *parts = (answer_metrics(labelled, part)(unit_weights(len(part))) for part in (everything, *judged))
            confusion: dict[str, dict[str, int]] | None = labelled.label_metrics([one.prediction for one in everything]).get("confusion")
            is_small = confusion is not None and sum(map(len, confusion.values())) <= _MOST_COUNTS
            return SetScores(join_metrics(whole, parts, names), confusion if is_small else None)
        together: dict[str, Sum] = {}
        each = []
        for rows, left, _ in self.opened(sets):
            sums = score_rows(model, objective, rows, self.settings.batch_size, max_tokens=left, work=work)
            together = {name: together[name] + added if name in together else added for name, added in sums.items()}
            each.append(objective.metrics(sums))
        return SetScores(join_metrics(objective.metrics(together), each, names))


def score_validation(
    recipe: Recipe, data: TrainingData, model: Transformer, should_stop: Callable[[], bool], reference: FrozenReference | None = None
) -> SetScores | None:
    """Return `loss` and other metrics of the objective; with several sets also those of each set, as `<set>.<metric>`. None if stopped.

    Causal language modeling is scored text by text, as by `tfkit evaluate`; an objective that samples responses, on new responses;
    others on their rows (distillation without the teacher). `evaluation.max_tokens` limits all sets together: the last may lack scores.
    """
    work = BatchWork(should_stop=should_stop)
    with suppress(Stopped):
        if recipe.objective.trained_for.scored_by == "text":
            return _texts(recipe, data, model, work)
        order = row_order(recipe, data.config)
        if data.objective.rollouts is not None:
            return _responses(recipe, data, order, model, reference, work)
        return SetScorer(recipe.evaluation, order, data.objective.evaluation_objective).scores(data.validation, model, work)
    return None


def check_validation(recipe: Recipe, data: TrainingData) -> None:
    """Raise DataError if a validation set cannot be divided into rows (too little text, no second document): evaluating it would fail.

    A set that is scored text by text is not checked. Raises UsageError if the evaluations will not have evaluation.metric.
    """
    objective = data.objective.evaluation_objective
    objective.check_metric(recipe.evaluation.metric)
    if recipe.objective.trained_for.scored_by != "text":
        for held_out in data.validation:
            open_rows(recipe, objective, [(held_out.stored, 1.0)], data.config)


def _texts(recipe: Recipe, data: TrainingData, model: Transformer, work: BatchWork) -> SetScores:
    settings = recipe.evaluation
    streams = [held_out.stored for held_out in data.validation if isinstance(held_out.stored, TokenStream)]
    length = row_length(recipe.data.sequence_length, model.config)
    scores = score_streams(model, streams, length, settings.batch_size, max_tokens=settings.max_tokens, work=work)
    names = [held_out.name for held_out in data.validation]
    return SetScores(join_metrics(sum(scores[1:], start=scores[0]).metrics(), [score.metrics() for score in scores], names))


def _responses(
    recipe: Recipe, data: TrainingData, order: RowOrder, model: Transformer, reference: FrozenReference | None, work: BatchWork
) -> SetScores:
    from tfkit.alignment.held_out import judge_prompts, response_metrics

    objective, settings, seed = data.objective, recipe.evaluation, recipe.generation.seed
    assert objective.rollouts is not None
    assert data.rules is not None, "without rules a training is only planned"
    prompts = [held_out.examples for held_out in data.validation]
    counts = SetScorer(settings, order, objective).counts(data.validation)
    given = (model, reference, prompts, counts, objective.rollouts, data.rules)
    judged = judge_prompts(*given, seed=seed, batch_size=settings.batch_size, work=work)
    whole, *parts = (response_metrics(objective, part) for part in ([one for part in judged for one in part], *judged))
    return SetScores(join_metrics(whole, parts, [one.name for one in data.validation]))


def join_metrics(together: Mapping[str, float], each: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of all sets together and, if there are several, of each set as `<set>.<metric>`. `each` may lack the last sets."""
    if len(names) < 2:
        return dict(together)
    return dict(together) | {f"{of}.{name}": value for of, metrics in zip(names, each, strict=False) for name, value in metrics.items()}


def check_prompts(recipe: Recipe, data: TrainingData, model: Transformer) -> None:
    """Raise UsageError if a prompt of the recipe, which evaluations let the model continue, is empty or leaves no room in the context."""
    texts, rendered = data.objective.prompts(recipe.generation.prompts)
    for number, ids in enumerate(encode_prompts(model, data.tokenizer, texts, rendered=rendered)):
        try:
            check_length(len(ids), number, model)
        except DataError as error:
            raise UsageError(f"generation.prompts: {error}") from None
