"""The overlap of held-out and training data, which inflates scores: the number of held-out rows that are also training rows."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.hashes import HashedFiles, find_damage

Hashes = NDArray[Any]  # (rows,) uint64, a hash of each row's text: `texts` of an ExampleSet or a TokenStream


def cached_hashes(fingerprint: str) -> Hashes | None:
    """Return the hashes of a source's texts from the cache; None if they are missing or damaged. `fingerprint`: that of the source's
    example set or token stream.
    """
    for kind in ("examples", "streams"):
        folder = cache_folder() / kind / fingerprint
        with contextlib.suppress(FileNotFoundError):
            if find_damage(folder) is None:
                return HashedFiles(folder).verified_array("texts.bin", "<u8")
    return None


def overlap(kept: Sequence[Hashes], held_out: Sequence[Hashes]) -> int:
    """Return how many rows of `held_out` are also rows of the training data `kept`; white space at the ends of a row is ignored."""
    return int(np.isin(np.concatenate(held_out), np.concatenate(kept)).sum())
