"""Does transfer pay? The metric against the number of labelled examples, fine-tuned and from random weights, with what each cost.

    python benchmarks/transfer.py sentence-polarity --from CKPT --data train.csv --test test.csv

Every run is a process of tfkit on a recipe: `finetune` from the checkpoint, and `pretrain` of the same config with the same
tokenizer, for as many steps. No run is evaluated on the test rows before its end. An interrupted script goes on where it was;
finished runs are reused. Writes a table and a figure (docs/transfer.md and .svg).
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_runs import (
    Measured,
    Runs,
    all_labels,
    cells,
    cost_of,
    labelled_rows,
    majority,
    mean_cost,
    number,
    receipt_beside,
    spread,
    task,
    write_rows,
)

from tfkit.data.columns.rows import Row
from tfkit.recipe.schema.sections import Recipe

KINDS = ("fine-tuned", "random weights")


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


def main() -> None:
    options = parse()
    from tfkit.objectives.metrics.tag_spans import mark_spans
    from tfkit.recipe import read_recipe

    resolved = read_recipe(options.recipe, options.set)
    recipe = resolved.recipe
    train, test = labelled_rows(recipe, options.data, test=False), labelled_rows(recipe, options.test, test=True)
    if not test:
        sys.exit("no test rows: give --test F, or a recipe with data.validation")
    start = options.start or recipe.model.start or sys.exit("which checkpoint? Give --from CKPT")
    labels = all_labels(train)
    has_entities = recipe.objective.kind == "tagging" and mark_spans(labels)
    metric = options.metric or ("f1" if has_entities else "accuracy" if labels else sys.exit("give --metric"))
    runs = Runs(options.run_root)
    every = [*(["--threads", str(options.threads)] if options.threads else []), *options.set]
    held_out = write_rows(test, options.run_root / "test.jsonl")
    config = json.dumps(same_config(recipe, start, len(labels)))
    points: dict[str, list[Point]] = {kind: [] for kind in KINDS}
    for size in sizes(options.sizes, len(train)):
        found: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
        steps = max(options.least_steps, math.ceil(size * options.epochs / recipe.training.batch_size))
        for seed in range(1, options.seeds + 1):
            rows = write_rows(subset(train, size, seed), options.run_root / f"train-{size}-{seed}.jsonl")
            common = task(rows, labels, seed)
            for kind in KINDS:
                tuned = kind == KINDS[0]
                words = ["finetune", options.recipe, "--from", start] if tuned else ["pretrain", options.recipe, f"model={config}"]
                words += every  # settings of one kind alone come later, and win
                words += common if tuned else [*common, f"tokenizer.path={json.dumps(start)}", *options.scratch_set]
                words += length(recipe, steps if tuned else round(steps * options.scratch_length))
                measured, _ = runs.measure(f"{kind.replace(' ', '-')}-{size}-seed{seed}", words, start, rows, held_out)
                found[kind].append(measured)
        for kind, each in found.items():
            points[kind].append(Point(size, [one.metrics[metric] for one in each], each))
    floor = majority(train, test) if metric == "accuracy" else None
    write_page(options, resolved.name, metric, points, floor, start, len(test))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="sentence-polarity", help="a recipe of classes or tags (default %(default)s)")
    parser.add_argument("--from", dest="start", metavar="CKPT", help="the pretrained checkpoint; else the recipe's")
    parser.add_argument("--data", metavar="F", type=Path, help="the labelled rows; else the recipe's data.train")
    parser.add_argument("--test", metavar="F", type=Path, help="the test rows; else the recipe's data.validation")
    parser.add_argument("--sizes", default="100,300,1000,3000,all", help="numbers of labelled examples (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each; a seed draws the examples, too (default %(default)s)")
    parser.add_argument("--epochs", type=float, default=3.0, help="passes over the examples (default %(default)s)")
    parser.add_argument("--least-steps", type=int, default=60, help="steps, if the passes are fewer (default %(default)s)")
    parser.add_argument("--scratch-length", type=float, default=1.0, help="steps from random weights, by those of fine-tuning (default 1)")
    parser.add_argument("--scratch-set", nargs="*", default=[], metavar="K=V", help="changes to the recipe for random weights alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="K=V", help="changes to the recipe for all runs")
    parser.add_argument("--metric", help="of tfkit evaluate; else accuracy of classes, f1 of tags")
    parser.add_argument("--threads", type=int, help="of each run")
    parser.add_argument("--run-root", type=Path, default=Path("runs/transfer"), help="the folder of the runs (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/transfer.md"), help="the page; its figure is beside it")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------------------- runs


def sizes(written: str, rows: int) -> list[int]:
    """Parse `100,300,all` into numbers, in order, without those that exceed the rows."""
    wanted = {rows if size == "all" else int(size) for size in written.split(",")}
    return sorted(size for size in wanted if 0 < size <= rows)


def subset(rows: Sequence[Row], size: int, seed: int) -> list[Row]:
    """Draw rows with the seed; a larger subset of the same seed holds the smaller ones."""
    return random.Random(seed).sample(list(rows), len(rows))[:size]


def length(recipe: Recipe, steps: int) -> list[str]:
    """Return the settings of a length in steps, at most a tenth of them warm-up: the recipe's own may be for longer runs."""
    warmup = min(recipe.schedule.warmup_steps, math.ceil(steps / 10))
    return [f"training.steps={steps}", f"schedule.warmup_steps={warmup}"]


