"""Plans by real steps: what they report, and that nothing is left of them."""

import json
from pathlib import Path

import pytest
from tiny_plans import recipe_of

import tfkit
from tfkit.__main__ import main
from tfkit.engine.planning import trial_steps
from tfkit.engine.planning.trial_steps import Step, Trial, growth
from tfkit.recipe.dump import dump_document


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.parametrize("name", ["causal_lm", "grpo", "adapter"])
def test_a_plan_by_real_steps(name: str) -> None:
    before = sorted(Path().iterdir())
    plan = tfkit.plan(recipe_of(name), probe=3, threads=1)
    assert sorted(Path().iterdir()) == before
    assert (plan.basis, plan.steps) == ("probe", 4)
    assert plan.probe is not None
    assert plan.probe["steps"] == 3
    assert 0 < plan.probe["seconds"] < plan.seconds.high
    assert plan.memory_bytes == plan.probe["memory_bytes"] > 1e8  # of this process
    assert plan.seconds.low < plan.seconds.likely < plan.seconds.high
    assert plan.assumptions["memory_bytes"].endswith(f"by formula {plan.probe['formula_memory_bytes']:,}")


def test_a_probe_is_no_longer_than_the_run_and_leaves_the_run_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = recipe_of("causal_lm", steps=2)
    (tmp_path / "two.yaml").write_text(dump_document(document), encoding="utf-8")
    alone = tfkit.pretrain(document, run=tmp_path / "alone", threads=1)
    assert main(["plan", str(tmp_path / "two.yaml"), "--probe", "50", "--threads", "1"]) == 0
    assert "2 real steps in" in capsys.readouterr().out
    after = tfkit.pretrain(document, run=tmp_path / "after", threads=1)
    assert alone.history[0]["loss"] == after.history[0]["loss"]


@pytest.mark.slow
def test_the_energy_of_the_steps_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By the real meter: it is waited for, and what it finds is the power of the plan."""
    monkeypatch.setattr(trial_steps, "_LEAST_SECONDS", 0.0)
    document = recipe_of("causal_lm") | {"carbon": {"intensity_g_per_kwh": 100}}
    (tmp_path / "metered.yaml").write_text(dump_document(document), encoding="utf-8")
    assert main(["plan", str(tmp_path / "metered.yaml"), "--probe", "3", "--json", "--threads", "1"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["carbon_status"] == "ok"
    assert 0 < plan["probe"]["energy_kwh"] <= plan["plan_energy_kwh"]
    assert plan["assumptions"]["energy_kwh"].endswith("measured in these steps")
    assert plan["emissions_g"]["likely"] == pytest.approx(100 * plan["energy_kwh"]["likely"])


def test_memory_grows_on_as_it_grew_until_the_kernels_are_all_there() -> None:
    held = [100_000_000, 500_000_000, *(500_000_000 + round(10**7 * (n**0.5 - 2**0.5)) for n in range(3, 11))]
    assert growth(held, 40) == pytest.approx(10**7 * (40**0.5 - 10**0.5), rel=1e-3)  # without the first two steps, which take memory
    assert growth(held, 10**6) == trial_steps._KERNELS_BYTES
    assert growth([*held[:2], *[400_000_000] * 8], 100) == growth([5], 1) == growth([0] * 3, 9) == 0


def test_the_time_of_all_steps_is_by_tokens_and_of_sampling_by_iterations() -> None:
    steps = [Step(10, 9.0, 50.0), Step(10, 9.0, 0.0), *(Step(10, 1.0, 0.0) for _ in range(2)), Step(10, 1.0, 70.0), Step(10, 1.0, 0.0)]
    rows = Trial(steps, 2, 0.0, 1, None, 1.0, None, None).seconds_of(1_000, 100)
    assert (rows.likely, rows.low < 100 < rows.high) == (100.0, True)
    sampled = Trial(steps, 2, 0.0, 1, None, 1.0, None, 4).seconds_of(1_000, 100)
    assert sampled.likely == 100.0 + 25 * 70.0  # without the first one, which chooses kernels
