"""The variation of a metric over other rows of the same kind: the percentile bootstrap, corrected for its bias.

Resamples lack about a third of the rows, and so some classes, which moves a mean over classes: they vary about another value than the
metric of the set. The percentiles (Efron and Tibshirani 1993, 13.3) are taken of values from which that bias (10.2, by medians) is
subtracted, so that every interval contains its estimate.
"""

import numpy as np

from tfkit.objectives.metrics import Scores, unit_weights

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
    estimates = scores(unit_weights(rows))
    return {name: _middle(np.array(values), estimates[name]) for name, values in found.items()}


def _middle(values: np.ndarray, estimate: float) -> list[float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return [np.nan, np.nan]
    is_finite = bool(np.isfinite(values).all()) and np.isfinite(estimate)  # not of a perplexity beyond floats, or a set without a value
    low, middle, high = np.percentile(values, (_COVERAGE[0], 50, _COVERAGE[1]), method="linear" if is_finite else "nearest")
    if not is_finite:
        return [float(low), float(high)]
    ends = np.array([low, high]) - (middle - estimate)
    is_fraction = min(values.min(), estimate) >= 0 and max(values.max(), estimate) <= 1
    return [float(end) for end in (np.clip(ends, 0, 1) if is_fraction else ends)]
