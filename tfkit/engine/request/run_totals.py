"""Compute the totals in run.json: over the attempts of a run, the stages of a chain (a recipe with stages), or the trials of a sweep.

Also make the results of chains and sweeps. If a run's process was killed, the next command that uses the run completes its totals.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.carbon import Footprint, Reading, ledger_totals, read_seconds, read_totals
from tfkit.carbon.footprint import MEASURED, RANGES, REWORK, RunTotals, sum_totals
from tfkit.recipe.reading.overrides import Overrides, assignment
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.run.ancestors import read_lineage
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.fitting_fields import fitting
from tfkit.run.folder import RunFolder
from tfkit.run.lineage import Ancestor, merge_ancestors, shifted, sum_inherited
from tfkit.run.listing import read_run
from tfkit.run.run_json import known_of, read_run_json, stage_folders, trial_folders
from tfkit.run.state_json import read_state_json
from tfkit.run.strict_json import is_number

_TOTALS = (
    *("seconds", "train_seconds", "tokens", "energy_kwh", "emissions_g", *REWORK, "idle_kwh", "energy_kwh_parts", "carbon_status"),
    *(*RANGES, "modelled_share", "provenance", "pue", "intensity", "coverage", "device_seconds"),
)
_OF_THE_LAST = ("checkpoint", "loss", "evaluation", "before", "improvement", "baselines", "best", "stopped_early", "stopped_by", "place")
_SUMS = ("seconds", "train_seconds", "tokens", "energy_kwh", "energy_kwh_parts", "emissions_g", "carbon_status")
_OF_A_TRIAL = ("status", "score", "steps", "seconds", "energy_kwh", "emissions_g", "error")


def stage_facts(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return two fields of a chain's run.json: `stages` (status, steps and totals of each) and `totals` (sums, and inherited energy)."""
    stages = {name: run_facts(folder) for name, folder in folders.items()}
    return {"stages": stages, "totals": summed_totals(stages.values()) | _inherited(folders.values())}


