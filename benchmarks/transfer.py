"""Does transfer pay? The metric against the number of labelled examples, fine-tuned and from random weights, with what each cost.

    python benchmarks/transfer.py sentence-polarity --from CKPT --data train.csv --test test.csv --validation valid.csv

Every run is a process of tfkit on a recipe: `finetune` from the checkpoint, and `pretrain` of the same config with the same
tokenizer, for as many steps. No run is evaluated on the test rows before its end. An interrupted script continues where it was;
finished runs are reused. Writes a page with a table and a figure, which docs/transfer.md has.

With `--validation`, the fewest examples with which fine-tuning equals the best of random weights, and that best, are run once more with
ten evaluations each, and `tfkit report` says what each had spent when it was as good as the other. `--pair 1000,all` writes this alone.
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
from transfer_figure import Point, Points, svg

from tfkit.data.columns.rows import Row
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.sections import Recipe

KINDS = ("fine-tuned", "random weights")
BEGIN, END = "<!-- equal quality: begin -->", "<!-- equal quality: end -->"
EVALUATIONS, JUDGED_ROWS = 10, 300  # of each run of the pair


def main() -> None:
    options = parse()
    from tfkit.objectives.metrics.entities import mark_spans
    from tfkit.recipe import read_recipe

    resolved = read_recipe(options.recipe, parse_overrides(options.set))
    recipe = resolved.recipe
    train, test = labelled_rows(recipe, options.data, test=False), labelled_rows(recipe, options.test, test=True)
    if not test:
        sys.exit("no test rows: give --test F, or a recipe with data.validation")
    start = options.start or recipe.model.start or sys.exit("which checkpoint? Give --from CKPT")
    labels = all_labels(train)
    has_entities = recipe.objective.kind == "tagging" and mark_spans(labels)
    metric = options.metric or ("f1" if has_entities else "accuracy" if labels else sys.exit("give --metric"))
    work = Task(options, recipe, start, train, labels, write_rows(test, options.run_root / "test.jsonl"))
    if options.pair:
        tuned, scratch = (sizes(size, len(train))[0] for size in options.pair.split(","))
        write_between(options.out, report_of_pair(work, tuned, scratch))
        return
    points: dict[str, list[Point]] = {kind: [] for kind in KINDS}
    for size in sizes(options.sizes, len(train)):
        for kind in KINDS:
            each = [work.measure(Runs(options.run_root), kind, size, seed)[0] for seed in range(1, options.seeds + 1)]
            points[kind].append(Point(size, [one.metrics[metric] for one in each], each))
    floor = majority(train, test) if metric == "accuracy" else None
    write_page(options, resolved.name, metric, points, floor, start, len(test))
    if options.validation and (pair := equal_quality(points)):
        write_between(options.out, report_of_pair(work, *(point.examples for point in pair)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="sentence-polarity", help="a recipe of classes or tags (default %(default)s)")
    parser.add_argument("--from", dest="start", metavar="CKPT", help="the pretrained checkpoint; else the recipe's")
    parser.add_argument("--data", metavar="F", type=Path, help="the labelled rows; else the recipe's data.train")
    parser.add_argument("--test", metavar="F", type=Path, help="the test rows; else the recipe's data.validation")
    parser.add_argument(
        "--validation", metavar="F", type=Path, help="rows for the comparison at equal quality, neither trained on nor test"
    )
    parser.add_argument("--pair", metavar="N,M", help="compare only N examples fine-tuned with M from random weights, and write only this")
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
    parser.add_argument("--out", type=Path, default=Path("runs/transfer.md"), help="the page, beside its figure (default %(default)s)")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Task:
    """The runs on a task: of any kind, on any number of its rows."""

    options: argparse.Namespace
    recipe: Recipe
    start: str
    train: Sequence[Row]
    labels: Sequence[str]
    test: Path

    def measure(
        self, runs: Runs, kind: str, size: int, seed: int, more: Sequence[str] = (), *, keep: bool = False
    ) -> tuple[Measured, Path]:
        """Train and score a run, or return what it was before; `more`: further settings."""
        options, recipe, tuned = self.options, self.recipe, kind == KINDS[0]
        rows = write_rows(subset(self.train, size, seed), options.run_root / f"train-{size}-{seed}.jsonl")
        if tuned:
            words = ["finetune", options.recipe, "--from", self.start]
        else:
            words = ["pretrain", options.recipe, f"model={json.dumps(same_config(recipe, self.start, len(self.labels)))}"]
        words += [*(["--threads", str(options.threads)] if options.threads else []), *options.set]
        words += task(rows, self.labels, seed)
        if not tuned:  # settings of one kind alone come later, and win
            words += [f"tokenizer.path={json.dumps(self.start)}", *options.scratch_set]
        words += [*length(recipe, self.steps(kind, size)), *more]
        return runs.measure(f"{kind.replace(' ', '-')}-{size}-seed{seed}", words, self.start, rows, self.test, keep=keep)

    def steps(self, kind: str, size: int) -> int:
        """Return the steps of a run."""
        steps = max(self.options.least_steps, math.ceil(size * self.options.epochs / self.recipe.training.batch_size))
        return steps if kind == KINDS[0] else round(steps * self.options.scratch_length)


def report_of_pair(work: Task, tuned: int, scratch: int) -> str:
    """Run both with evaluations, and return what `tfkit report` says of them, as a section of the page."""
    options = work.options
    validation = labelled_rows(work.recipe, options.validation, test=True)
    path = write_rows(subset(validation, JUDGED_ROWS, 1), options.run_root / "validation.jsonl")
    runs, folders = Runs(options.run_root / "pair"), []
    for kind, size in zip(KINDS, (tuned, scratch), strict=True):
        every = max(1, work.steps(kind, size) // EVALUATIONS)
        more = [f"data.validation=[{{path: {json.dumps(str(path))}}}]", f"evaluation.every={every}"]
        folders.append(work.measure(runs, kind, size, 1, more, keep=True)[1])
    report = runs.call(["report", *map(str, folders)], runs.root / "report")
    made_by = f"\n\nMade by\n\n{indented(command())}" if options.pair else ""
    return f"""## At equal validation loss

