"""Whether a model still improves, by one metric of its evaluations."""

import math
from collections.abc import Iterable


def since_best(values: Iterable[float | None], higher_is_better: bool) -> int:
    """Count the evaluations after the best one. An equal value is no better, and None or a value that is not finite never is."""
    best, since = -math.inf, 0
    for value in values:
        height = math.nan if value is None else value if higher_is_better else -value
        if math.isfinite(height) and height > best:
            best, since = height, 0
        else:
            since += 1
    return since
