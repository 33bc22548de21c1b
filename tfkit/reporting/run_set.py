"""The runs that a report is about, and what all of them together have cost: failed, killed and swept ones, evaluations and probes count."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tfkit.errors import UsageError
from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.inherited import Ancestry, ancestry_of
from tfkit.reporting.run_facts import Amounts, RunFacts, mapping_of, read_facts, sum_amounts, text_of
from tfkit.run.chain_folder import CHAIN

MOST_RUNS = 2_000
_DEEPEST = 8
_INSIDE_A_RUN = {"checkpoints", "carbon", "tensorboard"}
_TRAINING = ("pretrain", "finetune")


@dataclass(frozen=True)
class Entry:
    """A run of a report, under a label that no other has: its folder's name, after the folders above it that differ."""

    label: str
    run: RunFacts
    inherited: Ancestry
    served: str | None = None  # the label of the run that an evaluation, a generation or a probe was for

    @property
    def judged_by(self) -> str:
        """A key that is equal for runs whose evaluations have the same held-out rows and the same objective."""
        validation = mapping_of(self.run.receipt, "data").get("validation")
        return json.dumps([validation, self.run.recipe.get("objective.kind")], sort_keys=True, default=str)


@dataclass(frozen=True)
class RunSet:
    """The runs of a report, in the order of their paths; `problems` of folders that were left out."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()

    @property
    def trained(self) -> list[Entry]:
        """The runs that trained, without the folders of recipes with stages and of sweeps, whose runs are runs of their own."""
        return [one for one in self.entries if one.run.kind in _TRAINING or (one.run.kind is None and one.run.metrics.steps)]

    @cached_property
    def amounts(self) -> Amounts:
        """The cost of all runs together; a recipe with stages or a sweep counts as its runs."""
        return sum_amounts([one.run.amounts for one in self._counted()])

    def by_status(self) -> dict[str, tuple[int, Amounts]]:
        """Return how many runs of each status there are, and their cost."""
        found: dict[str, list[Amounts]] = {}
        for one in self._counted():
            found.setdefault(one.run.status, []).append(one.run.amounts)
        return {status: (len(each), sum_amounts(each)) for status, each in sorted(found.items())}

    def for_run(self, entry: Entry) -> Amounts:
        """Return the cost of a run, and of the evaluations, generations and probes that were for it."""
        return sum_amounts([one.run.amounts for one in self.entries if one is entry or one.served == entry.label])

    @property
    def is_lower_bound(self) -> bool:
        """Whether the energy of a run, or of a part of one, was not measured."""
        return any(one.run.is_lower_bound or one.run.amounts.energy_kwh is None for one in self._counted())

    @cached_property
    def best(self) -> Entry | None:
        """The finished run with the best score, where all trained runs that have one were judged alike; None otherwise."""
        judged = [one for one in self.trained if one.run.listed.best is not None]
        metrics = {str((one.run.listed.best or {})["metric"]) for one in judged}
        if len(metrics) != 1 or len(judged) < 2 or len({one.judged_by for one in judged}) != 1:
            return None
        sign = -1.0 if metrics.pop().rpartition(".")[2] in HIGHER else 1.0
        return min(judged, key=lambda one: sign * (one.run.listed.best or {})["value"])

    @property
    def selection_factor(self) -> float | None:
        """The cost of all runs by that of the best one: how much more was emitted than the chosen model shows. None: not known."""
        own = self.for_run(self.best).emissions_g if self.best else None
        return self.amounts.emissions_g / own if own and self.amounts.emissions_g is not None else None

    def of_one_model(self) -> RunFacts:
        """Return the run of the one model that these runs are for: of a recipe with stages its last, of a sweep its best trial.

        Raises UsageError where they are for several.
        """
        first = self.entries[0].run
        inside = {member.path for member in _all_members(first)}
        others = [one for one in self.entries[1:] if one.run.path not in inside and one.served is None]
        if not others and (chosen := _chosen(first)) is not None:
            return chosen
        names = ", ".join(one.label for one in self.entries[:3])
        raise UsageError(f"this format describes one model, and there are {len(self.entries)} runs ({names}, ...); name one of them")

    def _counted(self) -> list[Entry]:
        return [one for one in self.entries if not (one.run.is_group and one.run.members)]


def _all_members(run: RunFacts) -> list[RunFacts]:
    """Return the runs in the folder of a recipe with stages or a sweep, at every depth."""
    return [found for member in run.members for found in (member, *_all_members(member))]


def _chosen(run: RunFacts) -> RunFacts | None:
    """Return the run of the model that a folder is for; None of a sweep without a finished trial, or without any run."""
    if not run.is_group:
        return run
    best = text_of(run.receipt, "best_trial")
    members = run.members if run.kind == CHAIN else [member for member in run.members if member.name == best]
    return _chosen(members[-1]) if members else None


def open_runs(paths: Sequence[Path]) -> RunSet:
    """Read the runs that are given, and all runs below each folder that is none. Raises UsageError where there is no run."""
    found: dict[Path, Path] = {}  # as given, by their real path: a run that is given twice counts once
    problems: list[str] = []
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder; give a run, or a folder that runs are in")
        below = _runs_below(path)
        if not below:
            raise UsageError(f"{path}: no runs; give a run, or the folder that runs are in, as --run named it")
        found |= {one.resolve(): one for one in below if one.resolve() not in found}
    if len(found) > MOST_RUNS:
        problems.append(f"of {len(found):,} runs the first {MOST_RUNS:,} were read; give fewer folders")
    runs: list[RunFacts] = []
    for path in [*found.values()][:MOST_RUNS]:
        run = read_facts(path)
        if run.status == "damaged" and run.amounts.energy_kwh is None:
            problems.append(f"{path.name}: damaged, and left out ({'; '.join(run.problems)})")
        else:
            runs.append(run)
    if not runs:
        raise UsageError(f"{', '.join(map(str, paths))}: no run that can be read: {'; '.join(problems)}. Give another folder")
    labels = _labels(runs)
    problems += _copies(runs, labels)
    served = _served(runs, labels)
    entries = [Entry(label, run, ancestry_of(run, runs), served.get(label)) for label, run in zip(labels, runs, strict=True)]
    return RunSet(tuple(entries), tuple(problems))


def _runs_below(folder: Path) -> list[Path]:
    """Return the run folders in a folder, itself among them, by path. Links to folders are not followed."""
    found: list[Path] = []
    base = len(folder.parts)
    for place, names, files in os.walk(folder):
        if "run.json" in files:
            found.append(Path(place))
            names[:] = [name for name in names if name not in _INSIDE_A_RUN]
        names[:] = sorted(name for name in names if not name.startswith(".")) if len(Path(place).parts) - base < _DEEPEST else []
        if len(found) > MOST_RUNS:
            break
    return found


def _copies(runs: Sequence[RunFacts], labels: Sequence[str]) -> list[str]:
    """Return a note on each run whose id an earlier one has: a copied folder, whose energy was used once."""
    first: dict[str, str] = {}
    notes = []
    for run, label in zip(runs, labels, strict=True):
        if run.run_id is not None and first.setdefault(run.run_id, label) != label:
            notes.append(
                f"{label}: is a copy of {first[run.run_id]} (they have one run id), and the sums count both; leave one of them out"
            )
    return notes


def _labels(runs: Sequence[RunFacts]) -> list[str]:
    """Return the shortest ends of the paths that differ: `small`, or `sweep/small` beside `other/small`; of a stage its recipe's, too."""
    paths = [run.path for run in runs]
    members = {member.path.resolve() for run in runs for member in run.members}
    parts = [path.resolve().parts for path in paths]
    labels = []
    for own in parts:
        least = 2 if Path(*own) in members else 1
        size = next((size for size in range(least, len(own)) if sum(other[-size:] == own[-size:] for other in parts) == 1), len(own))
        labels.append("/".join(own[-size:]))
    return labels


def _served(runs: Sequence[RunFacts], labels: Sequence[str]) -> dict[str, str]:
    """Return, by label, the label of the run that each run which trained nothing was for, where its result names a checkpoint of it."""
    named = {label: run.path.resolve() for run, label in zip(runs, labels, strict=True)}
    served: dict[str, str] = {}
    for run, label in zip(runs, labels, strict=True):
        checkpoint = text_of(run.receipt.get("result"), "checkpoint")
        if checkpoint is not None and run.kind not in (*_TRAINING, None) and not run.is_group:
            owner = _owner(checkpoint, {other: path for other, path in named.items() if other != label})
            served |= {label: owner} if owner is not None else {}
    return served


def _owner(checkpoint: str, named: Mapping[str, Path]) -> str | None:
    """Return the run whose folder a checkpoint is in: by its path, or where that was on another machine, by a name that no other has."""
    path = Path(checkpoint)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    same = [label for label, run in named.items() if run == folder.absolute()]
    alike = [label for label, run in named.items() if run.name == folder.name]
    return same[0] if same else alike[0] if len(alike) == 1 else None
