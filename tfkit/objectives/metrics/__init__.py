"""Metrics of whole sets, as functions of row weights: `unit_weights` give the metric itself, resampled counts its bootstrap."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Scores = Callable[[Numbers], dict[str, float]]  # weights (N,), the number of times each row counts -> metrics by name


def unit_weights(rows: int) -> Numbers:
    """Return weights that count each row once."""
    return np.ones(rows)


def together(parts: list[Scores]) -> Scores:
    """Combine several functions into one that returns all their metrics."""

    def scores(weights: Numbers) -> dict[str, float]:
        return {name: value for part in parts for name, value in part(weights).items()}

    return scores
