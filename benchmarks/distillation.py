"""Does distillation pay? A student with its teacher, the same student without, and the teacher, all fine-tuned on the same task.

    tfkit pretrain bert-stdlib
    python benchmarks/distillation.py --teacher runs/bert-stdlib --student distilbert-stdlib --task python-packages

The student alone has the same recipe with the objective in `of`: the same text, steps and first seed, random weights, no
teacher. Every run is a process of tfkit; an interrupted script continues, and finished runs are reused. Writes a page with a table,
which docs/transfer.md has: the metric on held-out rows, sizes, speed of each student beside its teacher in turns on the same rows, costs.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_runs import (
    Cost,
    Measured,
    Runs,
    all_labels,
    cells,
    cost_of,
    labelled_rows,
    majority,
    mean_cost,
    receipt_beside,
    spread,
    task,
    write_rows,
)

from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.sections import Recipe

TEACHER, TAUGHT, ALONE = "teacher", "student with its teacher", "student alone"
LARGEST_FRACTION = 0.6  # of the teacher's parameters outside the embeddings that a student may have


@dataclass(frozen=True)
class Model:
    """One of the three: its scores after fine-tuning, one run a seed, and its size."""

    values: list[float]
    parameters: int  # outside the embeddings
    pretraining: Cost | None  # None: unknown
    speed: float | None = None  # relative to the teacher's; None for the teacher

    @property
    def mean(self) -> float:
        """The mean of the metric."""
        return statistics.fmean(self.values)


def main() -> None:
    options = parse()
    from tfkit.hub import find_checkpoint
    from tfkit.recipe import read_recipe

    student, tuning = (read_recipe(path, parse_overrides(options.set)).recipe for path in (options.student, options.task))
    if (section := student.objective).kind != "distillation":
        sys.exit(f"{options.student}: its objective is {section.kind}, but --student must be a recipe of distillation")
    train, test = labelled_rows(tuning, options.data, test=False), labelled_rows(tuning, options.test, test=True)
    if not test:
        sys.exit("no test rows: give --test F, or a task with data.validation")
    if (floor := majority(train, test)) is None:
        sys.exit(f"{options.task}: its rows have no class, but {TEACHER} and students are compared by accuracy")
    runs = Runs(options.run_root)
    every = [*(["--threads", str(options.threads)] if options.threads else []), *options.set]
    rows, held_out = write_rows(train, options.run_root / "train.jsonl"), write_rows(test, options.run_root / "test.jsonl")
    teacher = str(find_checkpoint(options.teacher).resolve())
    tuned: dict[str, list[tuple[Measured, Path]]] = {name: [] for name in (TEACHER, TAUGHT, ALONE)}
    costs: dict[str, list[Cost]] = {TAUGHT: [], ALONE: []}
    for seed in range(1, options.seeds + 1):
        starts = {TEACHER: teacher}
        objectives = {TAUGHT: section.model_copy(update={"teacher": teacher}), ALONE: section.of}
        for name, objective in objectives.items():
            words = ["pretrain", options.student, f"objective={objective.model_dump_json()}", f"tokenizer={{path: {json.dumps(teacher)}}}"]
            folder = runs.train(f"{name.replace(' ', '-')}-seed{seed}", [*words, *every, f"training.seed={seed}"], teacher)
            check_size(folder, Path(teacher))
            starts[name] = str(folder.resolve())
            costs[name].append(cost_of(json.loads((folder / "run.json").read_text(encoding="utf-8"))))
        for name, start in starts.items():
            steps = steps_of(tuning, len(train))
            words = ["finetune", options.task, "--from", start, *every, *task(rows, all_labels(train), seed), f"training.steps={steps}"]
            tuned[name].append(runs.measure(f"tuned-{name.replace(' ', '-')}-seed{seed}", words, start, rows, held_out, keep=True))
    receipt = receipt_beside(Path(teacher))
    sizes = {name: outside_embeddings(found[0][1]) for name, found in tuned.items()}
    models = {
        name: Model(
            [measured.metrics["accuracy"] for measured, _ in found],
            sizes[name],
            (cost_of(receipt) if receipt else None) if name == TEACHER else mean_cost(costs[name]),
            None if name == TEACHER else speed_beside(tuned[TEACHER][0][1], found[0][1], held_out, options.rounds, options.threads),
        )
        for name, found in tuned.items()
    }
    write_page(options, models, floor, len(test), tuned[TEACHER][0][0].machine)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", metavar="CKPT", default="runs/bert-stdlib", help="the pretrained teacher (default %(default)s)")
    parser.add_argument("--student", metavar="RECIPE", default="distilbert-stdlib", help="of distillation (default %(default)s)")
    parser.add_argument("--task", metavar="RECIPE", default="python-packages", help="a recipe of classes (default %(default)s)")
    parser.add_argument("--data", metavar="F", type=Path, help="the labelled rows; else the task's data.train")
    parser.add_argument("--test", metavar="F", type=Path, help="the test rows; else the task's data.validation")
    parser.add_argument("--seeds", type=int, default=3, help="students and fine-tunings of each (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="turns in which speed is measured (default %(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="K=V", help="changes to all recipes")
    parser.add_argument("--threads", type=int, help="of each run, and of the speed measurement")
    parser.add_argument("--run-root", type=Path, default=Path("runs/distillation"), help="the folder of the runs (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation.md"), help="the page (default %(default)s)")
    return parser.parse_args()


# ----------------------------------------------------------------------------------------------------------- measurements


def steps_of(recipe: Recipe, rows: int) -> int:
    """Return the length of a recipe on this many rows."""
    training = recipe.training
    if training.tokens is not None:
        sys.exit("the task's length is in tokens: give --set training.tokens=null training.epochs=3")
    return training.steps or math.ceil((training.epochs or 0) * rows / training.batch_size)


def check_size(student: Path, teacher: Path) -> None:
    """End the script if a student is larger than allowed, before more is computed."""
    fraction = outside_embeddings(student) / outside_embeddings(teacher)
    if fraction > LARGEST_FRACTION:
        sys.exit(f"the student has {fraction:.0%} of the teacher's parameters outside the embeddings: more than {LARGEST_FRACTION:.0%}")


def outside_embeddings(run: Path) -> int:
    """Return the number of parameters outside embeddings of tokens, positions or segments, and outside a task's head."""
    from tfkit.adapters import load

    return sum(value.numel() for name, value in load(run).model.named_parameters() if not name.startswith(("embedding.", "head.")))


