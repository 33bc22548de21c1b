"""The variation of a metric over other rows of the same kind: the percentile bootstrap (Efron 1979; Efron and Tibshirani 1993, 13.3)."""

import numpy as np

from tfkit.objectives.metrics import Scores

_COVERAGE = (2.5, 97.5)  # percentiles: 95 % between them


def intervals(scores: Scores, rows: int, resamples: int, seed: int) -> dict[str, list[float]]:
    """Return the lowest and highest value of the middle 95 % of each metric over sets of as many rows, drawn with repetition.

    The draws are a function of (seed, rows). Resamples without a value (a correlation with a constant) are excluded.
    """
    bits = np.random.PCG64([seed, rows])
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = (bits.random_raw(rows) >> np.uint64(32)) * np.uint64(rows) >> np.uint64(32)  # below `rows`: data/order/draws.py
        for name, value in scores(np.bincount(drawn.astype(np.int64), minlength=rows).astype(np.float64)).items():
            found.setdefault(name, []).append(value)
    return {name: _middle(np.array(values)) for name, values in found.items()}


def _middle(values: np.ndarray) -> list[float]:
    values = values[~np.isnan(values)]
    return [float(value) for value in np.percentile(values, _COVERAGE)] if len(values) else [np.nan, np.nan]
