"""Whether a model still improves, by one metric of its evaluations."""

import math
from collections.abc import Iterable


def since_best(values: Iterable[float | None], higher_is_better: bool) -> int:
    """How many evaluations came after the best one. What is equal to the best is no better, and what is no number (None, too) never is."""
    best, since = -math.inf, 0
    for value in values:
        height = math.nan if value is None else value if higher_is_better else -value
        if math.isfinite(height) and height > best:
            best, since = height, 0
        else:
            since += 1
    return since
