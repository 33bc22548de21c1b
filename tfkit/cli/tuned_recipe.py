"""The recipe and the changes of a command that trains from a checkpoint, or shows such a training."""

from collections.abc import Sequence
from typing import NamedTuple

from tfkit.cli.options import split_recipe
from tfkit.engine.chains.chain_plan import first_stage
from tfkit.engine.request.evaluation_settings import quoted
from tfkit.engine.request.training_request import RequestRecord
from tfkit.errors import UsageError
from tfkit.recipe import RecipeText, open_recipe


class TunedRecipe(NamedTuple):
    """The recipe and the changes of a training that may start from a checkpoint."""

    source: RecipeText | None
    words: list[str]  # key=value, with those of --from and --data
    arguments: list[str]  # the recipe and the changes as they were given

    @property
    def given(self) -> RequestRecord:
        """The recipe and the changes, to be compared with those of other ranks."""
        return RequestRecord(self.source, tuple(self.words))


def tuned_recipe(
    command: str, recipe: str | None, overrides: Sequence[str] | None, checkpoint: str | None, data: str | None, *, needed: bool = False
) -> TunedRecipe:
    """Open the recipe, if one is given, and add --from and --data to the changes; in a recipe with stages they apply to the first.

    `needed`: raise UsageError if neither a recipe, a checkpoint nor data are given.
    """
    chosen, changes = split_recipe(command, recipe, overrides)
    if needed and chosen is None and checkpoint is None and data is None:
        raise UsageError(f"{command}: which training? Give a RECIPE, or --from CKPT and --data F")
    source = open_recipe(chosen) if chosen is not None else None
    stage = first_stage(source)
    # The data come first: data.train.0.columns can name columns.
    words = [f"{stage}data.train=[{{path: {quoted(data)}}}]"] if data is not None else []
    words += [*changes, *([f"{stage}model.from={quoted(checkpoint)}"] if checkpoint is not None else [])]
    return TunedRecipe(source, words, [*([chosen] if chosen is not None else []), *changes])