def chain_result(folder: Path, status: str, results: Mapping[str, dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a chain (docs/cli.md). `results`: the results of stages that this command ran; `facts`: of `stage_facts`.

    Fields that describe one model are those of the last stage in `results`; steps, tokens, time and energy are sums over all stages.
    """
    last = [*results.values()][-1] if results else {}
    totals, stages = facts["totals"], facts["stages"]
    trained = totals["train_seconds"]
    return {
        "schema_version": 1,
        "run": str(folder),
        "status": status,
        **{name: last.get(name) for name in _OF_THE_LAST},
        "evaluation": last.get("evaluation") or {},
        "steps": sum(stage["steps"] or 0 for stage in stages.values()),
        "tokens": totals["tokens"] or 0,
        **{name: totals[name] for name in ("seconds", "train_seconds", *MEASURED) if name != "place"},
        **{name: totals[name] for name in ("inherited_g", "inherited_kwh", "inherited_is_lower_bound")},
        "tokens_per_second": round(totals["tokens"] / trained, 1) if trained else None,
        **({"nonfinite": last["nonfinite"]} if "nonfinite" in last else {}),
        "gates": [
            {**gate, **{key: f"{name}.{gate[key]}" for key in ("gate", "metric")}}
            for name, result in results.items()
            for gate in result["gates"]
        ],
        "stages": {**results},
    }


def run_facts(folder: Path) -> dict[str, Any]:
    """Return the status, the steps and the totals of a run folder, which may not exist yet."""
    run = read_run(folder)
    totals: dict[str, Any] = known_of(folder).fields.get("totals") or {}  # empty if run.json is missing or cannot be read
    status = "new" if run.status == "foreign" else run.status
    return {"status": status, "steps": run.steps, **totals}


def _inherited(folders: Iterable[Path]) -> dict[str, Any]:
    """Return the energy and emissions of the runs from which the stages' models descend, except the stages. Each run counts once."""
    ancestors: list[Ancestor] = []
    runs = set()
    for folder in folders:
        with suppress(OSError, ValueError):  # the stage was not started, or is damaged, which its status says
            runs.add(read_run_json(folder).run_id)
            newest = newest_checkpoint(folder / "checkpoints")
            lineage = read_lineage(newest) if newest is not None else None
            ancestors += shifted((lineage.ancestors if lineage else None) or (), len(ancestors))
    return sum_inherited(merge_ancestors(ancestors, runs)).fields()


def summed_totals(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of the totals of several runs. `runs`: the fields that `run_facts` returns for each run."""
    return sum_totals([fitting(RunTotals, run) for run in runs]).document(_TOTALS)


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep."""

    name: str
    values: Overrides  # values of the varied fields
    error: str | None = None  # the message of the error that ended the trial; None: it did not fail

    def describe(self) -> str:
        """Return the values of the trial's varied fields as text."""
        return ", ".join(assignment(key, value) for key, value in self.values.items())


def recorded_trials(folder: Path) -> list[Trial]:
    """Return the trials in the run.json of a sweep, in the order of the file. Raises OSError or ValueError if the file cannot be read."""
    trials = read_run_json(folder).trials or {}
    return [Trial(name, one["values"], one.get("error")) for name, one in trials.items()]


def sweep_facts(folder: Path, trials: list[Trial]) -> dict[str, Any]:
    """Return the fields `trials` (values, status, score and totals of each), `best_trial` and `totals` (sums) of a sweep's run.json."""
    by_name = {trial.name: _trial_facts(folder / trial.name, trial) for trial in trials}
    metrics = {facts["metric"] for facts in by_name.values() if facts["metric"]}
    scores = {name: facts["score"] for name, facts in by_name.items() if facts["status"] == "finished" and facts["score"] is not None}
    choose = max if metrics & HIGHER else min
    best = choose(scores, key=lambda name: scores[name]) if scores else None
    return {"trials": by_name, "best_trial": best, "totals": summed_totals(by_name.values())}


def sweep_result(folder: Path, status: str, planned: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a sweep (docs/cli.md). `planned`: the number of planned trials; `facts`: the fields from `sweep_facts`."""
    trials, totals = facts["trials"], facts["totals"]
    listed = [
        {"trial": name, "run": str(folder / name), "values": trial["values"], **{key: trial.get(key) for key in _OF_A_TRIAL}}
        for name, trial in trials.items()
    ]
    best = trials.get(facts["best_trial"])
    chosen = next((document for document in listed if document["trial"] == facts["best_trial"]), None)
    total, grams = totals["emissions_g"], None if best is None else best.get("emissions_g")
    return {
        "schema_version": 1,
        "run": str(folder),
        "status": status,
        "metric": next((trial["metric"] for trial in trials.values() if trial["metric"]), None),
        "planned_trials": planned,
        "trials": listed,
        "best": None if chosen is None or best is None else {**chosen, "checkpoint": best["checkpoint"]},
        **{name: totals[name] for name in _SUMS},
        "stopped_by": None,
        "selection_factor": total / grams if total and grams else None,
        "gates": [],
    }


def _trial_facts(folder: Path, trial: Trial) -> dict[str, Any]:
    """Return the values, status and totals of a trial, and the score of its best checkpoint (in a chain, that of the last stage)."""
    facts = run_facts(folder)
    last = [folder, *stage_folders(folder).values()][-1]
    best = read_run(last).best or {}
    value = best.get("value")
    return {
        **facts,
        "status": "failed" if trial.error else facts["status"],
        "values": dict(trial.values),
        "metric": best.get("metric"),
        "score": value if is_number(value) else None,
        "checkpoint": str(last / "checkpoints" / f"step-{best['step']:06d}") if best else None,
        **({"error": trial.error} if trial.error else {}),
    }


def record_totals(folder: RunFolder, reading: Reading, counts: dict[str, Any]) -> None:
    """Record the totals of all attempts of a run in run.json, however the last attempt ended: time, energy, rework (the part of both
    that was spent on steps which were lost and repeated), and `counts`, such as tokens.

    Time and energy are those in the ledgers (carbon/*.jsonl); if these lack some energy, that of the meter's last `reading` is used.
    """
    seconds = round(folder.recorded.seconds(read_seconds(folder.path, folder.run_id)), 3)
    stored = ledger_totals(folder.path, folder.run_id, seconds)
    totals = stored or RunTotals()
    if stored is None or (reading.outcome == "ok" and reading.energy_wh > 1000 * (stored.energy_kwh or 0.0) * (1 + 1e-6)):
        totals = RunTotals(**vars(Footprint.from_reading(reading)), **totals.document(REWORK))
    elif reading.outcome == "degraded" and stored.carbon_status == "ok":
        totals = replace(stored, carbon_status="degraded")
    folder.record_totals({"seconds": seconds} | counts | totals.document((*MEASURED, *REWORK)))


def finalize_killed_run(path: str | Path) -> None:
    """Record in run.json that the last attempt of a run was killed, and its totals. `path`: a run folder, or a checkpoint in a run folder.

    Nothing is changed for any other path, or if the folder cannot be written.
    """
    folder = Path(os.path.expanduser(path))
    if folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    with suppress(OSError, ValueError):  # a TfkitError is a ValueError
        if read_run_json(folder).status == "running" and read_run(folder).status == "killed":
            stages, trials = stage_folders(folder), trial_folders(folder)
            for member in (*stages.values(), *trials.values()):
                finalize_killed_run(member)
            with RunFolder.open(folder, resume=True, command=None) as run:
                if stages:
                    return run.record(**stage_facts(stages))
                if trials:
                    return run.record(**sweep_facts(folder, recorded_trials(folder)))
                record_totals(run, read_totals(run.path, run.run_id), _step_totals(folder / "checkpoints"))


def _step_totals(root: Path) -> dict[str, Any]:
    """Return the seconds and tokens of the steps up to the newest checkpoint; empty without a checkpoint that can be read."""
    newest = newest_checkpoint(root)
    with suppress(OSError, ValueError, KeyError, TypeError):
        if newest is not None:
            progress = read_state_json(newest).progress
            return {"train_seconds": round(progress["seconds"], 3), "tokens": progress["tokens"]}
    return {}
