"""The scores of the validation sets during a training: of all together and, if there are several, of each by its name."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit.adapters import FrozenReference
from tfkit.data import ExampleSet, Rows, TokenStream
from tfkit.engine.assembly.training_data import TrainingData, ValidationSet
from tfkit.evaluation.lost_rows import completed, within, wrong_answers
from tfkit.evaluation.row_scores import RowPrediction, TokenBudget, answer_metrics, first_rows, judge_rows, score_rows, tokens_of_first
from tfkit.evaluation.text_scores import score_streams
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import RowOrder, Stored, row_length
from tfkit.objectives.labelled import LabelledObjective
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.objective import Objective, Sum
from tfkit.objectives.registry import open_rows, row_order
from tfkit.parallel.rank_map import UNWATCHED, BatchWork
from tfkit.recipe.schema.sections import EvaluationSection, Recipe

if TYPE_CHECKING:
    from tfkit.alignment.held_out import JudgedResponse
    from tfkit.alignment.rewards import Rules


_MOST_COUNTS = 400  # of a confusion matrix, which is in the log once for each evaluation


@dataclass(frozen=True)
class SetScores:
    """The metrics of the validation sets, and for each class the counts of its predictions; None without classes, or with too many."""

    metrics: dict[str, float]
    confusion: dict[str, dict[str, int]] | None = None


def score_validation(
    recipe: Recipe, data: TrainingData, model: Transformer, should_stop: Callable[[], bool], reference: FrozenReference | None = None
) -> SetScores | None:
    """Return `loss` and the objective's other metrics; with several sets also those of each, as `<name>.loss`. None if it was stopped.

    A causal language model is scored text by text, as `tfkit evaluate` does; other objectives by their own rows; a student by the objective
    that it learns from the rows, without its teacher. `evaluation.max_tokens` limits all sets together, so the last ones may be left out.
    """
    work = BatchWork(should_stop=should_stop)
    if recipe.objective.trained_for.scored_by == "text":
        return _texts(recipe, data, model, work)
    order = row_order(recipe, data.config)
    if data.objective.rollouts is not None:
        seed, sets = recipe.generation.seed, data.validation
        assert data.rules is not None, "without rules a training is only planned"
        judged = judge_responses(recipe.evaluation, order, data.objective, data.rules, sets, model, reference, seed, work=work)
        return None if judged is None else SetScores(response_metrics(data.objective, judged, [one.name for one in sets]))
    return score_sets(recipe.evaluation, order, data.objective.evaluation_objective, data.validation, model, work=work)


def check_validation(recipe: Recipe, data: TrainingData) -> None:
    """Raise DataError if a set cannot be divided into rows (too little text, no second document): later it would end the run half-way.

    Raises UsageError if these rows do not have the metric of the best checkpoint.
    """
    objective = data.objective.evaluation_objective
    objective.check_metric(recipe.evaluation.metric)
    if recipe.objective.trained_for.scored_by != "text":
        for held_out in data.validation:
            open_rows(recipe, objective, [(held_out.stored, 1.0)], data.config)


def score_sets(
    settings: EvaluationSection,
    order: RowOrder,
    objective: Objective,
    sets: Sequence[ValidationSet],
    model: Transformer,
    *,
    work: BatchWork = UNWATCHED,
) -> SetScores | None:
    """Return the scores of all sets together and of each set. None if it was stopped."""
    names, labelled = [one.name for one in sets], objective.labelled
    if labelled is not None and labelled.evaluates_answers:
        judged = judge_sets(settings, order, labelled, [one.stored for one in sets], model, work=work)
        if judged is None:
            return None
        judged = [
            [*_with_cut_answers(labelled, one, part), *wrong_answers(labelled, within(one.lost, len(part), len(one.stored)), len(part))]
            for part, one in zip(judged, sets, strict=False)
        ]
        everything = [one for part in judged for one in part]  # F1 and correlations over all sets are not means over the sets
        whole, *parts = (answer_metrics(labelled, part)(unit_weights(len(part))) for part in (everything, *judged))
        confusion: dict[str, dict[str, int]] | None = labelled.label_metrics([one.prediction for one in everything]).get("confusion")
        is_small = confusion is not None and sum(map(len, confusion.values())) <= _MOST_COUNTS
        return SetScores(join_metrics(whole, parts, names), confusion if is_small else None)
    together: dict[str, Sum] = {}
    each = []
    for rows, left, _ in opened_sets(objective, order, [one.stored for one in sets], settings.max_tokens):
        sums = score_rows(model, objective, rows, settings.batch_size, max_tokens=left, work=work)
        if sums is None:
            return None
        together = {name: together[name] + added if name in together else added for name, added in sums.items()}
        each.append(objective.metrics(sums))
    return SetScores(join_metrics(objective.metrics(together), each, names))


def opened_sets(
    objective: Objective, order: RowOrder, sets: Iterable[Stored], max_tokens: int | None
) -> Iterator[tuple[Rows, int | None, int]]:
    """Yield the rows of each set that is scored, the tokens left for them, and how many rows these are; the last sets may be left out."""
    budget = TokenBudget(max_tokens)
    for stored in budget.until_spent(sets):
        rows = objective.open_rows([(stored, 1.0)], order)
        count = first_rows(rows, budget.left)
        yield rows, budget.left, count
        budget.spend(tokens_of_first(rows, count))


def _with_cut_answers(objective: LabelledObjective, held_out: ValidationSet, judged: Sequence[RowPrediction]) -> Sequence[RowPrediction]:
    """Return the results of a set, in which the parts of answers that were cut off count as wrong."""
    if not isinstance(held_out.stored, ExampleSet):
        return judged
    return completed(objective, held_out.source, held_out.stored, judged)


def judge_sets(
    settings: EvaluationSection,
    order: RowOrder,
    objective: LabelledObjective,
    sets: Iterable[Stored],
    model: Transformer,
    *,
    work: BatchWork = UNWATCHED,
) -> list[list[RowPrediction]] | None:
    """Return the results of each set, row by row; None if it was stopped."""
    results: list[list[RowPrediction]] = []
    for rows, left, _ in opened_sets(objective, order, sets, settings.max_tokens):
        judged = judge_rows(model, objective, rows, settings.batch_size, max_tokens=left, work=work)
        if judged is None:
            return None
        results.append(judged)
    return results


def _texts(recipe: Recipe, data: TrainingData, model: Transformer, work: BatchWork) -> SetScores | None:
    settings = recipe.evaluation
    streams = [held_out.stored for held_out in data.validation if isinstance(held_out.stored, TokenStream)]
    length = row_length(recipe.data.sequence_length, model.config)
    scores = score_streams(model, streams, length, settings.batch_size, max_tokens=settings.max_tokens, work=work)
    if scores is None:
        return None
    names = [held_out.name for held_out in data.validation]
    return SetScores(join_metrics(sum(scores[1:], start=scores[0]).metrics(), [score.metrics() for score in scores], names))


def judge_responses(
    settings: EvaluationSection,
    order: RowOrder,
    objective: Objective,
    rules: "Rules",
    sets: Sequence[ValidationSet],
    model: Transformer,
    reference: FrozenReference | None,
    seed: int,
    *,
    work: BatchWork = UNWATCHED,
) -> "list[list[JudgedResponse]] | None":
    """Return a judged response to each prompt of each set, as far as evaluation.max_tokens reaches. None if it was stopped."""
    assert objective.rollouts is not None
    from tfkit.alignment.held_out import judge_prompts

    results: list[list[JudgedResponse]] = []
    stored, size = [one.stored for one in sets], settings.batch_size
    for examples, (_, _, count) in zip(stored, opened_sets(objective, order, stored, settings.max_tokens), strict=False):
        assert isinstance(examples, ExampleSet), "prompts are examples"
        prompts = [examples[i] for i in range(count)]
        judged = judge_prompts(model, reference, prompts, objective.rollouts, rules, seed=seed, batch_size=size, work=work)
        if judged is None:
            return None
        results.append(judged)
    return results


def response_metrics(objective: Objective, judged: "Sequence[Sequence[JudgedResponse]]", names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of the responses of all sets together, and of each set."""

    def metrics(responses: "Iterable[JudgedResponse]") -> dict[str, float]:
        sums: dict[str, Sum] = {}
        for response in responses:
            sums |= {name: sums[name] + added if name in sums else added for name, added in response.sums.items()}
        return objective.metrics(sums)

    return join_metrics(metrics(one for part in judged for one in part), [metrics(part) for part in judged], names)


def join_metrics(together: Mapping[str, float], each: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return all metrics and, if there are several sets, those of each as `<name>.loss`. `each` may lack the last sets."""
    if len(names) < 2:
        return dict(together)
    return dict(together) | {f"{of}.{name}": value for of, metrics in zip(names, each, strict=False) for name, value in metrics.items()}
