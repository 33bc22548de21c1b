"""The runs of a report, and their total cost, including that of failed and killed runs, trials of sweeps and evaluations."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tfkit.carbon.footprint import RunTotals, sum_totals
from tfkit.errors import UsageError, argument
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.reporting.inherited import Ancestry, ancestry_of
from tfkit.reporting.run_facts import RunFacts, read_facts, text_of
from tfkit.run.refused_folders import lost_receipt
from tfkit.run.run_json import CHAIN

_INSIDE_A_RUN = {"checkpoints", "carbon", "tensorboard"}  # folders of a run that are not searched for other runs
_TRAINING = ("pretrain", "finetune")


@dataclass(frozen=True)
class Entry:
    """A run of a report. Its label is a unique end of the path of its folder, such as `small` or `sweep/small`."""

    label: str
    run: RunFacts
    inherited: Ancestry
    served: str | None = None  # for a run that evaluated or used a checkpoint: the label of the run that made the checkpoint

    @property
    def evaluation_key(self) -> str:
        """A key that is the same for all runs that were evaluated on the same held-out rows and trained for the same objective."""
        validation = self.run.recorded.held_out or self.run.recorded.data.get("validation")
        return json.dumps([validation, self.run.recipe.get("objective.kind")], sort_keys=True, default=str)


@dataclass(frozen=True)
class RunSet:
    """The runs of a report, in the order found; `problems`: notes on folders that could not be read, and on copies of runs."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()

    @property
    def trained(self) -> list[Entry]:
        """The runs that trained a model; a chain (of a recipe's stages) or a sweep is replaced by its stages or trials."""
        return [one for one in self.entries if one.run.kind in _TRAINING or (one.run.kind is None and one.run.metrics.steps)]

    @property
    def single(self) -> list[Entry]:
        """All runs; a chain or a sweep is replaced by its stages or trials if any of them has been started."""
        return [entry for entry in self.entries if not (entry.run.is_group and entry.run.members)]

    @cached_property
    def amounts(self) -> RunTotals:
        """The time, energy and emissions of all runs together. A chain or a sweep is not counted, since its stages or trials are."""
        return sum_totals([entry.run.amounts for entry in self.single])

    def by_status(self) -> dict[str, tuple[int, RunTotals]]:
        """Return the number of runs of each status, and their time, energy and emissions together."""
        amounts: dict[str, list[RunTotals]] = {}
        for entry in self.single:
            amounts.setdefault(entry.run.status, []).append(entry.run.amounts)
        return {status: (len(group), sum_totals(group)) for status, group in sorted(amounts.items())}

    @property
    def is_lower_bound(self) -> bool:
        """Whether the energy in `amounts` is a lower bound, because that of some run was not measured, or not completely."""
        return any(entry.run.is_lower_bound or entry.run.amounts.energy_kwh is None for entry in self.single)

    @cached_property
    def best(self) -> Entry | None:
        """The run with the best score; None if fewer than two runs have one, or if these were evaluated in different ways."""
        scored = [entry for entry in self.trained if entry.run.listed.best is not None]
        metrics = {str((entry.run.listed.best or {})["metric"]) for entry in scored}
        if len(metrics) != 1 or len(scored) < 2 or len({entry.evaluation_key for entry in scored}) != 1:
            return None
        sign = -1.0 if metrics.pop() in HIGHER else 1.0
        return min(scored, key=lambda entry: sign * (entry.run.listed.best or {})["value"])

    @property
    def best_g(self) -> float | None:
        """The emissions in g of the best run, together with the runs that evaluated or used its checkpoints; None: not known."""
        best = self.best
        own = [entry.run.amounts for entry in self.entries if best is not None and (entry is best or entry.served == best.label)]
        return sum_totals(own).emissions_g

    @property
    def selection_factor(self) -> float | None:
        """The emissions of all runs divided by `best_g`; None: not known."""
        return self.amounts.emissions_g / self.best_g if self.best_g and self.amounts.emissions_g is not None else None

    @cached_property
    def all_problems(self) -> list[str]:
        """Notes on the errors of runs, notes on parts of runs that could not be read, and the `problems` of this set."""
        errors = [f"{entry.label}: {entry.run.status}: {one}" for entry in self.entries if (one := entry.run.listed.problem)]
        others = [f"{entry.label}: {one}" for entry in self.entries for one in entry.run.problems if one != entry.run.listed.problem]
        return [*errors, *others, *self.problems]

    def of_one_model(self) -> RunFacts:
        """Return the only run, not counting runs that used its checkpoints; of a chain its last stage, of a sweep its best trial.

        Raises UsageError if the report has other runs, or if there is no such stage or trial.
        """
        first = self.entries[0].run
        inside = {member.path for member in _all_members(first)}
        others = [entry for entry in self.entries[1:] if entry.run.path not in inside and entry.served is None]
        if not others and (run := _model_run(first)) is not None:
            return run
        names = ", ".join([*(entry.label for entry in self.entries[:3]), *(["..."] if len(self.entries) > 3 else [])])
        raise UsageError(f"this format describes one model, and there are {len(self.entries)} runs ({names}); name one of them")


