"""The scores of the validation sets during a training: of all together, and of each by its name where there are several."""

from collections.abc import Callable, Mapping, Sequence

from tfkit.data import ExampleRows, TokenStream
from tfkit.engine.training_data import TrainingData, ValidationSet
from tfkit.errors import UsageError
from tfkit.evaluation.predictions import Judged, judge_rows
from tfkit.evaluation.row_scores import first_rows, score_rows, tokens_of_first
from tfkit.evaluation.scores import once
from tfkit.evaluation.scores.answers import of_answers
from tfkit.evaluation.text_scores import score_streams
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.classification import Classification
from tfkit.objectives.distillation import Distillation
from tfkit.objectives.objective import Objective, Sum
from tfkit.objectives.registry import open_rows
from tfkit.objectives.tag_spans import mark_spans
from tfkit.objectives.tagging import Tagging
from tfkit.recipe.schema.sections import Recipe

_OF_NAMES = ("precision", "recall", "f1")


def score_validation(recipe: Recipe, data: TrainingData, model: Transformer, should_stop: Callable[[], bool]) -> dict[str, float] | None:
    """`loss` and what else the objective tells, and with several sets the same again as `<name>.loss`. None if it was to stop.

    A causal language model is scored text by text, each on its own, as `tfkit evaluate` does; other objectives by their own rows; a
    student by what it is trained for beside its teacher.
    `evaluation.max_tokens` holds for all sets together, so the last ones may be left out.
    """
    objective = _judged_by(data)
    if isinstance(objective, CausalLM):
        return _texts(recipe, data, model, should_stop)
    return score_sets(recipe, objective, data.validation, model, should_stop=should_stop)


def check_validation(recipe: Recipe, data: TrainingData) -> None:
    """Raise DataError if a set cannot be cut into rows: too little text, no second document. Later it would end the run half-way.

    Raises UsageError if these rows do not tell the metric of the best checkpoint.
    """
    metric, objective = recipe.evaluation.metric, _judged_by(data)
    if metric in _OF_NAMES and isinstance(objective, Tagging) and not mark_spans(objective.labels):
        shown = ", ".join(objective.labels[:5]) + (", ..." if len(objective.labels) > 5 else "")
        raise UsageError(f"evaluation.metric: {metric} is of names, and the tags {shown} mark none; choose accuracy, f1_macro or loss")
    if not isinstance(objective, CausalLM):
        for held_out in data.validation:
            open_rows(recipe, objective, [(held_out.stored, 1.0)], data.config)


def _judged_by(data: TrainingData) -> Objective:
    """The objective of the scores: of a student what it is trained for beside its teacher."""
    return data.objective.base if isinstance(data.objective, Distillation) else data.objective


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
    if isinstance(objective, Classification | Tagging):
        return _answers(recipe, objective, sets, model, should_stop)
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
    objective: Classification | Tagging,
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
        rows = open_rows(recipe, objective, [(held_out.stored, 1.0)], model.config)
        assert isinstance(rows, ExampleRows)
        judged = judge_rows(model, objective, rows, recipe.evaluation.batch_size, max_tokens=left, should_stop=should_stop)
        if judged is None:
            return None
        found.append(judged)
        left = None if left is None else left - int(rows.lengths[[one.number for one in judged]].sum())
    together, *each = (of_answers(objective, answers)(once(len(answers))) for answers in ([one for part in found for one in part], *found))
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
