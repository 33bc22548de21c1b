"""The result of a recipe with stages, and the facts in its run.json: those of each stage, and the totals of all."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfkit.carbon.footprint import MEASURED, RANGES, REWORK, sum_totals
from tfkit.run.ancestors import read_lineage
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.lineage import Ancestor, merge_ancestors, shifted, sum_inherited
from tfkit.run.listing import read_run
from tfkit.run.run_json import known_of, read_run_json, totals_in

_TOTALS = (
    *("seconds", "train_seconds", "tokens", "energy_kwh", "emissions_g", *REWORK, "idle_kwh", "energy_kwh_parts", "carbon_status"),
    *(*RANGES, "modelled_share", "provenance", "pue", "intensity", "coverage", "device_seconds"),
)
_OF_THE_LAST = ("checkpoint", "loss", "evaluation", "before", "improvement", "baselines", "best", "stopped_early", "stopped_by", "place")


def stage_facts(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return `stages`, the status, steps and totals of each run folder, and `totals`, the sums of all, over all attempts."""
    stages = {name: run_facts(folder) for name, folder in folders.items()}
    return {"stages": stages, "totals": summed_totals(stages.values()) | _inherited(folders.values())}


def chain_result(folder: Path, status: str, results: Mapping[str, dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of docs/cli.md; `results`: of the stages that this command ran, in order.

    Fields of a single model are those of the last of these; steps, tokens, time, energy and emissions are sums of all stages in the folder.
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
    totals: dict[str, Any] = known_of(folder).fields.get("totals") or {}  # none if not started, or not readable: see its status
    status = "new" if run.status == "foreign" else run.status
    return {"status": status, "steps": run.steps, **totals}


def _inherited(folders: Iterable[Path]) -> dict[str, Any]:
    """Return what all stages together inherit from ancestors that are not stages themselves, each counted once."""
    ancestors: list[Ancestor] = []
    runs = set()
    for folder in folders:
        with suppress(OSError, ValueError):  # not started, or damaged: see its status
            runs.add(read_run_json(folder).run_id)
            newest = newest_checkpoint(folder / "checkpoints")
            lineage = read_lineage(newest) if newest is not None else None
            ancestors += shifted((lineage.ancestors if lineage else None) or (), len(ancestors))
    return sum_inherited(merge_ancestors(ancestors, runs)).fields()


def summed_totals(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the totals of the folder of several runs, from the facts of each."""
    return sum_totals([totals_in(run) for run in runs]).document(_TOTALS)