def same_config(recipe: Recipe, start: str, labels: int) -> dict[str, Any]:
    """Return the config of the random model: the checkpoint's, with the recipe's changes and the head that fine-tuning gives it."""
    from tfkit.adapters import describe
    from tfkit.families import FAMILIES
    from tfkit.recipe.presets import merge
    from tfkit.recipe.schema.heads import new_head

    described = describe(start)
    values = merge(described.config.model_dump(mode="json"), recipe.model.changes)
    family = FAMILIES.get(described.family)
    if "head" not in recipe.model.changes:
        values["head"] = new_head(recipe.objective, family, described.config, labels, same_labels=False) or values["head"]
    return values


# ------------------------------------------------------------------------------------------------------------------- page


def write_page(options: argparse.Namespace, name: str, metric: str, points: Points, floor: float | None, start: str, test: int) -> None:
    from tfkit.hub import find_checkpoint

    figure = options.out.with_suffix(".svg")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text(svg(points, metric, floor), encoding="utf-8")
    first = points[KINDS[0]][0].runs[0]
    baseline = "" if floor is None else f" Always telling the most frequent class: {floor:.3f}."
    command = " ".join(["python benchmarks/transfer.py", *sys.argv[1:]])
    text = f"""# Transfer: {name}

The recipe `{name}` on more and more labelled examples, fine-tuned from a pretrained checkpoint and from random weights of the same
description with the same tokenizer. Seeds of each, which draw the examples too: {options.seeds}. {metric.capitalize()} on
{test:,} test rows, mean and standard deviation; seconds of the steps and energy of the whole training, means of a run.{baseline}
Machine: {first.machine}.

![{metric} against the number of labelled examples]({figure.name})

{table(points, metric)}

{conclusion(points, metric, floor)}

{shared_cost(receipt_beside(find_checkpoint(start)), points)}

Made by

    {command}
"""
    options.out.write_text(text, encoding="utf-8")
    print(table(points, metric))
    print(f"\n{conclusion(points, metric, floor)}\n\n{options.out}, {figure}")


def table(points: Points, metric: str) -> str:
    """Return a row for each number of examples and kind."""
    lines = [f"| examples | start | {metric} | steps | seconds | kWh | gCO2e |", "| ---: | --- | --- | ---: | ---: | ---: | ---: |"]
    for pair in zip(*points.values(), strict=True):
        for kind, point in zip(points, pair, strict=True):
            cost = mean_cost([run.cost for run in point.runs])
            lines.append(f"| {point.examples:,} | {kind} | {spread(point.values)} | {point.runs[0].steps:,} | {cells(cost)} |")
    return "\n".join(lines)


def equal_quality(points: Points) -> tuple[Point, Point] | None:
    """Return the fewest examples with which fine-tuning equals the best of random weights, and that best; None if none are enough."""
    tuned, scratch = (points[kind] for kind in KINDS)
    best = max(scratch, key=lambda point: point.mean)
    enough = next((point for point in tuned if point.mean >= best.mean), None)
    return None if enough is None else (enough, best)


def conclusion(points: Points, metric: str, floor: float | None) -> str:
    """Describe how few examples of fine-tuning equal the best of random weights, and their relative cost; or that none do."""
    best = max(points[KINDS[1]], key=lambda point: point.mean)
    if floor is not None and best.mean <= floor:
        return f"From random weights nothing is learned from these numbers of examples: {best.mean:.3f} is the most frequent class."
    reached = f"From random weights the best {metric} is {best.mean:.3f}, with {best.examples:,} examples"
    if (pair := equal_quality(points)) is None:
        return f"{reached}; fine-tuning reaches it with none of these numbers of examples."
    enough, (ours, theirs) = pair[0], (mean_cost([run.cost for run in point.runs]) for point in pair)
    text = f"{reached}. Fine-tuning reaches {enough.mean:.3f} with {enough.examples:,}, in {ours.seconds / theirs.seconds:.0%} of the time"
    if ours.energy_kwh is None or not theirs.energy_kwh:
        return f"{text}."
    return f"{text} and with {ours.energy_kwh / theirs.energy_kwh:.0%} of the energy."


def shared_cost(receipt: Mapping[str, Any] | None, points: Points) -> str:
    """Describe the cost of pretraining, once for all that is fine-tuned from it, and after how many such tasks it pays for itself."""
    if receipt is None:
        return "What the pretraining of the checkpoint cost is not known: it does not lie in the folder of its run."
    cost = cost_of(dict(receipt))
    text = (
        f"The pretraining of the checkpoint cost {cost.seconds:,.0f} seconds, {number(cost.energy_kwh)} kWh and "
        f"{number(cost.emissions_g)} gCO2e, once for everything that is fine-tuned from it; it is in no row of the table."
    )
    energies = [mean_cost([run.cost for run in point.runs]).energy_kwh for point in equal_quality(points) or ()]
    if cost.energy_kwh is None or None in energies or not energies:
        return text
    ours, theirs = (energy or 0.0 for energy in energies)
    saved = theirs - ours
    if saved <= 0:
        return f"{text} At equal quality a task saves no energy here; what it saves is labelled examples."
    tasks = math.ceil(cost.energy_kwh / saved)
    return f"{text} At equal quality a task saves {number(saved)} kWh: the energy is earned back after {tasks:,} of them."


# ---------------------------------------------------------------------------------------------------------------- figure

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


if __name__ == "__main__":
    main()
