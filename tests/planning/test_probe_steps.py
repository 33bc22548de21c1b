"""Plans with a probe of real steps: their reports, and that they leave nothing behind."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_plans import recipe_of
from tiny_runs import run_here

import tfkit
from tfkit.carbon import Reading
from tfkit.engine.planning import probe_steps
from tfkit.engine.planning.probe_steps import Probe, ProbeStep, extrapolate_growth
from tfkit.recipe.dump import dump_document
from tfkit.run.signals import interrupts

pytestmark = pytest.mark.usefixtures("in_place")


@pytest.mark.parametrize("name", ["causal_lm", "grpo", "adapter"])
def test_a_plan_with_a_probe(name: str) -> None:
    before = sorted(Path().iterdir())
    plan = tfkit.plan(recipe_of(name), probe=3, threads=1)
    assert sorted(Path().iterdir()) == before
    assert (plan.basis, plan.steps) == ("probe", 4)
    assert plan.probe["steps"] == 3
    assert 0 < plan.probe["seconds"] < plan.seconds.high
    assert plan.memory_bytes == plan.probe["memory_bytes"] > 1e8  # of this process
    assert plan.seconds.low < plan.seconds.likely < plan.seconds.high
    assert plan.assumptions["memory_bytes"].endswith(f"by formula {plan.probe['formula_memory_bytes']:,}")


def test_a_probe_is_no_longer_than_the_run_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    document = recipe_of("causal_lm", steps=2)
    (tmp_path / "two.yaml").write_text(dump_document(document), encoding="utf-8")
    alone = tfkit.pretrain(document, run=tmp_path / "alone", threads=1)
    assert "2 real steps in" in run_here(["plan", tmp_path / "two.yaml", "--probe", "50", "--threads", "1"]).exits(0).out
    after = tfkit.pretrain(document, run=tmp_path / "after", threads=1)
    assert alone.history[0]["loss"] == after.history[0]["loss"]


@pytest.mark.slow
def test_the_energy_of_a_probe_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan waits for the real meter, and uses the power that it measures."""
    monkeypatch.setattr(probe_steps, "_MIN_SECONDS", 0.0)
    document = recipe_of("causal_lm", steps=100) | {"carbon": {"intensity_g_per_kwh": 100}}
    (tmp_path / "metered.yaml").write_text(dump_document(document), encoding="utf-8")
    plan = run_here(["plan", tmp_path / "metered.yaml", "--probe", "100", "--json", "--threads", "1"]).exits(0).document
    assert plan["carbon_status"] == "ok"
    assert 0 < plan["probe"]["energy_kwh"] <= plan["plan_energy_kwh"]
    assert plan["assumptions"]["energy_kwh"].endswith("measured in these steps")
    assert plan["emissions_g"]["likely"] == pytest.approx(100 * plan["energy_kwh"]["likely"])


def test_a_probe_begins_once_the_meter_knows_a_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """The energy before the meter's start is added with the first power, and must not count as that of the steps."""
    known = Reading(energy_wh=0.02, power_w=30.0, status="ok")
    readings = iter([Reading(status="starting"), Reading(energy_wh=0.003, status="ok"), known])
    meter: Any = SimpleNamespace(fresh_reading=lambda: next(readings))
    monkeypatch.setattr(probe_steps.time, "sleep", lambda _: None)
    with interrupts(None) as stop:
        assert probe_steps._first_reading(meter, stop) == known
        for status in ("off", "degraded"):  # a power may never come
            unmetered = Reading(status=status)
            meter.fresh_reading = lambda reading=unmetered: reading
            assert probe_steps._first_reading(meter, stop) == unmetered


def test_growth_of_memory_is_extrapolated_up_to_the_size_of_all_kernels() -> None:
    held = [100_000_000, 500_000_000, *(500_000_000 + round(10**7 * (n**0.5 - 2**0.5)) for n in range(3, 11))]
    expected = 10**7 * (40**0.5 - 10**0.5)  # without the first two steps, which allocate memory
    assert extrapolate_growth(held, 40) == pytest.approx(expected, rel=1e-3)
    assert extrapolate_growth(held, 10**6) == probe_steps._KERNELS_BYTES
    assert extrapolate_growth([*held[:2], *[400_000_000] * 8], 100) == extrapolate_growth([5], 1) == extrapolate_growth([0] * 3, 9) == 0


def test_the_time_of_steps_scales_with_tokens_and_that_of_sampling_with_iterations() -> None:
    measured = [(9.0, 50.0), (9.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 70.0), (1.0, 0.0)]
    steps = [ProbeStep(10, *seconds) for seconds in measured]
    rows = Probe(steps, 2, 0.0, 1, None, 1.0, None, None).seconds_of(1_000, 100)
    assert (rows.likely, rows.low < 100 < rows.high) == (100.0, True)
    sampled = Probe(steps, 2, 0.0, 1, None, 1.0, None, 4).seconds_of(1_000, 100)
    assert sampled.likely == 100.0 + 25 * 70.0  # without the first iteration, which chooses kernels
