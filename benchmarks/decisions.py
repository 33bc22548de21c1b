"""The decisions of `tfkit finetune --from CKPT --data F` on fourteen tasks, beside grids of rates and lengths, and what costs no training;
and the rates of LoRA.

    python benchmarks/decisions.py --data DATA --minilm CKPT --smollm2 CKPT

Each cell is a process of tfkit; an interrupted script continues where it was, and finished cells are reused. The rules of the decisions
(tfkit/recipe/starting_points.py) were chosen on eight tasks and are shown on the other six. Writes docs/decisions.md, and all losses of
the trials and scores of the grids into benchmarks/decisions_measured.txt; what is not measured here stays as these two have it.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_tasks import LORA_TASKS, RARE_TASKS, TASKS, Task, read_rows, write_task
from measured_runs import Measured, Runs, forked_process

from tfkit.data.columns.rows import Row
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.starting_points import DECISIONS

PRETRAINING_STEPS = {"bert-stdlib": 250, "t5-stdlib": 400, "smollm2-stdlib": 60}
CLOSE = 0.03  # of the best of the grid
GRID_TASKS = (*TASKS, *RARE_TASKS)
LORA_NOTE = (
    "SmolLM2-135M-Instruct with LoRA of rank 16 and alpha 32 on the four matrices of attention, which tfkit chooses if the memory does not",
    "suffice to train all weights. The loss on rows that were not trained on, after one epoch at each rate, without a trial. Version 6",
    "begins with 5e-4; version 5 began with 6.25e-5 on text, and on chat with 2.5e-4 at its batch of 8. A dash is a rate that was not",
    "measured, two numbers are of two seeds.",
)


@dataclass(frozen=True)
class Cell:
    """A fine-tuning that was measured: what was decided or given, and the score on the rows that were not trained on."""

    name: str
    lr: float
    batch_size: int
    epochs: float
    steps: int
    score: float
    trial: dict[str, Any] | None = None  # of learning rates, as run.json has it

    @property
    def is_default(self) -> bool:
        """Whether the decision was tfkit's."""
        return self.name.startswith("default")


def main() -> None:
    options = parse()
    runs = Runs(options.run_root, forked_process)
    by_name = {task.name: task for task in (*GRID_TASKS, *LORA_TASKS)}
    wanted = [by_name[name] for name in options.only or by_name]
    for task in wanted:
        if not options.page:
            for _ in cells(task, runs, options, measure=True):
                pass
            untouched(task, runs, options, measure=True)
    options.cells = "all"
    write_page(runs, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder of the data sets")
    parser.add_argument("--minilm", required=True, metavar="CKPT", help="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--smollm2", required=True, metavar="CKPT", help="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--only", nargs="*", metavar="TASK", help="measure these alone, in this order")
    parser.add_argument("--cells", choices=("all", "default", "grid"), default="all", help="the grids do not depend on tfkit's rules")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from what there is")
    parser.add_argument("--run-root", type=Path, default=Path("runs/decisions"), help="the folder of the runs (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/decisions.md"), help="the page (default %(default)s)")
    measured = Path("benchmarks/decisions_measured.txt")
    parser.add_argument("--measured", type=Path, default=measured, help="the trials and grids (default %(default)s)")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------------------ cells


def cells(task: Task, runs: Runs, options: argparse.Namespace, *, measure: bool) -> Iterator[Cell]:
    """Yield the default decision and the cells of the grid, as far as they are measured; with `measure` all.

    Then, by further seeds, those of the best rate and the two beside it.
    """
    train, test = write_task(task, options.data, options.run_root)
    start = checkpoint(task, runs, options, measure=measure)
    if start is None:
        return
    common = ["finetune", "--from", start, "--data", str(train), "carbon.enabled=false"]
    common += [*task.asked, *(["evaluation.text_metrics=[]"] if task.kind in ("chat", "text_to_text") else [])]
    versions = (DECISIONS,) if measure else range(DECISIONS, 0, -1)  # the page has the latest version that was measured
    named = [] if options.cells == "grid" or task in LORA_TASKS else [(f"default-{version}", common) for version in versions]
    for epochs in task.epochs if options.cells != "default" else ():
        for lr in task.rates:
            words = [word.replace("LR", f"{lr:g}") for word in task.plain]
            words += [f"training.batch_size={task.batch_size}", f"training.epochs={epochs}", "data.validation=null", *task.settings]
            named.append((f"lr{lr:g}-epochs{epochs}", [*common, *words]))

    def measured(name: str, words: Sequence[str]) -> Iterator[Cell]:
        whole = f"{task.name}-{name}"
        if measure or runs.is_measured(whole, words, start, train, test):
            try:
                found, folder = runs.measure(whole, words, start, train, test)
            except SystemExit as error:  # an absurd rate may end a run
                print(error, file=sys.stderr)
                return
            yield _cell(name, found, folder, task.metric)

    first = [cell for name, words in named for cell in measured(name, words)]
    yield from first
    again = {cell.name for cell in _around_best(task, [cell for cell in first if not cell.is_default])}
    for seed in task.seeds:
        for name, words in named:
            if name in again:
                yield from measured(f"{name}-seed{seed}", [*words, f"training.seed={seed}"])


