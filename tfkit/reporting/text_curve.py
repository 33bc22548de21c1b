"""A plot in plain characters, for a terminal of any width, a pipe, or a log."""

from collections.abc import Mapping

from tfkit.reporting.chart_scales import Points, drawable

HEIGHT = 10  # lines of the plot, without its axis
_LEAST_WIDTH = 8
_MOST_WIDTH = 72


def text_curve(series: Mapping[str, Points], columns: int | None, unit: str = "step") -> list[str]:
    """Return the lines of a plot with a character for each series, the later series over the earlier; none without two points.

    `columns`: the width of the terminal; None: no limit. Points that are not finite are omitted.
    """
    drawn = {mark: drawable(points) for mark, points in series.items()}
    every = [point for points in drawn.values() for point in points]
    if len({x for x, _ in every}) < 2:
        return []
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}  # by row
    margin = max(map(len, labels.values()))
    width = max(_LEAST_WIDTH, min(_MOST_WIDTH, (columns or _MOST_WIDTH) - margin - 3))
    cells = [[" "] * width for _ in range(HEIGHT)]
    for mark, points in drawn.items():
        for x, y in points:
            row = round((high - y) / (high - low) * (HEIGHT - 1)) if high > low else HEIGHT // 2
            cells[row][round((x - left) / (right - left) * (width - 1))] = mark
    lines = [f"{labels.get(row, ''):>{margin}} |{''.join(line).rstrip()}".rstrip() for row, line in enumerate(cells)]
    first, last = f"{left:,.0f}", f"{right:,.0f}"
    room = width - len(first) - len(last)
    axis = f"{first}{unit + 's':^{room}}{last}" if room > len(unit) + 4 else f"{first}-{last}"
    return [*lines, f"{'':>{margin}} +{'-' * width}", f"{'':>{margin}}  {axis}"]
