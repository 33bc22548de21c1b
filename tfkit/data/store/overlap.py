"""Rows that are both held out and trained on: they inflate a score."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.folder_index import INDEX
from tfkit.data.store.hashes import HashedFiles

Hashes = NDArray[Any]  # (rows,) uint64


class Hashed(Protocol):
    """The cached form of a source, which has a hash of each row's text, (rows,) uint64."""

    @property
    def texts(self) -> NDArray[Any]:
        """The hashes."""


def text_hash(text: str) -> bytes:
    """Return a hash of eight bytes; white space at the ends makes no difference."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).digest()


def cached_hashes(fingerprint: str) -> Hashes | None:
    """Return the hashes of the texts of a source that is in the cache; None if it is not."""
    for kind in ("examples", "streams"):
        folder = cache_folder() / kind / fingerprint
        if (folder / INDEX).is_file():
            return HashedFiles(folder).compared("texts.bin", "<u8")
    return None


def overlap(kept: Sequence[Hashed], held_out: Hashed) -> int:
    """Return how many rows of `held_out` are also trained on, white space at the ends aside."""
    if not kept:
        return 0
    known = np.unique(np.concatenate([np.asarray(one.texts) for one in kept]))
    return int(np.isin(np.asarray(held_out.texts), known).sum())
