"""The result of a recipe with stages, and the facts in its run.json: those of each stage, and the totals of all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from tfkit.carbon.totals import joined
from tfkit.engine.results import MEASURED
from tfkit.run.ancestors import read_lineage
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.lineage import Ancestor, merge_ancestors, shifted, sum_inherited
from tfkit.run.listing import read_run
from tfkit.run.receipt import read_receipt
from tfkit.run.strict_json import is_number

_SUMS = ("seconds", "train_seconds", "tokens", "energy_kwh", "emissions_g", "rework_kwh", "rework_g", "rework_seconds", "idle_kwh")
_RANGES = ("energy_kwh_low", "energy_kwh_high", "emissions_g_low", "emissions_g_high")
_OF_THE_LAST = ("checkpoint", "loss", "evaluation", "before", "improvement", "baselines", "best", "stopped_early", "stopped_by", "place")


def stage_facts(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return `stages`, the status, steps and totals of each run folder, and `totals`, the sums of all, over all attempts."""
    stages = {name: run_facts(folder) for name, folder in folders.items()}
    return {"stages": stages, "totals": sum_totals(stages.values()) | _inherited(folders.values())}


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
    totals: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # not started, or not readable: see its status
        totals = read_receipt(folder / "run.json").get("totals") or {}
    status = "new" if run.status == "foreign" else run.status
    return {"status": status, "steps": run.steps, **totals}


def _inherited(folders: Iterable[Path]) -> dict[str, Any]:
    """Return what all stages together inherit from ancestors that are not stages themselves, each counted once."""
    ancestors: list[Ancestor] = []
    runs = set()
    for folder in folders:
        with suppress(OSError, ValueError):  # not started, or damaged: see its status
            runs.add(str(read_receipt(folder / "run.json")["run_id"]))
            newest = newest_checkpoint(folder / "checkpoints")
            lineage = read_lineage(newest) if newest is not None else None
            ancestors += shifted((lineage.ancestors if lineage else None) or (), len(ancestors))
    return sum_inherited(merge_ancestors(ancestors, runs)).fields()


def sum_totals(stages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum the measurements; None if there are none. If some stages have energy and others have none, the whole is degraded."""
    stages = [stage for stage in stages if "seconds" in stage]
    totals: dict[str, Any] = {name: _sum(stage.get(name) for stage in stages) for name in _SUMS}
    outcomes = {stage.get("carbon_status") for stage in stages}
    return totals | {
        "energy_kwh_parts": _sum_by_name(stage.get("energy_kwh_parts") for stage in stages),
        "carbon_status": outcomes.pop() if len(outcomes) == 1 else "degraded" if outcomes else "off",
        **_measuring([stage for stage in stages if stage.get("energy_kwh")]),
        "coverage": _mean(stages, "coverage", "seconds"),
        "device_seconds": _sum_by_name(stage.get("device_seconds") for stage in stages),
    }


def _measuring(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how the energy of the stages that have some was obtained; None for fields that a stage of an older version lacks."""
    ranges = {name: [stage.get(name) for stage in stages] for name in _RANGES}
    provenance = [stage.get("provenance") or {} for stage in stages]
    return {
        **{name: None if None in values else _sum(values) for name, values in ranges.items()},
        "modelled_share": _mean(stages, "modelled_share", "energy_kwh"),
        "provenance": {part: joined(one.get(part) for one in provenance) for part in dict.fromkeys(chain(*provenance))} or None,
        "pue": _same(stage.get("pue") for stage in stages),
        "intensity": _intensity(stages),
    }


def _intensity(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the carbon intensity of all stages; if they differ, the mean over their energy."""
    intensities = [stage.get("intensity") or {} for stage in stages]
    energy, emissions = (sum(stage.get(name) or 0.0 for stage in stages) for name in ("energy_kwh", "emissions_g"))
    if not any(intensities):
        return None
    same = _same(intensity.get("g_per_kwh") for intensity in intensities)
    value = emissions / energy if same is None and energy else same
    names = [name for name in ("low_g_per_kwh", "high_g_per_kwh") if value and any(name in intensity for intensity in intensities)]
    ends = {name: value * _ratio(stages, name) for name in names}
    return {
        "g_per_kwh": value,
        **ends,
        "source": joined(intensity.get("source") for intensity in intensities),
        "year": _same(intensity.get("year") for intensity in intensities),
        "kind": joined(intensity.get("kind") for intensity in intensities),
    }


def _ratio(stages: Iterable[Mapping[str, Any]], name: str) -> float:
    """Return an end of the intensity's range as a factor of it, the mean over the emissions; for a stage without a range it is 1."""
    pairs = []
    for stage in stages:
        intensity = stage.get("intensity") or {}
        mean = intensity.get("g_per_kwh")
        pairs.append((stage.get("emissions_g") or 0.0, intensity.get(name, mean) / mean if mean else 1.0))
    total = sum(weight for weight, _ in pairs)
    return sum(weight * factor for weight, factor in pairs) / total if total else 1.0


def _same(values: Iterable[Any]) -> Any:
    different = [*dict.fromkeys(values)]
    return different[0] if len(different) == 1 else None


def _mean(stages: Iterable[Mapping[str, Any]], name: str, weight: str) -> float | None:
    pairs = [(stage.get(name), stage.get(weight) or 0.0) for stage in stages]
    total = sum(weight for _, weight in pairs)
    known = total and any(value is not None for value, _ in pairs)
    return round(sum((value or 0.0) * weight for value, weight in pairs) / total, 4) if known else None


def _sum_by_name(parts: Iterable[Any]) -> dict[str, Any] | None:
    present = [values for values in parts if values]
    return {name: _sum(values.get(name) for values in present) for name in dict.fromkeys(chain(*present))} or None


def _sum(values: Iterable[Any]) -> Any:
    """Return the sum: of integers exactly, of other numbers with 15 digits, so that 5.1 and 2.9 are 8.0; None without numbers."""
    numbers = [value for value in values if is_number(value) and value is not None]
    if len(numbers) < 2 or all(isinstance(value, int) for value in numbers):
        return sum(numbers) if numbers else None
    return float(f"{math.fsum(numbers):.15g}")
