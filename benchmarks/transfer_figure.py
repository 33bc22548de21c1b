"""The figure of benchmarks/transfer.py: a metric against the number of labelled examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from measured_runs import Measured


@dataclass(frozen=True)
class Point:
    """The runs of one kind on one number of examples, one a seed."""

    examples: int
    values: list[float]  # of the metric
    runs: list[Measured]

    @property
    def mean(self) -> float:
        """The mean of the metric."""
        return sum(self.values) / len(self.values)


Points = Mapping[str, Sequence[Point]]  # by kind, in the order of the examples


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 20, 40, 60
STYLE = """
  text { font: 14px sans-serif; fill: #24292f } .axis { stroke: #57606a } .grid { stroke: #d0d7de } .floor { stroke: #57606a }
  .s0 { stroke: #0550ae; fill: #0550ae } .s1 { stroke: #bc4c00; fill: #bc4c00 } polyline { fill: none !important; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .axis { stroke: #8b949e } .grid { stroke: #30363d } .floor { stroke: #8b949e }
    .s0 { stroke: #79c0ff; fill: #79c0ff } .s1 { stroke: #ffa657; fill: #ffa657 }
  }"""


def svg(points: Points, metric: str, floor: float | None) -> str:
    """Draw the metric against the logarithm of the number of examples; bars from the worst to the best seed. No background of its own."""
    every = [point for kind in points.values() for point in kind]
    low, high, step = ticks([value for point in every for value in point.values] + ([] if floor is None else [floor]))
    first, last = (math.log(pick(point.examples for point in every)) for pick in (min, max))

    def across(examples: int) -> float:
        fraction = (math.log(examples) - first) / (last - first) if last > first else 0.5
        return round(LEFT + 15 + fraction * (WIDTH - LEFT - RIGHT - 30), 1)

    def up(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    right, bottom, middle = WIDTH - RIGHT, HEIGHT - BOTTOM, (HEIGHT + TOP - BOTTOM) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{metric} against the number of labelled examples</title>",
        f"<style>{STYLE}\n</style>",
    ]
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{up(value)}" x2="{right}" y2="{up(value)}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{up(value) + 5}" text-anchor="end">{value:.2f}</text>')
    for examples in sorted({point.examples for point in every}):
        lines.append(f'<line class="axis" x1="{across(examples)}" y1="{bottom}" x2="{across(examples)}" y2="{bottom + 5}"/>')
        lines.append(f'<text x="{across(examples)}" y="{bottom + 22}" text-anchor="middle">{examples:,}</text>')
    lines.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    if floor is not None:
        lines.append(f'<line class="floor" stroke-dasharray="5 4" x1="{LEFT}" y1="{up(floor)}" x2="{right}" y2="{up(floor)}"/>')
        lines.append(f'<text x="{right}" y="{up(floor) - 6}" text-anchor="end">most frequent class</text>')
    for number_of, (kind, series) in enumerate(points.items()):
        corners = " ".join(f"{across(point.examples)},{up(point.mean)}" for point in series)
        lines.append(f'<g class="s{number_of}"><polyline points="{corners}"/>')
        for point in series:
            x, ends = across(point.examples), (up(min(point.values)), up(max(point.values)))
            lines.append(f'<line x1="{x}" y1="{ends[0]}" x2="{x}" y2="{ends[1]}"/><circle cx="{x}" cy="{up(point.mean)}" r="4"/>')
        x = LEFT + 15 + 200 * number_of
        lines.append(f'<circle cx="{x}" cy="18" r="5"/></g><text x="{x + 12}" y="23">{kind}</text>')
    lines.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">labelled examples</text>')
    lines.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{metric}</text>')
    return "\n".join([*lines, "</svg>\n"])


def ticks(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the ends of an axis and its step: 0.01, 0.02, 0.05, 0.1 ..., so that it has at most eight parts."""
    least, most = min(values), max(values)
    step = next(size for power in range(-2, 3) for digit in (1, 2, 5) if (most - least) / (size := digit * 10.0**power) <= 6)
    low = math.floor(least / step + 1e-9) * step
    return round(low, 9), round(max(math.ceil(most / step - 1e-9) * step, low + step), 9), step
