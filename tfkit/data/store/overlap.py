"""Rows that are held out and trained on, too: they make a score better than it is."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Hashed(Protocol):
    """What lies in the cache of a source: among the rest a hash of each row's text, (rows,) uint64."""

    @property
    def texts(self) -> NDArray[Any]:
        """The hashes."""


def text_hash(text: str) -> bytes:
    """Eight bytes that two different texts share once in 2^64 times; white space at the ends makes no difference."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).digest()


def overlap(kept: Sequence[Hashed], held_out: Hashed) -> int:
    """How many rows of `held_out` are among those that are trained on, but for white space at the ends."""
    if not kept:
        return 0
    known = np.unique(np.concatenate([np.asarray(one.texts) for one in kept]))
    return int(np.isin(np.asarray(held_out.texts), known).sum())
