"""Early stopping: whether one metric of the evaluations still improves."""

import math
from collections.abc import Iterable


def since_best(values: Iterable[float | None], higher_is_better: bool) -> int:
    """Count the evaluations since the best one. Equal values are not better; None and values that are not finite never are."""
    best, since = -math.inf, 0
    for value in values:
        score = math.nan if value is None else value if higher_is_better else -value
        if math.isfinite(score) and score > best:
            best, since = score, 0
        else:
            since += 1
    return since
