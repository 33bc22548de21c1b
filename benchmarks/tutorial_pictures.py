"""The tutorial's pictures, drawn from the pages' outputs and from the folder in which their commands were run.

python benchmarks/tutorial_pictures.py --work tutorial-work          # writes docs/tutorial/01-history.svg and so on
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from safetensors import safe_open
from tutorial_pages import PAGES, blocks

import tfkit

WIDTH = 720
SHADES = 25  # of the squares that show weights
STYLE = """
  text { font: 14px sans-serif; fill: #24292f } .paper { fill: #ffffff } .small { font-size: 12px } .bold { font-weight: bold }
  .line { stroke: #57606a; fill: none } .grid { stroke: #d8dee4 } .empty { fill: #eef1f4 }
  .s0 { stroke: #0550ae; fill: #0550ae } .s1 { stroke: #bc4c00; fill: #bc4c00 } .s2 { stroke: #1a7f37; fill: #1a7f37 }
  .cell { fill: #0550ae } .gap { stroke: #ffffff; stroke-width: 2 }
  polyline { fill: none !important; stroke-width: 2 } .mono { font-family: monospace; font-size: 12px }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .paper { fill: #0d1117 } .line { stroke: #8b949e } .grid { stroke: #30363d } .empty { fill: #1c2128 }
    .s0 { stroke: #79c0ff; fill: #79c0ff } .s1 { stroke: #ffa657; fill: #ffa657 } .s2 { stroke: #56d364; fill: #56d364 }
    .cell { fill: #79c0ff } .gap { stroke: #0d1117 }
  }"""


class Picture:
    """An SVG with a background of its own, readable in light and dark."""

    def __init__(self, title: str, height: int):
        self.title, self.height = title, height
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, anchor: str = "start", style: str = "", turned: bool = False) -> None:
        """Write words whose anchor is at a place."""
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{turn} xml:space="preserve">{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str = "line") -> None:
        """Draw a straight line."""
        self.parts.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def dot(self, x: float, y: float, style: str) -> None:
        """Draw a point."""
        self.parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')

    def path(self, places: Sequence[tuple[float, float]], style: str) -> None:
        """Join places by lines."""
        self.parts.append(f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')

    def box(self, x: float, y: float, width: float, height: float, style: str, opacity: float = 1.0) -> None:
        """Draw a rectangle."""
        shade = "" if opacity == 1.0 else f' fill-opacity="{opacity:.2f}"'
        self.parts.append(f'<rect class="{style}"{shade} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"/>')

    def __str__(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img">'
        paper = f'<rect class="paper" width="{WIDTH}" height="{self.height}"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}\n</style>", paper, *self.parts, "</svg>\n"])


@dataclass(frozen=True)
class Axes:
    """A chart's frame: where values lie in it. `log`: the horizontal axis is a logarithm."""

    x: tuple[float, float]
    y: tuple[float, float]
    top: float
    bottom: float
    log_x: bool = False
    log_y: bool = False
    left: float = 70
    right: float = WIDTH - 30

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point."""
        return (
            self.left + _share(x, self.x, self.log_x) * (self.right - self.left),
            self.bottom - _share(y, self.y, self.log_y) * (self.bottom - self.top),
        )


def _share(value: float, ends: tuple[float, float], log: bool) -> float:
    low, high, value = (math.log(one) for one in (*ends, value)) if log else (*ends, value)
    return (value - low) / ((high - low) or 1)


def frame(picture: Picture, axes: Axes, x_ticks: dict[float, str], y_ticks: dict[float, str], x_name: str, y_name: str) -> None:
    """Draw the axes with their ticks and names."""
    for value, words in y_ticks.items():
        y = axes.place(axes.x[0], value)[1]
        picture.line(axes.left, y, axes.right, y, "grid")
        picture.text(axes.left - 8, y + 5, words, "end")
    picture.line(axes.left, axes.bottom, axes.right, axes.bottom)
    for value, words in x_ticks.items():
        x = axes.place(value, axes.y[0])[0]
        picture.line(x, axes.bottom, x, axes.bottom + 5)
        picture.text(x, axes.bottom + 21, words, "middle")
    picture.text((axes.left + axes.right) / 2, axes.bottom + 42, x_name, "middle")
    picture.text(20, (axes.top + axes.bottom) / 2, y_name, "middle", turned=True)


def ticks(values: Sequence[float]) -> tuple[float, float, dict[float, str]]:
    """Return the ends of an axis, and at most eight round values on it with their words."""
    least, most = min(values), max(values)
    step = next(digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 5) if (most - least) / (digit * 10.0**power) <= 6)
    low = math.floor(least / step + 1e-9) * step
    count = max(1, math.ceil((most - low) / step - 1e-9))
    digits = max(0, -math.floor(math.log10(step)))
    return low, low + count * step, {low + index * step: f"{low + index * step:.{digits}f}" for index in range(count + 1)}


def outputs(page: str) -> list[str]:
    """Return the outputs in a page."""
    return [block.text for block in blocks((PAGES / page).read_text(encoding="utf-8")) if block.language == "text"]


# ------------------------------------------------------------------------------------------------------------------- pictures


def history(work: Path) -> Picture:
    """Draw the systems by year and parameters."""
    line = re.compile(r"(\d{4})  (\S+) +(encoder \+ decoder|encoder|decoder) +\d+ layers +([\d,]+) million")
    systems = [
        (int(year), name, kind, float(count.replace(",", "")) * 1e6)
        for year, name, kind, count in line.findall(outputs("01-history.md")[0])
    ]
    picture = Picture("Twelve Transformers by year and number of parameters", 470)
    axes = Axes((2016.6, 2025.9), (3e7, 5e11), 50, 400, log_y=True)
    powers = {1e8: "100 million", 1e9: "1 billion", 1e10: "10 billion", 1e11: "100 billion"}
    frame(picture, Axes(axes.x, axes.y, 50, 400, log_y=True, left=105), {}, powers, "year", "")
    axes = Axes(axes.x, axes.y, 50, 400, log_y=True, left=105)
    for year in range(2017, 2026):
        picture.text(axes.place(year, 1e8)[0], 421, str(year), "middle")
    styles = {"decoder": "s0", "encoder": "s1", "encoder + decoder": "s2"}
    for number, (kind, style) in enumerate(styles.items()):
        picture.dot(120 + 130 * number, 22, style)
        picture.text(131 + 130 * number, 27, kind)
    for year, name, kind, count in systems:
        x, y = axes.place(year, count)
        picture.dot(x, y, styles[kind])
        last = year >= 2024
        picture.text(
            x + (-9 if last else 9),
            y + 5,
            re.sub(r"-(base|big|large|xl|\d+[\d.]*b|v[\d.]+)$", "", name),
            "end" if last else "start",
            "small",
        )
    return picture


def learning(work: Path) -> Picture:
    """Draw the two losses of page 2, and the samples that were written on the way."""
    lines = _metrics(work / "runs" / "small")
    trained = [(one["step"], one["loss"]) for one in lines if "loss" in one and "lr" in one]
    held_out = [(one["step"], one["evaluation"]["loss"]) for one in lines if "evaluation" in one]
    low, high, y_ticks = ticks([loss for _, loss in (*trained, *held_out)])
    samples = _samples(outputs("02-language-models.md")[1])
    picture = Picture("The loss on the training text and on the held-out text, and what the model writes", 360 + 24 * len(samples) + 20)
    last = max(step for step, _ in trained)
    axes = Axes((0, last), (low, high), 45, 270)
    frame(picture, axes, {step: str(step) for step, _ in held_out} | {0: "0"}, y_ticks, "steps", "loss")
    _curves(picture, axes, {"text that it learns from": trained, "text that was held out": held_out})
    for number, (step, words) in enumerate(samples):
        picture.text(30, 355 + 24 * number, f"step {step}", style="small bold")
        picture.text(105, 355 + 24 * number, words, style="mono")
    return picture


def sizes(work: Path) -> Picture:
    """Draw the loss of the three models of page 3 against the arithmetic of their trainings."""
    trials = []
    for run in sorted((work / "runs" / "sizes").glob("trial-*")):
        document = json.loads((run / "run.json").read_text(encoding="utf-8"))
        trials.append((_parameters(run), document["totals"]["train_flops"] / 1e12, document["result"]["best"]["value"]))
    picture = Picture("More parameters: less loss, more arithmetic", 400)
    low, high, y_ticks = ticks([loss for _, _, loss in trials])
    left, right, x_ticks = ticks([0.0, *(flops for _, flops, _ in trials)])
    axes = Axes((left, right), (low, high), 40, 330, right=WIDTH - 40)
    frame(picture, axes, x_ticks, y_ticks, "arithmetic of the training, million million operations", "loss on held-out text")
    places = [axes.place(flops, loss) for _, flops, loss in trials]
    picture.path(places, "s0")
    for (x, y), (parameters, _, _) in zip(places, trials, strict=True):
        picture.dot(x, y, "s0")
        right_half = x > WIDTH / 2
        words = f"{parameters / 1e6:.2f} million parameters"
        picture.text(x + (-4 if right_half else 11), y + (24 if right_half else -8), words, "end" if right_half else "start", "small")
    return picture


def transfer(work: Path) -> Picture:
    """Draw the loss of page 4 against the number of sentences, from both starts."""
    names = {"small": "from the language model of page 2", "untrained": "from random numbers"}
    series: dict[str, list[tuple[float, float]]] = {}
    for start, words in names.items():
        runs = (work / "runs" / "comments").glob(f"{start}-*")
        series[words] = sorted((int(run.name.partition("-")[2]), _result(run)["best"]["value"]) for run in runs)
    points = [point for line in series.values() for point in line]
    picture = Picture("Loss against the number of sentences, from random numbers and from the language model", 400)
    counts = sorted({count for count, _ in points})
    low, high, y_ticks = ticks([loss for _, loss in points])
    axes = Axes((counts[0] * 0.8, counts[-1] * 1.25), (low, high), 45, 330, log_x=True)
    frame(picture, axes, {count: f"{count:,}" for count in counts}, y_ticks, "sentences to learn from", "loss on the test")
    _curves(picture, axes, series)
    return picture


def masks(work: Path) -> Picture:
    """Draw the masks that page 5 finds."""
    picture = Picture("What each word may see in an encoder, a decoder and an encoder-decoder", 250)
    titles = ("encoder", "decoder", "cross-attention", "target")
    lines = [line.split() for line in outputs("05-general-architecture.md")[0].splitlines()[1:]]
    words, size = [word for word, *_ in lines], len(lines)
    for number, title in enumerate(titles):
        weights = [[float(mark == "■") for mark in marks[number * size : (number + 1) * size]] for _, *marks in lines]
        heat(picture, words if number == 0 else [], words, weights, 60 + 167 * number, 85, 24)
        picture.text(60 + 167 * number + 72, 30, title, "middle", "bold")
    return picture


def head(work: Path) -> Picture:
    """Draw the head that page 6 names, with a longer sentence."""
    page = (PAGES / "06-attention-layers.md").read_text(encoding="utf-8")
    layer, number = map(int, re.findall(r"--attention .* --layer (\d+) --head (\d+)", page)[0])
    read = tfkit.load(str(work / "runs" / "small")).attention("The function returns a new list that holds the names of all files.")
    words = [token.replace("Ġ", "") for token in read.tokens]
    weights = read.maps["decoder"][layer][number].tolist()
    shown = {"source": words, "target": words, "weights": weights, "layer": layer, "head": number}
    return _heat_of(shown, "A head that looks back at the small word of each phrase", "looks at")


def alignment(work: Path) -> Picture:
    """Draw the head of cross-attention that page 7's script shows, with its sentences."""
    script = (work / "align.py").read_text(encoding="utf-8")
    layer, number = map(int, re.findall(r"layer, head = (\d+), (\d+)", script)[0])
    read = tfkit.load(str(work / "runs" / "spanish")).attention(*re.findall(r'attention\("(.*?)", "(.*?)"\)', script)[0])
    assert read.target_tokens is not None
    source, target = ([token.strip("▁") for token in tokens] for tokens in (read.tokens, read.target_tokens))
    weights = read.maps["cross"][layer, number, :-1].tolist()  # each word is written while the word before it is read
    shown = {"source": source, "target": target[1:], "weights": weights, "layer": layer, "head": number}
    return _heat_of(shown, "A head of cross-attention that aligns words", "looks at")


def folders(work: Path) -> Picture:
    """Draw an architecture, two checkpoints of it, and the models that are made of them."""
    config = max((work / "runs" / "small" / "checkpoints").glob("*/config.json"))
    description = json.loads(config.read_text(encoding="utf-8"))
    picture = Picture("One architecture, two checkpoints, two models", 330)
    described = description["config"]  # of tfkit's own type, as page 8 says
    facts = [f"{name}: {described[name]}" for name in ("decoder_layers", "dim", "num_heads", "vocab_size")]
    _card(picture, 25, 95, 200, "architecture", ["config.json", *facts])
    for number, (run, says) in enumerate((("untrained", "random numbers"), ("small", "learned numbers"))):
        top = 30 + 155 * number
        weights = max((work / "runs" / run / "checkpoints").glob("*/model.safetensors"))
        size = f"{weights.stat().st_size / 1e6:.1f} MB of {says}"
        _card(picture, 265, top, 210, "checkpoint", [f"runs/{run}", "model.safetensors", size])
        _card(picture, 515, top, 185, "model", ["tfkit.load(...)", "in memory:", "reads and writes"])
        picture.line(225, 155, 265, top + 55)
        picture.line(475, top + 55, 515, top + 55)
    return picture


def _card(picture: Picture, x: float, y: float, width: float, title: str, lines: list[str]) -> None:
    picture.box(x, y, width, 42 + 20 * len(lines), "empty")
    picture.text(x + 12, y + 24, title, style="bold")
    for number, line in enumerate(lines):
        picture.text(x + 12, y + 48 + 20 * number, line, style="mono")


def heat(
    picture: Picture, rows: list[str], columns: list[str], weights: list[list[float]], x: float, y: float, size: float, causal: bool = False
) -> None:
    """Draw weights from 0 to 1 as shaded squares, with the words of rows and columns; `causal`: later columns stay blank."""
    for column, word in enumerate(columns):
        picture.text(x + (column + 0.5) * size + 4, y - 6, word, "start", "small", turned=True)
    for row, word in enumerate(rows):
        picture.text(x - 7, y + (row + 0.5) * size + 4, word, "end", "small")
    width, height = size * len(weights[0]), size * len(weights)
    seen = [row + 1 if causal else len(columns) for row in range(len(weights))]
    steps = [f"M{x:.1f} {y + row * size:.1f}h{count * size:.1f}v{size:.1f}h-{count * size:.1f}z" for row, count in enumerate(seen)]
    picture.parts.append(f'<path class="empty" d="{"".join(steps)}"/>')
    for level in range(1, SHADES + 1):  # a path for each shade, since a square of its own takes five times as many bytes
        shaded = [
            f"M{x + column * size:.1f} {y + row * size:.1f}h{size:.1f}v{size:.1f}h-{size:.1f}z"
            for row, values in enumerate(weights)
            for column, weight in enumerate(values)
            if round(weight * SHADES) == level
        ]
        if shaded:
            picture.parts.append(f'<path class="cell" fill-opacity="{level / SHADES:.2f}" d="{"".join(shaded)}"/>')
    for column in range(1, len(weights[0])):
        picture.line(x + column * size, y, x + column * size, y + height, "gap")
    for row in range(1, len(weights)):
        picture.line(x, y + row * size, x + width, y + row * size, "gap")


def _heat_of(shown: Mapping[str, Any], title: str, axis: str) -> Picture:
    """Draw the weights of a head: source and target words, weights, and the numbers of layer and head."""
    size = min(34.0, 520 / len(shown["source"]))
    top = 40 + 8 * max(map(len, shown["source"]))
    picture = Picture(title, round(top + size * len(shown["target"]) + 25))
    heat(picture, shown["target"], shown["source"], shown["weights"], 150, top, size, causal=shown["target"] == shown["source"])
    picture.text(20, 26, f"layer {shown['layer']}, head {shown['head']}: each word of a row {axis} the words of the columns", style="small")
    return picture


def _curves(picture: Picture, axes: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
    for number, (name, points) in enumerate(series.items()):
        style = f"s{number}"
        places = [axes.place(*point) for point in points]
        picture.path(places, style)
        if len(points) < 12:
            for place in places:
                picture.dot(*place, style)
        picture.dot(90 + 270 * number, 20, style)
        picture.text(101 + 270 * number, 25, name)


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _samples(output: str) -> list[tuple[str, str]]:
    """Return the step and the beginning of each sample in the output of a training."""
    found = re.findall(r"step (\d+) writes:\n((?:(?:    .*)?\n)+)", output)
    return [(step, shorten(" ".join(text.split()), 78)) for step, text in found]


def shorten(text: str, length: int) -> str:
    """Return the beginning of a text that is longer, with three dots."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _result(run: Path) -> dict[str, Any]:
    """Return the result of a finished run."""
    result: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))["result"]
    return result


def _parameters(run: Path) -> int:
    """Return the number of parameters of a run's newest checkpoint."""
    weights = max((run / "checkpoints").glob("step-*/model.safetensors"))
    with safe_open(weights, "np") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  not a dict


PICTURES: dict[str, Callable[[Path], Picture]] = {
    "01-history": history,
    "02-language-models": learning,
    "03-big-models": sizes,
    "04-transfer-learning": transfer,
    "05-general-architecture": masks,
    "06-attention-layers": head,
    "07-original-architecture": alignment,
    "08-architecture-checkpoint-model": folders,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="NN", help="the numbers of pictures; by default all")
    parser.add_argument("--work", type=Path, default=Path("tutorial-work"), help="the reader's folder (default %(default)s)")
    parser.add_argument("--out", type=Path, default=PAGES, help="where to write them (default docs/tutorial)")
    options = parser.parse_args()
    for name, draw in PICTURES.items():
        if not options.pictures or name[:2] in options.pictures:
            (options.out / f"{name}.svg").write_text(str(draw(options.work)), encoding="utf-8")


if __name__ == "__main__":
    main()
