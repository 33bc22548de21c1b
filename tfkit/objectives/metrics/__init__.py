"""Metrics of whole sets. Each is a function of how often each row counts: `unit_weights` give the metric,
draws with repetition the bootstrap."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Scores = Callable[[Numbers], dict[str, float]]  # weights (N,), how often each row counts -> metrics by name


def unit_weights(rows: int) -> Numbers:
    """The weights of a set as it is."""
    return np.ones(rows)


def together(parts: list[Scores]) -> Scores:
    """All metrics of several parts."""

    def scores(weights: Numbers) -> dict[str, float]:
        return {name: value for part in parts for name, value in part(weights).items()}

    return scores
