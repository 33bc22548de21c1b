"""Scales of charts: ticks at round numbers, and thinning of long series that keeps their extremes."""

import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
_MOST_TICKS = 5
_CLOCK = (1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30)), *(3600 * n for n in (1, 2, 3, 6, 12, 24, 48, 120, 240)))


def ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Return at most `most` + 1 equally spaced round numbers that cover low to high; their spacing is 1, 2 or 5 times a power of ten."""
    largest = max(abs(low), abs(high))
    if not high - low > 1e-9 * max(largest, 1e-280):
        margin = largest / 2 if largest > 1e-280 else 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10, 20) if math.ceil(high / (size * power)) - math.floor(low / (size * power)) <= most)
    first = math.floor(low / step)
    return [round(step * index, 12) for index in range(first, math.ceil(high / step) + 1)]


def time_ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Return `ticks` for a time in seconds, spaced by round numbers of seconds, minutes, hours or days."""
    step = next((size for size in _CLOCK if (high - low) / size <= most), None)
    if step is None or not high > low:
        return ticks(low, high, most)
    return [float(step * index) for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def thin(points: Points, buckets: int) -> list[tuple[float, float]]:
    """Return the first, lowest, highest and last point of each of `buckets` equal intervals, so that no peak is lost."""
    if len(points) <= 4 * buckets:
        return list(points)
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    width = (right - left) / buckets or 1.0
    intervals: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        intervals.setdefault(int((point[0] - left) / width), []).append(point)
    kept: list[tuple[float, float]] = []
    for interval in intervals.values():
        extremes = {0, len(interval) - 1, *(choose(range(len(interval)), key=lambda index: interval[index][1]) for choose in (min, max))}
        kept += [interval[index] for index in sorted(extremes)]
    return kept


def drawable(points: Points) -> list[tuple[float, float]]:
    """Return the points with two finite coordinates, below 1e30 so that scales can be computed."""
    return [point for point in points if all(abs(coordinate) < 1e30 for coordinate in point)]
