"""Charts as inline SVG: lines, stacked bars and ranges. Nothing depends on colour alone: lines have dashes, bars and ranges have text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tfkit.reporting.chart_scales import Points, drawable, thin, ticks, time_ticks
from tfkit.reporting.html_elements import Element, element
from tfkit.units import format_seconds

_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40
_BUCKETS = 150
_LETTERS = 22  # of a label before numbers
COLOURS = 8  # of series and parts, in page_style.py

Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """A line of a chart with the number of its colour; `marked`: with a dot at each point."""

    label: str
    points: Points
    colour: int
    marked: bool = False


def number(value: float) -> str:
    """Format a number for an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.6g}"


def line_chart(title: str, x_name: str, series: Sequence[Series], format_y: Format = number, format_x: Format = number) -> Element | None:
    """Return a figure of the series, each with its colour and dashes; None if there are no two points with different x.

    `x_name`: the name of the x axis; `format_y` and `format_x`: for the numbers of the axes.
    """
    drawn = [(line.colour % COLOURS, line, drawable(line.points)) for line in series]
    drawn = [(colour, line, points) for colour, line, points in drawn if len(points) > 1 or (points and line.marked)]
    every = [point for _, _, points in drawn for point in points]
    if len({x for x, _ in every}) < 2:
        return None
    rows = ticks(min(y for _, y in every), max(y for _, y in every))
    left, right = min(x for x, _ in every), max(x for x, _ in every)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (point[0] - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - (point[1] - rows[0]) / (rows[-1] - rows[0]) * (_HEIGHT - _TOP - _BOTTOM)

    lines = [part for colour, line, points in drawn for part in _line(colour, line.marked, [*map(place, thin(points, _BUCKETS))])]
    columns = [tick for tick in (time_ticks if format_x is format_seconds else ticks)(left, right, 4) if left <= tick <= right]
    alternative = f"{title}, over {x_name}: " + "; ".join(
        f"{line.label} from {format_y(points[0][1])} to {format_y(points[-1][1])}" for _, line, points in drawn
    )
    drawing = element(
        "svg",
        element("title", alternative),
        *(_row(place((left, tick))[1], format_y(tick)) for tick in rows),
        *(_column(place((tick, rows[0]))[0], format_x(tick)) for tick in columns),
        element("text", x_name, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 5, text_anchor="middle", class_="axis-name"),
        *lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    names = [(colour, line.label) for colour, line, _ in drawn]
    return element("figure", element("figcaption", title), drawing, _legend(names) if len(names) > 1 else None)


def _line(colour: int, marked: bool, places: Sequence[tuple[float, float]]) -> list[Element]:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [element("circle", cx=x, cy=y, r=3, class_=f"dot c{colour}") for x, y in places] if marked and len(places) <= 60 else []
    return [element("polyline", points=corners, class_=f"line c{colour}"), *dots]


def _row(y: float, text: str) -> Element:
    line = element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
    return element("g", line, element("text", text, x=_LEFT - 6, y=y + 4, text_anchor="end"))


def _column(x: float, text: str) -> Element:
    line = element("line", x1=x, x2=x, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM + 4, class_="tick")
    return element("g", line, element("text", text, x=min(x, _WIDTH - _RIGHT - 8), y=_HEIGHT - _BOTTOM + 17, text_anchor="middle"))


def _legend(names: Sequence[tuple[int, str]]) -> Element:
    """Return the list of the labels, each after a sample of its line; `names`: colours and labels."""

    def sample(colour: int) -> Element:
        line = element("line", x1=0, x2=26, y1=5, y2=5, class_=f"line c{colour}")
        return element("svg", line, viewBox="0 0 26 10", aria_hidden="true")

    return element("ul", *(element("li", sample(colour), label) for colour, label in names), class_="legend")


def _short(label: str) -> str:
    """Shorten a label to leave room for its numbers."""
    return label if len(label) <= _LETTERS else f"{label[: _LETTERS - 3]}..."


def part_bars(title: str, rows: Mapping[str, Mapping[str, float]], format_value: Format) -> Element | None:
    """Return a bar for each row, divided into its parts and scaled to the largest row; None if all are zero."""
    rows = {label: {name: amount for name, amount in parts.items() if 0 <= amount < 1e30} for label, parts in rows.items()}
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    most = max((sum(parts.values()) for parts in rows.values()), default=0.0)
    if not most > 0:
        return None
    bars: list[Element] = []
    for label, parts in rows.items():
        y, x = 36 * len(bars), 0.0
        pieces: list[Element] = []
        for name, amount in parts.items():
            width = amount / most * _WIDTH
            colour = names.index(name) % COLOURS
            tip = element("title", f"{label}: {name} {format_value(amount)}")
            pieces.append(element("rect", tip, x=x, y=y + 16, width=width, height=14, class_=f"part c{colour}"))
            x += width
        head = element("text", f"{_short(label)}: {format_value(sum(parts.values()))}", x=0, y=y + 11)
        bars.append(element("g", head, *pieces))
    alternative = element("title", f"{title}; the table below has the numbers")
    drawing = element("svg", alternative, *bars, viewBox=f"0 0 {_WIDTH} {36 * len(bars)}", role="img")
    keys = [element("li", element("span", "", class_=f"key c{index % COLOURS}"), name) for index, name in enumerate(names)]
    return element("figure", element("figcaption", title), drawing, element("ul", *keys, class_="legend"))


def range_bars(title: str, rows: Sequence[tuple[str, float, float, float, float | None]], format_value: Format) -> Element | None:
    """Return a line for each (label, low, likely, high, actual), with a dot at the likely and a diamond at the actual value, if known."""
    values = [value for row in rows for value in row[1:] if value is not None]
    if not values or not max(values) > 0:
        return None
    most = max(values)

    def x_of(value: float) -> float:
        return 6 + value / most * (_WIDTH - 12)

    bars: list[Element] = []
    for index, (label, low, likely, high, actual) in enumerate(rows):
        y = 44 * index
        words = f"{_short(label)}: {format_value(likely)} ({format_value(low)} to {format_value(high)})" + (
            f", measured {format_value(actual)}" if actual is not None else ""
        )
        pieces = [
            element("text", words, x=0, y=y + 12),
            element("line", x1=x_of(low), x2=x_of(high), y1=y + 28, y2=y + 28, class_="range"),
            element("circle", cx=x_of(likely), cy=y + 28, r=4.5, class_="dot c0"),
        ]
        if actual is not None:
            x = x_of(actual)
            corners = f"{x:.1f},{y + 20} {x + 7:.1f},{y + 28} {x:.1f},{y + 36} {x - 7:.1f},{y + 28}"
            pieces.append(element("polygon", points=corners, class_="part c1"))
        bars.append(element("g", *pieces))
    drawing = element("svg", element("title", title), *bars, viewBox=f"0 0 {_WIDTH} {44 * len(bars)}", role="img")
    caption = element("figcaption", title, element("span", " (dot: likely, line: low to high, diamond: measured)", class_="quiet"))
    return element("figure", caption, drawing)
