"""The request of a command that trains from a checkpoint, or shows such a training."""

from collections.abc import Sequence
from typing import NamedTuple

from tfkit.cli.options import Tuned, named_columns, split_recipe
from tfkit.engine.recognition.own_data import training_request
from tfkit.engine.request.training_request import TrainingKind, TrainingRequest
from tfkit.errors import UsageError
from tfkit.recipe import open_recipe
from tfkit.recipe.reading.overrides import parse_overrides


class Tuning(NamedTuple):
    """The request of a training that may start from a checkpoint."""

    request: TrainingRequest
    arguments: list[str]  # the recipe and the changes as they were given


def tuning_request(
    command: str,
    kind: TrainingKind | None,
    recipe: str | None,
    overrides: Sequence[str] | None,
    tuned: Tuned,
    *,
    needed: bool = False,
) -> Tuning:
    """Open the recipe, if one is given, and add what it starts from and learns to the changes.

    `needed`: raise UsageError if neither a recipe, a checkpoint nor data are given.
    """
    chosen, words = split_recipe(command, recipe, overrides)
    if needed and chosen is None and tuned.checkpoint is None and tuned.data is None:
        raise UsageError(f"{command}: which training? Give a RECIPE, or --data F, and --from CKPT to train a checkpoint")
    source = open_recipe(chosen) if chosen is not None else None
    named = (tuned.checkpoint, tuned.data, named_columns(tuned.columns))
    request = training_request(kind, source, parse_overrides(words), *named, rows=tuned.rows)
    return Tuning(request, [*([chosen] if chosen is not None else []), *words])