def _all_members(run: RunFacts) -> list[RunFacts]:
    """Return the stages or trials of a run, and recursively their own stages or trials."""
    return [inner for member in run.members for inner in (member, *_all_members(member))]


def _model_run(run: RunFacts) -> RunFacts | None:
    """Return the run that trained the model of `run`: itself, its last stage or its best trial; None if there is no such stage or trial."""
    if not run.is_group:
        return run
    members = run.members if run.kind == CHAIN else [member for member in run.members if member.name == run.recorded.best_trial]
    return _model_run(members[-1]) if members else None


def open_runs(paths: Sequence[Path]) -> RunSet:
    """Read the runs at `paths`, each one run or a folder of runs. Raises UsageError if one is missing or has no run, or all are damaged."""
    found: dict[Path, Path] = {}  # paths of runs, by resolved path, so that a run that is found twice counts once
    problems: list[str] = []
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder; give a run, or a folder that runs are in")
        below, closed = _runs_below(path.resolve() if path.is_symlink() else path)
        problems += closed
        if not below:
            reason = "; ".join(["no runs", *closed])
            raise UsageError(f"{path}: {reason}; give a run, or the folder that runs are in, as {argument('run')} named it")
        found |= {run.resolve(): run for run in below if run.resolve() not in found}
    runs: list[RunFacts] = []
    for path in found.values():
        run = read_facts(path)
        if run.status == "damaged" and run.amounts.energy_kwh is None:
            problems.append(f"{path.name}: damaged, and left out ({'; '.join(run.problems)})")
        else:
            runs.append(run)
    if not runs:
        raise UsageError(f"{', '.join(map(str, paths))}: no run that can be read: {'; '.join(problems)}. Give another folder")
    labelled = dict(zip(_labels(runs), runs, strict=True))
    problems += _copies(labelled)
    owners = _owners(labelled)
    entries = [Entry(label, run, ancestry_of(run, runs), owners.get(label)) for label, run in labelled.items()]
    return RunSet(tuple(entries), tuple(problems))


def _runs_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the run folders at or below `folder`, sorted by path, and notes on folders that cannot be read. Links are not followed."""
    runs: list[Path] = []
    errors: list[OSError] = []
    for parent, names, files in os.walk(folder, onerror=errors.append):
        if "run.json" in files or lost_receipt(Path(parent)):
            runs.append(Path(parent))
            names[:] = [name for name in names if name not in _INSIDE_A_RUN]
        names[:] = sorted(name for name in names if not name.startswith("."))
    return runs, [f"{error.filename}: cannot be read, and left out ({error.strerror})" for error in errors]


def _copies(runs: Mapping[str, RunFacts]) -> list[str]:
    """Return a note on each run folder with the run id of an earlier one: it is a copy of that folder, so the sums count the run twice."""
    first: dict[str, str] = {}
    notes = []
    for label, run in runs.items():
        if run.run_id is not None and (original := first.setdefault(run.run_id, label)) != label:
            notes.append(f"{label}: is a copy of {original} (they have one run id), and the sums count both; leave one of them out")
    return notes


def _labels(runs: Sequence[RunFacts]) -> list[str]:
    """Return the shortest unique end of each run's path, such as `small` or `sweep/small`; for a stage or trial, at least two parts."""
    members = {member.path.resolve() for run in runs for member in run.members}
    parts = [run.path.resolve().parts for run in runs]
    ends = Counter(own[-size:] for own in parts for size in range(1, len(own) + 1))
    labels = []
    for own in parts:
        least = 2 if Path(*own) in members else 1
        size = next((size for size in range(least, len(own)) if ends[own[-size:]] == 1), len(own))
        labels.append("/".join(own[-size:]))
    return labels


def _owners(runs: Mapping[str, RunFacts]) -> dict[str, str]:
    """Return, for the label of each run that evaluated or used a checkpoint, the label of the run that trained this checkpoint.

    The training is found by its folder's path or, if no run has this path (as on another machine), by its folder's name, if that is unique.
    """
    folders = {label: run.path.resolve() for label, run in runs.items()}
    owners: dict[str, str] = {}
    for label, run in runs.items():
        checkpoint = text_of(run.recorded.result, "checkpoint")
        if checkpoint is not None and run.kind not in (*_TRAINING, None) and not run.is_group:
            path = Path(checkpoint)
            folder = path.parent.parent if path.parent.name == "checkpoints" else path
            by_path = [other for other, path in folders.items() if other != label and path == folder.absolute()]
            by_name = [other for other, path in folders.items() if other != label and path.name == folder.name]
            if by_path or len(by_name) == 1:
                owners[label] = (by_path or by_name)[0]
    return owners
