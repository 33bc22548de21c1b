"""What `tfkit evaluate` does for every objective but a causal language model's: its own rows, and what it tells of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit import console
from tfkit.cli.training_data import ValidationSet, report_rows, set_names, store
from tfkit.cli.validation import score_sets
from tfkit.data import ExampleSet
from tfkit.data.sources import validation_sources
from tfkit.errors import ModelError, UsageError
from tfkit.objectives.build import Stored, objective_tokenizer, open_objective, open_rows
from tfkit.recipe.checks import fitting_problems
from tfkit.recipe.objectives import trained_for
from tfkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from tfkit.cli.session import Session
    from tfkit.hub import Loaded


@dataclass(frozen=True)
class Scored:
    """The metrics of all sets, and what they are of."""

    metrics: dict[str, float]
    examples: int
    tokens: int
    stored: list[Stored]


def evaluate_rows(recipe: Recipe, loaded: "Loaded", work: "Session") -> Scored:
    """Score the rows of data.validation for the recipe's objective; of a distillation for what the student is trained for.

    Raises UsageError if the model is not for this objective, or has no such rows; ModelError if nobody says what its classes are.
    """
    recipe = recipe.model_copy(update={"objective": trained_for(recipe.objective)})
    if problems := fitting_problems(recipe, loaded.config):
        raise UsageError(f"{loaded.folder}: {'; '.join(problems)}; give a recipe with the objective that it was trained for")
    sources = validation_sources(recipe.data, recipe.objective.roles)
    if not sources:
        raise UsageError("there are no rows to score: give them as --data F, or a recipe with data.validation")
    assert loaded.codec is not None
    tokenizer = objective_tokenizer(recipe, loaded.codec)
    objective = open_objective(recipe, loaded.config, tokenizer, _labels(recipe, loaded))
    with work.signals.at_once():
        stored = [store(source, recipe, objective, tokenizer) for source in sources]
    report_rows(stored)
    sets = [ValidationSet(name, one) for name, one in zip(set_names(recipe, sources), stored, strict=True)]
    rows = sum(len(open_rows(recipe, objective, [(one, 1.0)], loaded.config)) for one in stored)
    with (
        console.progress("scoring", rows, "rows") as bar,
        work.signals.at_once("there is no result, since only all rows together give one"),
    ):
        metrics = score_sets(recipe, objective, sets, loaded.model, progress=bar.advance)
    assert metrics is not None  # nothing asked it to stop
    return Scored(metrics, rows, sum(_tokens(one) for one in stored), stored)


def _labels(recipe: Recipe, loaded: "Loaded") -> list[str]:
    """The classes of the checkpoint, in its own order; by the recipe's names, if it gives as many."""
    if recipe.objective.head not in ("classes", "tags") or getattr(recipe.objective, "regression", False):
        return []
    named: list[str] | None = getattr(recipe.objective, "labels", None)
    if named:
        count = getattr(loaded.config.head, "count", 0)
        if len(named) != count:
            raise UsageError(f"objective.labels names {len(named)} classes, and {loaded.folder} has {count}")
        return named
    if not loaded.labels:
        raise ModelError(f"{loaded.folder}: config.json names no labels (id2label), so nobody knows what its classes are; name them there")
    return list(loaded.labels)


def _tokens(stored: Stored) -> int:
    return int(stored.lengths.sum()) if isinstance(stored, ExampleSet) else len(stored.tokens)
