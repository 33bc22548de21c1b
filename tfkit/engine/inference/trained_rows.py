"""The number of rows of an evaluation that its run was trained on, by the hashes of their texts in the cache."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfkit.data.sources.open_sources import training_sources
from tfkit.data.store.hashes import text_hash
from tfkit.data.store.overlap import Hashes, cached_hashes
from tfkit.errors import TfkitError
from tfkit.recipe import read_recipe
from tfkit.run.tfkit_json import read_tfkit_json

_MOST_BYTES = 1 << 30  # of training rows that are read again


def count_trained_rows(checkpoint: Path, scored: Sequence[Hashes]) -> int | None:
    """Return how many of the scored texts the run that made a checkpoint was trained on; None if its training texts are not known.

    A text is not counted if the run was trained on a part of it.
    """
    known = _hashes(checkpoint) if scored else None
    return None if known is None else int(np.isin(np.concatenate(scored), known).sum())


def _hashes(checkpoint: Path) -> Hashes | None:
    """Return the hashes of the training texts: from the cache, else from the rows themselves, if these are not too many."""
    try:
        fingerprints = read_tfkit_json(checkpoint).data["train"]
        cached = [cached_hashes(fingerprint) for fingerprint in fingerprints]
    except (OSError, ValueError, KeyError):  # another program's checkpoint
        return None
    known = [hashes for hashes in cached if hashes is not None]
    if cached and len(known) == len(cached):
        return np.unique(np.concatenate(known))
    saved = checkpoint.resolve().parent.parent / "recipe.yaml"
    try:
        run = read_recipe(str(saved)).recipe
        is_here = not any(source.hub for source in run.data.train)
        sources = training_sources(run.data, run.objective.roles, run.training.seed) if is_here else []
        if not sources or sum(source.size_bytes or 0 for source in sources) > _MOST_BYTES:
            return None
        texts: Iterator[bytes] = (text_hash(row.text) for source in sources for row in source.rows({}))
        return np.unique(np.frombuffer(b"".join(texts), "<u8"))
    except TfkitError:  # moved or changed
        return None
