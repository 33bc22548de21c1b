"""The trials of a sweep in its run.json, the best of them, and the result of the sweep. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.engine.request.chain_result import run_facts, summed_totals
from tfkit.recipe.reading.overrides import Overrides, assignment
from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.run.chain_folder import stage_folders
from tfkit.run.listing import read_run
from tfkit.run.run_json import read_run_json
from tfkit.run.strict_json import is_number

_SUMS = ("seconds", "train_seconds", "tokens", "energy_kwh", "energy_kwh_parts", "emissions_g", "carbon_status")
_OF_A_TRIAL = ("status", "score", "steps", "seconds", "energy_kwh", "emissions_g", "error")


@dataclass(frozen=True)
class Trial:
    """One combination of values, and the error of a failed trial."""

    name: str
    values: Overrides
    error: str | None = None

    def describe(self) -> str:
        """Return the values as text."""
        return ", ".join(assignment(key, value) for key, value in self.values.items())


def recorded_trials(folder: Path) -> list[Trial]:
    """Return the trials that the run.json of a sweep names, in order. Raise OSError or ValueError if it cannot be read."""
    trials = read_run_json(folder).trials or {}
    return [Trial(name, one["values"], one.get("error")) for name, one in trials.items()]


def sweep_facts(folder: Path, trials: list[Trial]) -> dict[str, Any]:
    """Return `trials`, the values, status, score and totals of each, `best_trial`, and `totals`, the sums of all, over all attempts."""
    by_name = {trial.name: _trial_facts(folder / trial.name, trial) for trial in trials}
    metrics = {facts["metric"] for facts in by_name.values() if facts["metric"]}
    scores = {name: facts["score"] for name, facts in by_name.items() if facts["status"] == "finished" and facts["score"] is not None}
    choose = max if metrics & HIGHER else min
    best = choose(scores, key=lambda name: scores[name]) if scores else None
    return {"trials": by_name, "best_trial": best, "totals": summed_totals(by_name.values())}


def sweep_result(folder: Path, status: str, planned: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of docs/cli.md."""
    trials, totals = facts["trials"], facts["totals"]
    listed = [_trial_document(folder, name, trial) for name, trial in trials.items()]
    best = trials.get(facts["best_trial"])
    chosen = next((document for document in listed if document["trial"] == facts["best_trial"]), None)
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
        "selection_factor": _selection_factor(totals["emissions_g"], best),
        "gates": [],
    }


def _trial_facts(folder: Path, trial: Trial) -> dict[str, Any]:
    """Return the facts of one trial. Its score is that of its best checkpoint, with stages that of the last stage."""
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


def _trial_document(folder: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"trial": name, "run": str(folder / name), "values": facts["values"], **{key: facts.get(key) for key in _OF_A_TRIAL}}


def _selection_factor(total: float | None, best: Mapping[str, Any] | None) -> float | None:
    """Return the grams that all trials emitted for each gram of the best one: the cost of the selection."""
    grams = None if best is None else best.get("emissions_g")
    return total / grams if total and grams else None
