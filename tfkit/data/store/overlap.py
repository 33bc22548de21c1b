"""Overlap of held-out and training rows, which inflates scores."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.hashes import HashedFiles

Hashes = NDArray[Any]  # (rows,) uint64, the `texts` of a cached source (ExampleSet, TokenStream)


def cached_hashes(fingerprint: str) -> Hashes | None:
    """Return the hashes of a source's texts from the cache, by the fingerprint of its set or stream; None if it is not in the cache."""
    for kind in ("examples", "streams"):
        folder = cache_folder() / kind / fingerprint
        with contextlib.suppress(FileNotFoundError):
            return HashedFiles(folder).verified_array("texts.bin", "<u8")
    return None


def overlap(kept: Sequence[Hashes], held_out: Sequence[Hashes]) -> int:
    """Return how many rows of `held_out` are also in the training data `kept`, ignoring white space at their ends."""
    return int(np.isin(np.concatenate(held_out), np.concatenate(kept)).sum())
