"""Overlap of held-out and training rows, which inflates scores."""

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.hashes import HashedFiles

Hashes = NDArray[Any]  # (rows,) uint64


class Hashed(Protocol):
    """A cached source (ExampleSet, TokenStream), with a hash of each row's text."""

    @property
    def texts(self) -> NDArray[Any]:
        """The hashes, (rows,) uint64."""


def cached_hashes(fingerprint: str) -> Hashes | None:
    """Return the hashes of a source's texts from the cache, by the fingerprint of its set or stream; None if it is not in the cache."""
    for kind in ("examples", "streams"):
        folder = cache_folder() / kind / fingerprint
        with contextlib.suppress(FileNotFoundError):
            return HashedFiles(folder).verified_array("texts.bin", "<u8")
    return None


def overlap(kept: Sequence[Hashed], held_out: Hashed) -> int:
    """Return how many rows of `held_out` are also in the training data `kept`, ignoring white space at their ends."""
    if not kept:
        return 0
    known = np.unique(np.concatenate([np.asarray(source.texts) for source in kept]))
    return int(np.isin(np.asarray(held_out.texts), known).sum())
