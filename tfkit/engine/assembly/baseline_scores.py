"""Baselines for the validation rows of a run and the rows of an evaluation: scores that need no model, only the training rows."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from tfkit.data import ExampleSet, Source
from tfkit.data.columns.rows import Row
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.errors import TfkitError
from tfkit.evaluation.baselines import Baselines, baselines, has_baselines
from tfkit.evaluation.predictions import RowPrediction
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.sections import Recipe


def training_baselines(recipe: Recipe) -> Baselines:
    """Return the baselines for a run's validation rows; empty without such rows, or for an objective without baselines."""
    section = recipe.objective.trained_for
    if not has_baselines(section, ()) or not _learns_from_rows(recipe):
        return {}
    held_out = validation_sources(recipe.data, section.roles, recipe.training.seed)
    return baselines(section, _training_rows(recipe), chain.from_iterable(source.rows({}) for source in held_out)) if held_out else {}


def evaluation_baselines(section: ObjectiveSection, text_metrics: Sequence[str], checkpoint: Path, scored: Iterable[Row]) -> Baselines:
    """Return the baselines for the rows of an evaluation.

    They come from the training rows of the run that made the checkpoint. If these cannot be read, they come from the scored rows, and
    the names of the baselines say so.
    """
    if not has_baselines(section, text_metrics):
        return {}
    saved = checkpoint.resolve().parent.parent / "recipe.yaml"
    rows = list(scored)
    try:
        run = read_recipe(str(saved)).recipe if saved.is_file() else None
        if (
            run is not None
            and run.objective.trained_for.kind == section.kind
            and _learns_from_rows(run)
            and not any(source.hub for source in run.data.train)
        ):
            return baselines(section, _training_rows(run), rows, text_metrics)
    except TfkitError:  # moved or changed files are no reason to fail an evaluation
        pass
    return baselines(section, None, rows, text_metrics)


def scored_rows(sources: Sequence[Source], stored: Sequence[ExampleSet], judged: Sequence[Sequence[RowPrediction]]) -> Iterator[Row]:
    """Yield the rows that were judged: all rows of a source, also those that the model cannot read, or the first ones."""
    for source, examples, results in zip(sources, stored, judged, strict=False):
        yield from islice(source.rows({}), None if len(results) == len(examples) else len(results))


def _learns_from_rows(recipe: Recipe) -> bool:
    """Whether the model learns from the rows themselves, rather than from responses that are sampled to them as prompts."""
    return recipe.objective.roles == recipe.objective.trained_for.roles


def _training_rows(recipe: Recipe) -> Iterator[Row]:
    sources = training_sources(recipe.data, recipe.objective.roles, recipe.training.seed)
    return chain.from_iterable(source.rows({}) for source in sources)