Two runs were repeated with {EVALUATIONS} evaluations of {min(JUDGED_ROWS, len(validation))} held-out rows each, whose
energy is included: fine-tuning with the fewest examples that are as good as the best result from random weights, and
that best result. This is the output of `tfkit report` for both:

{indented(report)}{made_by}"""


def command() -> str:
    """Return the command line of this script."""
    return " ".join(["python benchmarks/transfer.py", *sys.argv[1:]])


def indented(text: str) -> str:
    """Return the lines as a block of code."""
    return "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())


def write_between(page: Path, text: str) -> None:
    """Put the text between the markers of the page, or at its end."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before.rstrip()}\n\n{BEGIN}\n{text}\n{END}{after or chr(10)}", encoding="utf-8")


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
    from tfkit.recipe.presets import merge, new_head

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
    baseline = "" if floor is None else f" Always predicting the most frequent class gives {floor:.3f}."
    text = f"""# Transfer: {name}

{conclusion(points, metric, floor)}

The recipe `{name}` is trained on increasing numbers of labelled examples, once from a pretrained checkpoint and once
from random weights of the same architecture with the same tokenizer. Each is run with {options.seeds} seeds, which
also select the examples. The table gives {metric} on {test:,} test rows (mean and standard deviation), the seconds of
the steps, and the energy of the whole training (means per run).{baseline}
Machine: {first.machine}.

![{metric} against the number of labelled examples]({figure.name})

{table(points, metric)}

{shared_cost(receipt_beside(find_checkpoint(start)), points)}

Made by

    {command()}
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
        return "The cost of pretraining the checkpoint is not known: the checkpoint is not in the folder of its run."
    cost = cost_of(dict(receipt))
    text = (
        f"The pretraining of the checkpoint cost {cost.seconds:,.0f} seconds, {number(cost.energy_kwh)} kWh and "
        f"{number(cost.emissions_g)} gCO2e, once for everything that is fine-tuned from it; it is not included in the table."
    )
    energies = [mean_cost([run.cost for run in point.runs]).energy_kwh for point in equal_quality(points) or ()]
    if cost.energy_kwh is None or None in energies or not energies:
        return text
    ours, theirs = (energy or 0.0 for energy in energies)
    saved = theirs - ours
    if saved <= 0:
        return f"{text} At equal quality, fine-tuning a task saves no energy here, only labelled examples."
    tasks = math.ceil(cost.energy_kwh / saved)
    return (
        f"{text} At equal quality, each fine-tuned task saves {number(saved)} kWh, so the energy of "
        f"the pretraining is recovered after {tasks:,} tasks."
    )


if __name__ == "__main__":
    main()