def speed_beside(teacher: Path, student: Path, rows: Path, rounds: int, threads: int | None) -> float:
    """Return the student's speed relative to the teacher's: the median ratio of turns, so that other load cancels out."""
    import torch

    from tfkit.adapters import load

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return median_ratio(reading(load(teacher), rows), reading(load(student), rows), rounds)
    finally:
        torch.set_num_threads(before)


def reading(loaded: Any, rows: Path) -> Callable[[], object]:
    """Return a function that runs a forward of the first 32 rows."""
    import torch

    texts = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()[:32]]
    ids = [found[: loaded.config.context_length] for found in loaded.codec.encode_texts(texts)]
    longest = max(map(len, ids))
    input_ids = torch.tensor([[*found, *[0] * (longest - len(found))] for found in ids])
    padding_mask = torch.tensor([[place < len(found) for place in range(longest)] for found in ids])

    def forward() -> object:
        with torch.inference_mode():
            return loaded.model.eval()(input_ids, padding_mask=padding_mask).logits

    return forward


def median_ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Return the time of the first by that of the second, measured in turns; a first turn of each is for warming up."""
    first(), second()
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return statistics.median(ratios)


# ------------------------------------------------------------------------------------------------------------------ page


def write_page(options: argparse.Namespace, models: Mapping[str, Model], floor: float, test: int, machine: str) -> None:
    command = " ".join(["python benchmarks/distillation.py", *sys.argv[1:]])
    text = f"""# Distillation

{conclusion(models, floor)}

This compares three models: the student of `{options.student}` trained with its teacher, the same student trained on
the text alone, and the teacher. Each is then fine-tuned with `{options.task}`; there are {options.seeds} seeds of the
students and of the fine-tuning. The table gives the accuracy on {test:,} held-out rows (mean and standard deviation);
always predicting the most frequent class gives {floor:.3f}. Parameters do not include the embeddings and the task's
head. The speed is that of a forward pass over the first 32 of these rows in float32, relative to the teacher,
measured in turns. Costs are those of pretraining, for a student without those of its teacher. Machine: {machine}.

{table(models, floor)}

Made by

    {command}
"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"{table(models, floor)}\n\n{conclusion(models, floor)}\n\n{options.out}")


def table(models: Mapping[str, Model], floor: float) -> str:
    """Return a row for each model; `keeps` is its fraction of the teacher's lead over the majority."""
    lines = [
        "| model | parameters | accuracy | keeps | speed | seconds | kWh | gCO2e |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, model in models.items():
        speed = "1" if model.speed is None else f"{model.speed:.2f}"
        cost = "- | - | -" if model.pretraining is None else cells(model.pretraining)
        lines.append(f"| {name} | {model.parameters:,} | {spread(model.values)} | {kept(models, name, floor):.0%} | {speed} | {cost} |")
    return "\n".join(lines)


def kept(models: Mapping[str, Model], name: str, floor: float) -> float:
    """Return the lead of a model over the majority, relative to the teacher's."""
    lead = models[TEACHER].mean - floor
    return (models[name].mean - floor) / lead if lead else float("nan")


def conclusion(models: Mapping[str, Model], floor: float) -> str:
    """Return the three claims of a distillation, each with its number, and whether it holds."""
    teacher, taught, alone = (models[name] for name in (TEACHER, TAUGHT, ALONE))
    if teacher.mean <= floor:
        return f"The teacher reaches {teacher.mean:.3f}, no more than the most frequent class: there is nothing to keep."
    fraction, smaller = kept(models, TAUGHT, floor), taught.parameters / teacher.parameters
    claims: Sequence[tuple[bool, str]] = [
        (fraction >= 0.9, f"keeps {fraction:.0%} of the teacher's lead over the majority with {smaller:.0%} of its parameters"),
        (taught.mean > alone.mean, f"is {taught.mean - alone.mean:+.3f} beside the same student without a teacher"),
        ((taught.speed or 0) > 1, f"reads {taught.speed or 0:.2f} times as fast"),
    ]
    return "\n".join(["The student with its teacher", "", *(f"- {text}: {'yes' if holds else 'NO'}" for holds, text in claims)])


if __name__ == "__main__":
    main()
