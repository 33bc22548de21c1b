"""Metrics of a set of rows, as functions of row weights. Given `unit_weights`, such a function returns the metrics of the set; given how
often a bootstrap resample has each row, those of the resample. From many resamples `intervals` computes the ends of a confidence interval.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Scores = Callable[[Numbers], dict[str, float]]  # weights (N,): how many times each row counts -> metrics by name
_COVERAGE = (2.5, 97.5)  # the percentiles that bound a 95 % interval


def unit_weights(rows: int) -> Numbers:
    """Return weights that count each row once."""
    return np.ones(rows)


def together(parts: list[Scores]) -> Scores:
    """Combine several functions into one that returns all their metrics."""

    def scores(weights: Numbers) -> dict[str, float]:
        return {name: value for part in parts for name, value in part(weights).items()}

    return scores


def intervals(scores: Scores, rows: int, resamples: int, seed: int) -> dict[str, list[float]]:
    """Return the ends of the 95 % interval of each metric over resamples of `rows` rows, drawn with replacement.

    The draws are a function of (seed, rows). Resamples in which a metric is NaN (a correlation with a constant) are excluded.

    A resample lacks about a third of the rows, and perhaps whole classes, which biases a mean over classes: the resampled values are not
    centred on the metric of the set. This bias, their median minus the metric of the set (Efron and Tibshirani 1993, 10.2), is therefore
    subtracted from their percentiles (13.3), unless a value is infinite, so that the interval contains the metric of the set.
    """
    bits = np.random.PCG64([seed, rows])
    samples: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = (bits.random_raw(rows) >> np.uint64(32)) * np.uint64(rows) >> np.uint64(32)  # integers in [0, rows)
        for name, value in scores(np.bincount(drawn.astype(np.int64), minlength=rows).astype(np.float64)).items():
            samples.setdefault(name, []).append(value)
    estimates = scores(unit_weights(rows))
    return {name: _interval(np.array(values), estimates[name]) for name, values in samples.items()}


def _interval(values: np.ndarray, estimate: float) -> list[float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return [np.nan, np.nan]
    is_finite = bool(np.isfinite(values).all()) and np.isfinite(estimate)  # infinite perplexities cannot be interpolated or shifted
    low, middle, high = np.percentile(values, (_COVERAGE[0], 50, _COVERAGE[1]), method="linear" if is_finite else "nearest")
    if not is_finite:
        return [float(low), float(high)]
    ends = np.array([low, high]) - (middle - estimate)
    least, most = min(values.min(), estimate), max(values.max(), estimate)
    is_bounded = least >= -1 and most <= 1  # a fraction or a correlation: its interval must stay within its bounds
    return [float(end) for end in np.clip(ends, 0 if least >= 0 else -1 if is_bounded else -np.inf, 1 if is_bounded else np.inf)]
