"""Runs of tfkit as processes of their own, with their results and costs; a finished run is not run again.

Shared by transfer.py and distillation.py: rows of a recipe as files, majorities, means with their spread, numbers in tables.
"""

import hashlib
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tfkit.data.columns.rows import Row
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.hub import content_hash, find_checkpoint
from tfkit.recipe.schema.sections import Recipe


@dataclass(frozen=True)
class Cost:
    """The cost of a training: seconds of its steps, energy of the whole process; None: not measured."""

    seconds: float
    energy_kwh: float | None
    emissions_g: float | None


@dataclass(frozen=True)
class Measured:
    """A finished run: its model's scores on the test rows, and its cost."""

    metrics: dict[str, float]
    steps: int
    cost: Cost
    machine: str


class Runs:
    """Runs in one folder, with names that depend on all their settings, so that other settings make other runs."""

    def __init__(self, root: Path, process: "Callable[[Sequence[str], IO[str]], tuple[int, str]] | None" = None):
        """`process`: runs tfkit with arguments, and a file for its stderr; returns exit code and stdout."""
        self.root, self.process = root, process or new_process
        root.mkdir(parents=True, exist_ok=True)

    def train(self, name: str, words: Sequence[str], start: str) -> Path:
        """Return the folder of a finished run; an interrupted one continues. Its name depends on the checkpoint `start`, too."""
        folder = self._folder(name, words, [], start)
        self.call([*words, "--run", str(folder), "--resume", "--json"], folder)
        return folder

    def measure(self, name: str, words: Sequence[str], start: str, train: Path, test: Path, *, keep: bool = False) -> tuple[Measured, Path]:
        """Train and score; then remove the weights from the run's folder, unless they are to be kept.

        Other contents of the files, or other weights in the checkpoint `start`, make another run.
        """
        folder, record = self._measured(name, words, start, train, test)
        if record.exists() and (not keep or (folder / "checkpoints").exists()):
            return from_json(record.read_text(encoding="utf-8")), folder
        self.call([*words, "--run", str(folder), "--resume", "--json"], folder)
        words = ["evaluate", "--from", str(folder), "--data", str(test), "--json", "carbon.enabled=false"]
        words += ["evaluation.bootstrap=null", "evaluation.max_tokens=null"]
        scores = self.call(words, folder)  # the spread is over seeds
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        machine = f"{run['processor']['name']}, {run['threads']} of {run['processor']['cores']} cores, {run['precision'].split('.')[-1]}"
        found = Measured(json.loads(scores)["metrics"], run["result"]["steps"], cost_of(run), machine)
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(found)), encoding="utf-8")
        partial.replace(record)
        if not keep:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return found, folder

    def is_measured(self, name: str, words: Sequence[str], start: str, train: Path, test: Path) -> bool:
        """Whether `measure` would only return what is there."""
        return self._measured(name, words, start, train, test)[1].exists()

    def _measured(self, name: str, words: Sequence[str], start: str, train: Path, test: Path) -> tuple[Path, Path]:
        """Return the folder of a run, and the file of its scores."""
        folder = self._folder(name, words, [train, test], start)
        return folder, folder.with_name(f"{folder.name}.json")

    def _folder(self, name: str, words: Sequence[str], files: Sequence[Path], start: str) -> Path:
        contents = [hashlib.blake2b(file.read_bytes()).hexdigest() for file in files]
        about = json.dumps([*words, *contents, content_hash(find_checkpoint(start))])
        return self.root / f"{name}-{hashlib.blake2b(about.encode(), digest_size=4).hexdigest()}"

    def call(self, words: Sequence[str], folder: Path) -> str:
        """Run tfkit and return its stdout; its stderr goes into a file beside the run's folder."""
        print(f"{folder.name}: {words[0]}", file=sys.stderr, flush=True)
        log = folder.with_name(f"{folder.name}.log")
        with log.open("a", encoding="utf-8") as errors:
            code, out = self.process(words, errors)
        if code:
            last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            sys.exit(f"tfkit {words[0]} ended with {code}; {log} ends with\n{last}")
        return out


