"""The scores of the validation sets during a training: of all together, and of each by its name where there are several."""

from collections.abc import Callable, Mapping, Sequence

from tfkit.data import TokenStream
from tfkit.engine.training_data import TrainingData, ValidationSet
from tfkit.evaluation.predictions import Judged, answer_metrics, judge_rows
from tfkit.evaluation.row_scores import first_rows, score_rows, tokens_of_first
from tfkit.evaluation.text_scores import score_streams
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import LabelledObjective
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.objective import Objective, Sum
from tfkit.objectives.registry import open_rows, row_order
from tfkit.recipe.schema.sections import Recipe


def score_validation(recipe: Recipe, data: TrainingData, model: Transformer, should_stop: Callable[[], bool]) -> dict[str, float] | None:
    """`loss` and what else the objective tells, and with several sets the same again as `<name>.loss`. None if it was to stop.

    A causal language model is scored text by text, each on its own, as `tfkit evaluate` does; other objectives by their own rows; a
    student by what it is trained for beside its teacher.
    `evaluation.max_tokens` holds for all sets together, so the last ones may be left out.
    """
    if recipe.objective.trained_for.scored_by == "text":
        return _texts(recipe, data, model, should_stop)
    return score_sets(recipe, data.objective.judged_by, data.validation, model, should_stop=should_stop)


def check_validation(recipe: Recipe, data: TrainingData) -> None:
    """Raise DataError if a set cannot be cut into rows: too little text, no second document. Later it would end the run half-way.

    Raises UsageError if these rows do not tell the metric of the best checkpoint.
    """
    objective = data.objective.judged_by
    objective.check_metric(recipe.evaluation.metric)
    if recipe.objective.trained_for.scored_by != "text":
        for held_out in data.validation:
            open_rows(recipe, objective, [(held_out.stored, 1.0)], data.config)


def score_sets(
    recipe: Recipe,
    objective: Objective,
    sets: Sequence[ValidationSet],
    model: Transformer,
    *,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, float] | None:
    """What the objective measures on each set, together and apart; `progress(n)` tells of n more rows."""
    if objective.labelled is not None and objective.labelled.evaluates_answers:
        return _answers(recipe, objective.labelled, sets, model, should_stop)
    together: dict[str, Sum] = {}
    each = []
    left = recipe.evaluation.max_tokens
    for held_out in sets:
        if left is not None and left <= 0:
            break
        rows = open_rows(recipe, objective, [(held_out.stored, 1.0)], model.config)
        size = recipe.evaluation.batch_size
        sums = score_rows(model, objective, rows, size, max_tokens=left, progress=progress, should_stop=should_stop)
        if sums is None:
            return None
        together = {name: together[name] + found if name in together else found for name, found in sums.items()}
        each.append(objective.metrics(sums))
        left = None if left is None else left - tokens_of_first(rows, first_rows(rows, left))
    return of_sets(objective.metrics(together), [one.name for one in sets], each)


def _answers(
    recipe: Recipe,
    objective: LabelledObjective,
    sets: Sequence[ValidationSet],
    model: Transformer,
    should_stop: Callable[[], bool] | None,
) -> dict[str, float] | None:
    """F1 and correlations are of all answers together, and no sum of batches gives them: as `tfkit evaluate` tells them."""
    found: list[list[Judged]] = []
    left = recipe.evaluation.max_tokens
    for held_out in sets:
        if left is not None and left <= 0:
            break
        rows = objective.open_rows([(held_out.stored, 1.0)], row_order(recipe, model.config))
        judged = judge_rows(model, objective, rows, recipe.evaluation.batch_size, max_tokens=left, should_stop=should_stop)
        if judged is None:
            return None
        found.append(judged)
        left = None if left is None else left - int(rows.lengths[[one.number for one in judged]].sum())
    everything = [one for part in found for one in part]
    together, *each = (answer_metrics(objective, answers)(unit_weights(len(answers))) for answers in (everything, *found))
    return of_sets(together, [one.name for one in sets], each)


def _texts(recipe: Recipe, data: TrainingData, model: Transformer, should_stop: Callable[[], bool]) -> dict[str, float] | None:
    settings = recipe.evaluation
    streams = [held_out.stored for held_out in data.validation if isinstance(held_out.stored, TokenStream)]
    length = model.config.context_length
    scores = score_streams(model, streams, length, settings.batch_size, max_tokens=settings.max_tokens, should_stop=should_stop)
    if scores is None:
        return None
    names = [one.name for one in data.validation]
    return of_sets(sum(scores[1:], start=scores[0]).metrics(), names, [score.metrics() for score in scores])


def of_sets(together: Mapping[str, float], names: Sequence[str], each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """All metrics; and those of each set, as `<name>.loss`, where there are several. `each` may lack the last ones."""
    if len(names) < 2:
        return dict(together)
    return dict(together) | {f"{of}.{name}": value for of, metrics in zip(names, each, strict=False) for name, value in metrics.items()}