def _around_best(task: Task, grid: Sequence[Cell]) -> list[Cell]:
    """Return the best cell of a grid, and those of the same length at the rates next to it."""
    if not grid:
        return []
    best = min(grid, key=lambda cell: task.badness(cell.score))
    place = task.rates.index(best.lr)
    return [cell for cell in grid if cell.epochs == best.epochs and cell.lr in task.rates[max(0, place - 1) : place + 2]]


def _cell(name: str, found: Measured, folder: Path, metric: str) -> Cell:
    from tfkit.recipe import read_recipe

    recipe = read_recipe(str(folder / "recipe.yaml")).recipe
    trial = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("rate_trial")
    epochs = recipe.training.epochs or 0.0
    return Cell(name, recipe.optimizer.lr, recipe.training.batch_size, epochs, found.steps, found.metrics[metric], trial)


def checkpoint(task: Task, runs: Runs, options: argparse.Namespace, *, measure: bool) -> str | None:
    """Return the model that a task starts from; one of our own is pretrained first. None: it is not there and nothing is measured."""
    if task.start in ("minilm", "smollm2"):
        return str(getattr(options, task.start))
    folder = options.run_root / task.start
    if measure:
        words = ["pretrain", task.start, f"training.steps={PRETRAINING_STEPS[task.start]}"]
        runs.call([*words, "--run", str(folder), "--resume", "--json", "carbon.enabled=false", "checkpoint.keep=1"], folder)
    return str(folder) if (folder / "checkpoints").exists() else None


def untouched(task: Task, runs: Runs, options: argparse.Namespace, *, measure: bool) -> float | None:
    """Return the score of the checkpoint before any fine-tuning; None for a task that needs a new head, or has another than
    its checkpoint was pretrained with, as BERT's without the next sentence.
    """
    if task.kind not in ("chat", "causal_lm", "text_to_text"):
        return None
    record = options.run_root / f"{task.name}-untouched.json"
    if not record.exists() and measure:
        _, test = write_task(task, options.data, options.run_root)
        words = ["evaluate", "--from", checkpoint(task, runs, options, measure=False) or "", "--data", str(test), "--json"]
        words += [
            f"objective={{kind: {task.kind}}}",
            "evaluation.bootstrap=null",
            "evaluation.max_tokens=null",
            "carbon.enabled=false",
            *(word for word in task.asked if word.startswith("data.")),  # rows of the length that the runs are scored on
        ]
        words += ["evaluation.text_metrics=[]"] if task.kind in ("chat", "text_to_text") else []
        if task.start in PRETRAINING_STEPS:  # the recipe of that run reads other rows
            words.append(f"data.train=[{{path: {json.dumps(str(test))}}}]")
        scores = runs.call(words, record.with_suffix(""))
        record.write_text(json.dumps(json.loads(scores)["metrics"]), encoding="utf-8")
    return json.loads(record.read_text(encoding="utf-8"))[task.metric] if record.exists() else None


# ------------------------------------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class Shown:
    """All that was measured of a task."""

    task: Task
    default: Cell
    grid: list[Cell]
    untouched: float | None
    baselines: dict[str, float]
    rows: tuple[int, int]

    @property
    def best(self) -> Cell:
        """The best of the grid."""
        return min(self.grid, key=lambda cell: self.task.badness(cell.score))

    @property
    def is_close(self) -> bool:
        """Whether the default is within 3 % of the best of the grid, or better."""
        return self.task.badness(self.default.score) <= self.task.badness(self.best.score) + CLOSE * abs(self.best.score)

    @property
    def bars(self) -> list[float]:
        """The scores that cost no fine-tuning."""
        return [*self.baselines.values(), *([] if self.untouched is None else [self.untouched])]

    @property
    def is_above_bars(self) -> bool:
        """Whether the default is no worse than any score that costs no fine-tuning and that the grid exceeds."""
        beaten = [bar for bar in self.bars if self.task.badness(self.best.score) < self.task.badness(bar)]
        return all(self.task.badness(self.default.score) <= self.task.badness(bar) for bar in beaten)


