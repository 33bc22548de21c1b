"""The totals of a recipe with stages: sums, and how the energy of all of them was obtained."""

import json
from pathlib import Path
from typing import Any

import pytest

from tfkit.engine.request.run_totals import stage_facts
from tfkit.engine.tools.audit import audit_runs

FRANCE = {"g_per_kwh": 56.0, "source": "table", "year": 2023, "kind": "annual mean"}
USER = {"g_per_kwh": 100.0, "source": "carbon.intensity_g_per_kwh", "year": None, "kind": "user"}


def stage(folder: Path, **totals: Any) -> Path:
    folder.mkdir()
    document = {"schema_version": 1, "run_id": folder.name, "status": "finished", "attempts": [], "totals": totals}
    (folder / "run.json").write_text(json.dumps(document))
    return folder


def measured(energy: float, factor: float, **others: Any) -> dict[str, Any]:
    ends = {"energy_kwh_low": energy / 2, "energy_kwh_high": energy * 2}
    return {"seconds": 10.0, "energy_kwh": energy, "emissions_g": energy * factor, "carbon_status": "ok"} | ends | others


def totals(**stages: Path) -> dict[str, Any]:
    return stage_facts(stages)["totals"]


def test_ranges_add_up_and_sources_are_joined(tmp_path: Path) -> None:
    first = measured(1.0, 56.0, coverage=0.5, modelled_share=1.0, provenance={"cpu": "model", "gpu": None}, pue=1.0, intensity=FRANCE)
    other = {"seconds": 30.0, "coverage": 1.0, "modelled_share": 0.0, "provenance": {"cpu": "counter", "gpu": None}, "pue": 1.2}
    second = measured(3.0, 100.0, **other, intensity=USER, device_seconds={"A": 20.0})
    found = totals(a=stage(tmp_path / "a", **first, device_seconds={"A": 10.0, "B": 1.0}), b=stage(tmp_path / "b", **second))
    assert (found["energy_kwh"], found["energy_kwh_low"], found["energy_kwh_high"]) == (4.0, 2.0, 8.0)
    assert (found["coverage"], found["modelled_share"]) == (0.875, 0.25)
    assert (found["provenance"], found["pue"]) == ({"cpu": "model, counter", "gpu": None}, None)
    source = "table, carbon.intensity_g_per_kwh"
    assert found["intensity"] == {"g_per_kwh": 89.0, "source": source, "year": None, "kind": "annual mean, user"}
    assert found["device_seconds"] == {"A": 30.0, "B": 1.0}


@pytest.mark.parametrize(
    ("first", "second"), [(1.23456789012345e-9, 2.1e-10), (3.693139690765214e-05, 2.3848751083735645e-05), (5.994, 8.636)]
)
def test_small_sums_keep_their_digits(tmp_path: Path, first: float, second: float) -> None:
    """tfkit verify compares them with those of the ledgers; a whole of one part is that part."""
    parts = [stage(tmp_path / name, **measured(energy, 475.0), tokens=3) for name, energy in (("a", first), ("b", second))]
    found, alone = totals(a=parts[0], b=parts[1]), totals(a=parts[0])
    assert found["energy_kwh"] == pytest.approx(first + second, rel=1e-14)
    assert (found["tokens"], type(found["tokens"]), alone["energy_kwh"]) == (6, int, first)
    document = {"schema_version": 1, "run_id": "all", "kind": "stages", "status": "finished", "attempts": [], "totals": found}
    (tmp_path / "run.json").write_text(json.dumps(document | {"stages": {"a": {}, "b": {}}}))
    assert audit_runs(tmp_path)[-1].problems == []


def test_a_stage_of_an_older_version_leaves_no_bounds_and_one_without_a_meter_lowers_the_coverage(tmp_path: Path) -> None:
    older: dict[str, Any] = {"seconds": 5.0, "energy_kwh": 1.0, "emissions_g": 1.0, "carbon_status": "ok"}
    off: dict[str, Any] = {"seconds": 10.0, "energy_kwh": None, "carbon_status": "off", "coverage": None}
    metered = stage(tmp_path / "metered", **measured(1.0, 56.0, intensity=FRANCE, coverage=1.0))
    found = totals(a=metered, b=stage(tmp_path / "older", **older))
    assert (found["energy_kwh"], found["energy_kwh_low"], found["emissions_g_high"]) == (2.0, None, None)
    unmetered = stage(tmp_path / "off", **off)
    assert totals(a=unmetered, b=unmetered)["coverage"] is None
    assert totals(a=unmetered, b=metered)["coverage"] == 0.5
