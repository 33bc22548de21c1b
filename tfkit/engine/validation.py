"""The scores of the validation sets during a training: of all together, and of each by its name where there are several."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tfkit.adapters import FrozenReference
from tfkit.alignment.held_out import Judged as JudgedResponse
from tfkit.alignment.held_out import judge_prompts
from tfkit.data import ExampleSet, TokenStream
from tfkit.engine.training_data import TrainingData, ValidationSet
from tfkit.evaluation.lost_rows import completed, within, wrong_answers
from tfkit.evaluation.predictions import Judged, answer_metrics, judge_rows
from tfkit.evaluation.row_scores import first_rows, score_rows, tokens_of_first
from tfkit.evaluation.text_scores import score_streams
from tfkit.evaluation.token_budget import TokenBudget
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import RowOrder, Stored, row_length
from tfkit.objectives.labelled import LabelledObjective
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.objective import Objective, Sum
from tfkit.objectives.registry import open_rows, row_order
from tfkit.parallel.deal import UNWATCHED, BatchWork
from tfkit.recipe.schema.sections import EvaluationSection, Recipe


def score_validation(
    recipe: Recipe, data: TrainingData, model: Transformer, should_stop: Callable[[], bool], reference: FrozenReference | None = None
) -> dict[str, float] | None:
    """`loss` and the objective's other metrics, and with several sets the same again as `<name>.loss`. None if it was to stop.

    A causal language model is scored text by text, each on its own, as `tfkit evaluate` does; other objectives by their own rows; a
    student by what it is trained for beside its teacher.
    `evaluation.max_tokens` holds for all sets together, so the last ones may be left out.
    """
    work = BatchWork(should_stop=should_stop)
    if recipe.objective.trained_for.scored_by == "text":
        return _texts(recipe, data, model, work)
    order = row_order(recipe, data.config)
    if data.objective.rollouts is not None:
        seed, named = recipe.generation.seed, data.validation
        found = judge_responses(recipe.evaluation, order, data.objective, named, model, reference, seed, work=work)
        return None if found is None else response_metrics(data.objective, found, [one.name for one in named])
    return score_sets(recipe.evaluation, order, data.objective.judged_by, data.validation, model, work=work)


def check_validation(recipe: Recipe, data: TrainingData) -> None:
    """Raise DataError if a set cannot be cut into rows: too little text, no second document. Later it would end the run half-way.

    Raises UsageError if these rows do not give the metric of the best checkpoint.
    """
    objective = data.objective.judged_by
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
) -> dict[str, float] | None:
    """The metrics of each set, together and apart. None if it was to stop."""
    names, labelled = [one.name for one in sets], objective.labelled
    if labelled is not None and labelled.evaluates_answers:
        found = judge_sets(settings, order, labelled, [one.stored for one in sets], model, work=work)
        if found is None:
            return None
        found = [
            [*_whole(labelled, one, part), *wrong_answers(labelled, within(one.lost, len(part), len(one.stored)), len(part))]
            for part, one in zip(found, sets, strict=False)
        ]
        everything = [one for part in found for one in part]  # F1 and correlations of all are no mean of those of each
        whole, *parts = (answer_metrics(labelled, part)(unit_weights(len(part))) for part in (everything, *found))
        return of_sets(whole, parts, names)
    together: dict[str, Sum] = {}
    each = []
    budget = TokenBudget(settings.max_tokens)
    for held_out in budget.until_spent(sets):
        rows = objective.open_rows([(held_out.stored, 1.0)], order)
        left, size = budget.left, settings.batch_size
        sums = score_rows(model, objective, rows, size, max_tokens=left, work=work)
        if sums is None:
            return None
        together = {name: together[name] + found if name in together else found for name, found in sums.items()}
        each.append(objective.metrics(sums))
        budget.spend(tokens_of_first(rows, first_rows(rows, budget.left)))
    return of_sets(objective.metrics(together), each, names)


def _whole(objective: LabelledObjective, one: ValidationSet, judged: Sequence[Judged]) -> Sequence[Judged]:
    """The results of a set with what was cut off of its answers as wrong."""
    if one.source is None or not isinstance(one.stored, ExampleSet):
        return judged
    return completed(objective, one.source, one.stored, judged)


def judge_sets(
    settings: EvaluationSection,
    order: RowOrder,
    objective: LabelledObjective,
    sets: Iterable[Stored],
    model: Transformer,
    *,
    work: BatchWork = UNWATCHED,
) -> list[list[Judged]] | None:
    """The results of each set, row by row; None if it was to stop."""
    found: list[list[Judged]] = []
    budget = TokenBudget(settings.max_tokens)
    for stored in budget.until_spent(sets):
        rows = objective.open_rows([(stored, 1.0)], order)
        left, size = budget.left, settings.batch_size
        judged = judge_rows(model, objective, rows, size, max_tokens=left, work=work)
        if judged is None:
            return None
        found.append(judged)
        budget.spend(tokens_of_first(rows, len(judged)))
    return found


def _texts(recipe: Recipe, data: TrainingData, model: Transformer, work: BatchWork) -> dict[str, float] | None:
    settings = recipe.evaluation
    streams = [held_out.stored for held_out in data.validation if isinstance(held_out.stored, TokenStream)]
    length = row_length(recipe.data.sequence_length, model.config)
    scores = score_streams(model, streams, length, settings.batch_size, max_tokens=settings.max_tokens, work=work)
    if scores is None:
        return None
    names = [one.name for one in data.validation]
    return of_sets(sum(scores[1:], start=scores[0]).metrics(), [score.metrics() for score in scores], names)


def judge_responses(
    settings: EvaluationSection,
    order: RowOrder,
    objective: Objective,
    sets: Sequence[ValidationSet],
    model: Transformer,
    reference: FrozenReference | None,
    seed: int,
    *,
    work: BatchWork = UNWATCHED,
) -> list[list[JudgedResponse]] | None:
    """A response to each prompt of each set, and what it is worth, as far as evaluation.max_tokens reaches. None if it was to stop."""
    assert objective.rollouts is not None
    found: list[list[JudgedResponse]] = []
    budget = TokenBudget(settings.max_tokens)
    for one in budget.until_spent(sets):
        assert isinstance(one.stored, ExampleSet), "prompts are examples"
        rows = objective.open_rows([(one.stored, 1.0)], order)
        count, size = first_rows(rows, budget.left), settings.batch_size
        prompts = [one.stored[i] for i in range(count)]
        judged = judge_prompts(model, reference, prompts, objective.rollouts, seed=seed, batch_size=size, work=work)
        if judged is None:
            return None
        found.append(judged)
        budget.spend(tokens_of_first(rows, count))
    return found


def response_metrics(objective: Objective, judged: Sequence[Sequence[JudgedResponse]], names: Sequence[str]) -> dict[str, float]:
    """The metrics of the responses of all sets together, and of each."""

    def of(responses: Iterable[JudgedResponse]) -> dict[str, float]:
        sums: dict[str, Sum] = {}
        for one in responses:
            sums |= {name: sums[name] + found if name in sums else found for name, found in one.sums.items()}
        return objective.metrics(sums)

    return of_sets(of(one for part in judged for one in part), [of(part) for part in judged], names)


def of_sets(together: Mapping[str, float], each: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """All metrics; and those of each set, as `<name>.loss`, where there are several. `each` may lack the last ones."""
    if len(names) < 2:
        return dict(together)
    return dict(together) | {f"{of}.{name}": value for of, metrics in zip(names, each, strict=False) for name, value in metrics.items()}