def shown(task: Task, runs: Runs, options: argparse.Namespace, page: str) -> Shown | None:
    """Return what was measured of a task, and a grid that the page has; None without a default decision or a grid."""
    found = list(cells(task, runs, options, measure=False))
    default = [cell for cell in found if cell.is_default] or default_of_page(task, page)
    grid = [cell for cell in found if not cell.is_default] or grid_of_page(task, page)
    if not default or not grid:
        return None
    train, test = (read_rows(path) for path in write_task(task, options.data, options.run_root))
    before = untouched(task, runs, options, measure=False)
    before = untouched_of_page(task, page) if before is None else before
    return Shown(task, default[0], grid, before, _baselines(task, train, test), (len(train), len(test)))


def default_of_page(task: Task, page: str) -> list[Cell]:
    """Return the default decision of a task that a page shows, with the trial of its rate."""
    row = _row_of_page(task, page)
    if row is None:
        return []
    lr, batch_size, epochs = map(float, row[8].split(","))
    losses = re.search(rf"^\| {task.name} \| (\d+) of (\d+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    trial = None
    if losses is not None:
        pairs = (pair.split() for pair in losses[3].split(", "))
        trial = {
            "steps": int(losses[1]),
            "lr": float(losses[4]),
            "losses": {lr: None if loss == "-" else float(loss) for lr, loss in pairs},
        }
    return [Cell(f"default-{row[7]}", lr, int(batch_size), epochs, int(losses[2]) if losses else 0, float(row[9]), trial)]


def grid_of_page(task: Task, page: str) -> list[Cell]:
    """Return the grid of a task that a page shows; its cells have no number of steps."""
    rows = re.findall(rf"^\| {task.name} \| {task.metric}, batch {task.batch_size} \| (\d+) \| (.*) \|$", page, re.MULTILINE)
    found = [(length, *pair.split()) for length, pairs in rows for pair in pairs.split(", ")]
    return [
        Cell(f"lr{float(lr):g}-epochs{length}", float(lr), task.batch_size, float(length), 0, float(score))
        for length, lr, score in found
        if score != "-"
    ]


def untouched_of_page(task: Task, page: str) -> float | None:
    """Return the score of the untouched checkpoint that a page shows."""
    row = _row_of_page(task, page)
    return None if row is None or row[5] == "-" else float(row[5])


def _row_of_page(task: Task, page: str) -> list[str] | None:
    """Return the cells of the row of a task in the summaries of a page."""
    return next((_row(line) for line in page.splitlines() if line.startswith(f"| {task.name} | {task.group} | {task.start} |")), None)


def _row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _baselines(task: Task, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, float]:
    """Return the baselines that have the metric of the task."""
    from tfkit.evaluation.baselines import baselines

    rows = ([Row("", "", values) for values in part] for part in (train, test))
    found = baselines(SECTIONS[task.kind](kind=task.kind), *rows)
    return {name: metrics[task.metric] for name, metrics in found.items() if task.metric in metrics}


def write_page(runs: Runs, options: argparse.Namespace) -> None:
    page = "\n".join(path.read_text(encoding="utf-8") for path in (options.out, options.measured) if path.exists())
    found = [one for task in GRID_TASKS if (one := shown(task, runs, options, page)) is not None]
    of_lora = _lora_rates(
        [(task, [*cells(task, runs, options, measure=False)], untouched(task, runs, options, measure=False)) for task in LORA_TASKS]
    )
    if not of_lora and (section := re.search(r"^## LoRA\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)):
        of_lora = section[0].splitlines()
    if not (found or of_lora):
        sys.exit("nothing is measured yet")
    of_shown = [one for one in found if not one.task.chosen_on]
    lines = [
        "# Decisions of a fine-tuning without a recipe",
        "",
        "This page shows how well the learning rates, batch sizes and lengths work that `tfkit finetune --from CKPT --data F`",
        "chooses without a recipe (`default`). It is written by `benchmarks/decisions.py`; the rules, in",
        f"`tfkit/recipe/starting_points.py`, have version {DECISIONS}. The column `version` gives the version used in each run. All rates",
        "and scores are in `benchmarks/decisions_measured.txt`.",
        "",
        "The defaults are compared with a grid of four learning rates at two lengths. All scores are computed on rows that no",
        "run was trained on. The grid trains on all rows and keeps its last weights, whereas the default holds out a tenth and",
        "keeps the best weights. There is one run of each, with seed 1: a difference of one point of accuracy on so few rows is",
        "noise. The best of the eight runs of the grid is chosen on the rows on which it is scored, which favours the grid.",
        "",
        "`bert-stdlib`, `t5-stdlib` and `smollm2-stdlib` are checkpoints of 250, 400 and 60 steps, pretrained for this page. With this",
        "BERT no setting of the grid learns packages: 0.156 is the most frequent class, which the default equals.",
        "",
    ]
    used = [one for one in found if one.task.chosen_on]
    for title, group in (("Tasks on which no rule was chosen", of_shown), ("Tasks on which the rules were chosen", used)):
        if group:
            lines += [f"## {title}", "", *_summary(group), "", _verdict(group), ""]
    measured = {one.task.name for one in found}
    if missing := [task.name for task in GRID_TASKS if task.name not in measured]:
        lines += [f"Not measured: {', '.join(missing)}.", ""]
    lines += of_lora
    options.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    measured = [
        "## The trials",
        "",
        "The loss after a short training with each learning rate, on rows held out of the training rows. A task that is not listed",
        "had too few rows or too short a run for trials.",
        "",
        "| task | steps of each | losses | taken |",
        "| --- | --- | --- | --- |",
        *(_trial(one) for one in found if one.default.trial is not None),
        "",
        "## The grids",
        "",
        "Each rate with its score. A dash marks a run that was not measured or that ended by itself.",
        "",
        "| task | score | epochs | rates and their scores |",
        "| --- | --- | --- | --- |",
        *(line for one in found for line in _grid(one)),
    ]
    options.measured.write_text("\n".join(measured) + "\n", encoding="utf-8")
    print(options.out, options.measured)


def _lora_rates(found: Sequence[tuple[Task, list[Cell], float | None]]) -> list[str]:
    """Return the table of LoRA's rates; `found`: of each task the cells, by all seeds, and the score of the untouched checkpoint."""
    rates = sorted({rate for task, _, _ in found for rate in task.rates})
    lines = []
    for task, measured, before in found:
        if not measured:
            continue
        by_rate = {rate: ", ".join(f"{cell.score:.3f}" for cell in measured if cell.lr == rate) or "-" for rate in rates}
        about = (task.name, task.group, f"{task.rows[0]:,}, {task.rows[1]:,}", f"{measured[0].steps}, {task.batch_size}")
        lines.append(f"| {' | '.join((*about, '-' if before is None else f'{before:.3f}', *by_rate.values()))} |")
    if not lines:
        return []
    return [
        "## LoRA",
        "",
        *LORA_NOTE,
        "",
        f"| task | kind | rows, scored | steps, batch | untouched | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "| --- |" + " --- |" * (4 + len(rates)),
        *lines,
        "",
        *([f"Not measured: {', '.join(missing)}.", ""] if (missing := [task.name for task, measured, _ in found if not measured]) else []),
    ]


def _summary(group: Sequence[Shown]) -> list[str]:
    lines = [
        "| task | kind | model | rows, scored | score | untouched | baselines | version | rate, batch, epochs | default | "
        "best of the grid | within 3 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in group:
        bars = ", ".join(f"{name.replace('_', ' ')} {score:.3f}" for name, score in one.baselines.items()) or "-"
        before = "-" if one.untouched is None else f"{one.untouched:.3f}"
        decided = f"{one.default.lr:g}, {one.default.batch_size}, {one.default.epochs:g}"
        best = f"{one.best.score:.3f} ({one.best.lr:g}, {one.best.epochs:g} epochs)"
        rows = f"{one.rows[0]:,}, {one.rows[1]:,}"
        close = ("yes" if one.is_close else "no") + ("" if one.is_above_bars else "; below a bar")
        cells_of = (
            one.task.name,
            one.task.group,
            one.task.start,
            rows,
            one.task.metric,
            before,
            bars,
            one.default.name.removeprefix("default-"),
            decided,
            f"{one.default.score:.3f}",
        )
        lines.append(f"| {' | '.join((*cells_of, best, close))} |")
    return lines


def _trial(one: Shown) -> str:
    assert one.default.trial is not None
    losses = sorted(one.default.trial["losses"].items(), key=lambda found: float(found[0]))
    shown = ", ".join(f"{rate} {'-' if loss is None else f'{loss:.3f}'}" for rate, loss in losses)
    return f"| {one.task.name} | {one.default.trial['steps']} of {one.default.steps} | {shown} | {one.default.trial['lr']:g} |"


def _verdict(group: Sequence[Shown]) -> str:
    close, above = sum(one.is_close for one in group), sum(one.is_above_bars for one in group)
    return (
        f"The default is within 3 % of the best of the grid, or better, on {close} of {len(group)} tasks. On {above} of {len(group)} it "
        "is not worse than the untouched checkpoint or than a baseline that the grid exceeds."
    )


def _grid(one: Shown) -> list[str]:
    """Return the rows of a task in the table of the grids, one for each length."""
    scores = {cell.name: f"{cell.score:.3f}" for cell in one.grid}
    lines = []
    for length in one.task.epochs:
        pairs = ", ".join(f"{rate:g} {scores.get(f'lr{rate:g}-epochs{length}', '-')}" for rate in one.task.rates)
        lines.append(f"| {one.task.name} | {one.task.metric}, batch {one.task.batch_size} | {length} | {pairs} |")
    return lines


if __name__ == "__main__":
    main()