def new_process(words: Sequence[str], errors: IO[str]) -> tuple[int, str]:
    """Run tfkit as a new process."""
    done = subprocess.run([sys.executable, "-m", "tfkit", *words], stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    return done.returncode, done.stdout


def forked_process(words: Sequence[str], errors: IO[str]) -> tuple[int, str]:
    """Run tfkit as a fork of this process, which has its imports already: 0.3 s instead of 3. This process must not compute with torch."""
    from tfkit.__main__ import main

    for name in (
        "torch._dynamo",
        "tfkit.cli.train",
        "tfkit.engine.training_run.assembled_run",
        "tfkit.engine.recognition.decided_recipe",
        "tfkit.engine.inference.evaluator",
    ):
        importlib.import_module(name)  # torch._dynamo: torch's optimizers import it in their first step

    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
                code = main(words)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        return os.waitstatus_to_exitcode(status), out.read()


def cost_of(run: dict[str, Any]) -> Cost:
    """Return the cost in a receipt, run.json."""
    totals = run["totals"]
    seconds = totals.get("train_seconds", totals["seconds"])  # version 0.1.0 had those of the steps under `seconds`
    return Cost(seconds, totals["energy_kwh"], totals["emissions_g"])


def from_json(text: str) -> Measured:
    values = json.loads(text)
    return Measured(**{**values, "cost": Cost(**values["cost"])})


def receipt_beside(checkpoint: Path) -> dict[str, Any] | None:
    """Return the receipt of the run that made a checkpoint, if it is still in that run's folder and has the costs."""
    path = checkpoint.parent.parent / "run.json"
    if checkpoint.parent.name != "checkpoints" or not path.exists():
        return None
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return run if "totals" in run else None


# ------------------------------------------------------------------------------------------------------------------ rows


def labelled_rows(recipe: Recipe, path: Path | None, *, test: bool) -> list[Row]:
    """Return the training or the test rows: of a file, else of the recipe's own data.train or data.validation."""
    roles = recipe.objective.roles
    data = recipe.data
    if path is not None:
        source = type(data.train[0])(path=str(path))
        data = data.model_copy(update={"train": [source], "validation": None})
        return [row for found in training_sources(data, roles) for row in found.rows()]
    return [row for found in (validation_sources if test else training_sources)(data, roles) for row in found.rows()]


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    """Write JSON lines with the roles that the objective reads; leave an equal file unchanged."""
    text = "".join(json.dumps(row.values, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path.resolve()


def majority(train: Sequence[Row], test: Sequence[Row]) -> float | None:
    """Return the accuracy of always predicting the most frequent class of the training rows; None if rows have no class."""
    if not all("label" in row.values for row in (*train, *test)):
        return None
    labels = [row.values["label"] for row in test]
    ((often, _),) = Counter(row.values["label"] for row in train).most_common(1)
    return labels.count(often) / len(labels)


def all_labels(rows: Sequence[Row]) -> list[str]:
    """Return the classes or tags of all rows: a small subset may lack some, and the head is the same for each size."""
    return sorted({label for row in rows for label in ([row.values["label"]] if "label" in row.values else row.values.get("tags", ()))})


def task(rows: Path, labels: Sequence[str], seed: int) -> list[str]:
    """Return the settings of every run on a task: rows, labels, seed; one checkpoint at the end, and no evaluation before that."""
    return [
        f"data.train=[{{path: {json.dumps(str(rows))}}}]",
        "data.validation=null",
        f"objective.labels={json.dumps(list(labels))}",
        "training.epochs=null",
        f"training.seed={seed}",
        "checkpoint.every=null",
        "evaluation.every=null",
        "evaluation.metric=null",
    ]


# --------------------------------------------------------------------------------------------------------------- numbers


def spread(values: Sequence[float]) -> str:
    """Return `0.823 ± 0.004`: the mean and the standard deviation of the sample; a single value alone."""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Return the mean costs; a kind that one of them lacks is None."""
    energy = [cost.energy_kwh for cost in costs if cost.energy_kwh is not None]
    emissions = [cost.emissions_g for cost in costs if cost.emissions_g is not None]
    return Cost(
        statistics.fmean(cost.seconds for cost in costs),
        statistics.fmean(energy) if len(energy) == len(costs) else None,
        statistics.fmean(emissions) if len(emissions) == len(costs) else None,
    )


def cells(cost: Cost) -> str:
    """Return seconds, kWh and gCO2e as cells of a table."""
    return f"{cost.seconds:,.0f} | {number(cost.energy_kwh)} | {number(cost.emissions_g)}"


def number(value: float | None) -> str:
    """Return two significant digits; a dash if not measured."""
    return "-" if value is None else f"{value:.2g}"
