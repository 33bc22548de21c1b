"""Run folders written file by file, so that their curves, costs and ends are known exactly."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_files import write_rows

PLACE = {"country_iso_code": "FRA", "text": "FRA, 100 g/kWh (carbon.country)"}


def write_run(
    folder: Path,
    *,
    status: str = "finished",
    losses: Sequence[float] = (4.0, 3.0, 2.0),
    evaluations: Mapping[int, float] | None = None,
    grams_a_step: float = 1.0,
    setup_g: float = 0.0,
    run_id: str | None = None,
    kind: str = "pre-training",
    totals: bool = True,
    carbon_status: str = "ok",
    ledger: bool = True,
    recipe: str | Mapping[str, Any] | None = None,
    best: tuple[int, str, float] | None = None,
    more: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> Path:
    """Write a run of one step for each loss, at `grams_a_step` and a hundredth of that in kWh for each, after `setup_g`.

    `best`: the step, the metric and the value of its best checkpoint; `more`: further records of its metrics; `fields`: those of run.json.
    """
    folder.mkdir(parents=True)
    run_id = run_id or f"id-of-{folder.name}"
    steps, grams = len(losses), setup_g + grams_a_step * len(losses)
    attempt = {"number": 1, "status": status, "seconds": 10.0 * steps, "host": "secret-host", "pid": 1, "to_step": steps, "error": None}
    document: dict[str, Any] = {"schema_version": 1, "run_id": run_id, "name": folder.name, "status": status, "attempts": [attempt]}
    document |= {"command": ["tfkit", "pretrain", "/home/ada/secret.yaml"], "kind": kind, "planned_steps": steps, "parents": []}
    if totals:
        document["totals"] = {"seconds": 10.0 * steps, "energy_kwh": grams / 100, "emissions_g": grams, "carbon_status": carbon_status}
    (folder / "run.json").write_text(json.dumps(document | fields), encoding="utf-8")
    lines = []
    for step, loss in enumerate(losses, 1):
        cost = setup_g + grams_a_step * step
        lines.append({"step": step, "tokens": 8 * step, "loss": loss, "lr": 0.1, "grad_norm": 1.0, "tokens_per_second": 4.0})
        lines[-1] |= {"energy_wh": 10 * cost, "emissions_g": cost}
        if evaluations and step in evaluations:
            lines.append({"step": step, "evaluation": {"loss": evaluations[step], "target_tokens": 7}})
    write_rows(folder / "metrics.jsonl", [*lines, *more])
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe if isinstance(recipe, str) else json.dumps(recipe), encoding="utf-8")
    if best is not None:
        (folder / "checkpoints").mkdir()
        text = json.dumps(dict(zip(("step", "metric", "value"), best, strict=True)))
        (folder / "checkpoints" / "best.json").write_text(text, encoding="utf-8")
    if ledger:
        write_ledger(folder / "carbon" / "0-1.jsonl", run_id, [("setup", 1.0, setup_g), ("train", 10.0 * steps, grams)])
    return folder


def write_ledger(path: Path, run_id: str, ticks: Sequence[tuple[str, float, float]], attempt: int = 1) -> None:
    """Write a ledger of ticks (phase, seconds, grams), both since the attempt's start, at 100 g/kWh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [
        {"kind": "header", "schema_version": 1, "run_id": run_id, "attempt": attempt, "node": 0, "place": PLACE, "pue": 1.0},
        {"kind": "machine", "components": {"cpu": "model", "ram": "constant"}, "record": {}},
    ]
    unused = dict.fromkeys(("cpu_percent", "gpu_percent", "ram_percent", "ram_used_gb", "gpu_wh"), 0.0)
    for phase, seconds, grams in ticks:
        energy = 10 * grams
        tick = {"kind": "tick", "at": 1.7e9 + seconds, "phase": phase, "seconds": seconds, "measured_seconds": seconds, "energy_wh": energy}
        tick |= {"cpu_wh": energy / 4, "ram_wh": energy * 3 / 4, "emissions_g": grams, "power_w": 36.0, "status": "ok"}
        lines.append(tick | unused)
    write_rows(path, lines)
