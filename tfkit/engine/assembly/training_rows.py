"""Read a run's training rows again: for baselines (scores without a Transformer), and to count how many scored rows were trained on."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np

from tfkit.data import ExampleSet, Source
from tfkit.data.columns.rows import Row
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.data.store.hashes import text_hash
from tfkit.data.store.overlap import Hashes, cached_hashes, overlap
from tfkit.engine.request.evaluation_settings import saved_recipe
from tfkit.errors import TfkitError
from tfkit.evaluation.baselines import Baselines, baselines, has_baselines
from tfkit.evaluation.row_scores import RowPrediction
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.tfkit_json import read_tfkit_json

_MOST_BYTES = 1 << 30  # if the training files are larger, they are not read again to find scored rows in them


def training_baselines(recipe: Recipe) -> Baselines:
    """Return the baselines for a run's validation rows; empty without such rows, for sampled responses, and for tasks without baselines."""
    section = recipe.objective.trained_for
    if not has_baselines(section, ()) or not _learns_from_rows(recipe):
        return {}
    held_out = validation_sources(recipe.data, section.roles, recipe.training.seed)
    return baselines(section, _rows(_sources(recipe)), _rows(held_out)) if held_out else {}


def evaluation_baselines(section: ObjectiveSection, text_metrics: Sequence[str], checkpoint: Path, scored: Iterable[Row]) -> Baselines:
    """Return the baselines for the rows of an evaluation.

    The baselines are computed from the training rows of the run that made the checkpoint. If these rows cannot be read, or are of another
    task, the baselines are computed from the scored rows, and their names say so.
    """
    if not has_baselines(section, text_metrics):
        return {}
    rows = list(scored)
    with suppress(TfkitError):  # an evaluation must not fail because training files were moved or changed
        run = _local_run(checkpoint)
        if run is not None and run.objective.trained_for.kind == section.kind and _learns_from_rows(run):
            return baselines(section, _rows(_sources(run)), rows, text_metrics)
    return baselines(section, None, rows, text_metrics)


def scored_rows(sources: Sequence[Source], stored: Sequence[ExampleSet], judged: Sequence[Sequence[RowPrediction]]) -> Iterator[Row]:
    """Yield the scored rows of each source: if all of its examples were `judged`, all of its rows, even those that make no example;
    otherwise as many of its first rows as were judged.
    """
    for source, examples, results in zip(sources, stored, judged, strict=False):
        yield from islice(source.rows({}), None if len(results) == len(examples) else len(results))


def _learns_from_rows(recipe: Recipe) -> bool:
    """Whether the model learns from the rows themselves, not from sampled responses to prompts in the rows."""
    return recipe.objective.roles == recipe.objective.trained_for.roles


def _local_run(checkpoint: Path) -> Recipe | None:
    """Return the recipe of the run that made a checkpoint; None if there is none, or its rows are on the Hub and would be downloaded.

    Raises TfkitError if the recipe cannot be read.
    """
    saved = saved_recipe(checkpoint)
    run = saved.read() if saved is not None else None
    return None if run is None or any(source.hub for source in run.data.train) else run


def _sources(recipe: Recipe) -> list[Source]:
    return training_sources(recipe.data, recipe.objective.roles, recipe.training.seed)


def _rows(sources: Iterable[Source]) -> Iterator[Row]:
    return chain.from_iterable(source.rows({}) for source in sources)


def count_trained_rows(checkpoint: Path, scored: Sequence[Hashes]) -> int | None:
    """Return how many scored texts are training texts of the run that made a checkpoint; None if this is not known, or no text was scored.

    A text of which the run has read only a part is not counted as a training text.
    """
    known = _hashes(checkpoint) if scored else None
    return None if known is None else overlap(known, scored)


def _hashes(checkpoint: Path) -> list[Hashes] | None:
    """Return the hashes of the training texts, from the cache or else from the rows; None if the files cannot be read, or are too large."""
    try:
        fingerprints = read_tfkit_json(checkpoint).data["train"]
        cached = [cached_hashes(fingerprint) for fingerprint in fingerprints]
    except (OSError, ValueError, KeyError):  # another program wrote the checkpoint, or tfkit.json is damaged
        return None
    known = [hashes for hashes in cached if hashes is not None]
    if cached and len(known) == len(cached):
        return known
    with suppress(TfkitError):  # the files were moved or changed
        run = _local_run(checkpoint)
        sources = _sources(run) if run is not None else []
        if sources and sum(source.size_bytes or 0 for source in sources) <= _MOST_BYTES:
            return [np.frombuffer(b"".join(text_hash(row.text) for row in _rows(sources)), "<u8")]
    return None
