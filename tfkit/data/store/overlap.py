"""Rows that are both held out and trained on: they inflate a score."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Hashed(Protocol):
    """The cached form of a source, which has a hash of each row's text, (rows,) uint64."""

    @property
    def texts(self) -> NDArray[Any]:
        """The hashes."""


def text_hash(text: str) -> bytes:
    """Return a hash of eight bytes; white space at the ends makes no difference."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).digest()


def overlap(kept: Sequence[Hashed], held_out: Hashed) -> int:
    """Return how many rows of `held_out` are also trained on, white space at the ends aside."""
    if not kept:
        return 0
    known = np.unique(np.concatenate([np.asarray(one.texts) for one in kept]))
    return int(np.isin(np.asarray(held_out.texts), known).sum())
