"""A budget is reached in the midst of a step: it is finished and saved, and the run continues with a larger one to the same bits."""

import signal
from pathlib import Path
from typing import Any

import fake_codecarbon
import pytest
from tiny_files import receipt
from tiny_runs import assert_same_bits, pretrain, run_tfkit, slow_and_metered, strike

from tfkit.engine.training_run.usage import spent_in

STEPS = 12
WORDS = ["training.micro_batch_size=1", "model.dropout={embedding: 0.1}", "checkpoint={every: 5}"]
METERED = "carbon={enabled: true, intensity_g_per_kwh: 100, every_seconds: 0.5%s}"
MOST = 20  # attempts: each takes a step at least, whatever its budget


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    fake_codecarbon.write(base / "fake")
    pretrain(base / "unbroken", base / "tiny.yaml", *WORDS).exits(0)
    return base


def totals(run: Path) -> dict[str, Any]:
    return receipt(run)["totals"]


def test_f50_a_budget_that_is_reached_within_a_step(base: Path) -> None:
    """Of grams, one thousandth of which is used in a second; those of energy and of time are in tests/cli/test_budgets.py."""
    run, limit, codes = base / "run", 0.002, []
    done = pretrain(run, base / "tiny.yaml", *WORDS, METERED % f", budget_g: {limit}", before=slow_and_metered(base / "fake", 0.04))
    while (codes := [*codes, done.code])[-1] == 7:
        assert len(codes) < MOST
        assert totals(run)["emissions_g"] <= limit + 0.03, "a tick, a step, the save"
        if totals(run)["emissions_g"] >= limit:
            run_tfkit(base, ["resume", str(run)]).exits(2)
        limit = max(limit, totals(run)["emissions_g"]) + 0.002
        done = run_tfkit(base, ["resume", str(run), f"carbon.budget_g={limit}", "--threads", "1"], slow_and_metered(base / "fake", 0.04))
    assert codes[0] == 7
    assert codes[-1] == 0, done.err
    assert_same_bits(run, base / "unbroken", STEPS)


@pytest.mark.thorough
def test_f50_a_budget_counts_what_a_kill_has_lost(base: Path) -> None:
    """The attempt that is killed takes longer than the rest of the run, which a budget of as much and half of the rest does not cover."""

    def killed_in_step_6() -> None:
        slow_and_metered(base / "fake", 0.1)()
        strike(signal.SIGKILL, 23)()

    run = base / "killed"
    pretrain(run, base / "tiny.yaml", *WORDS, METERED % "", before=killed_in_step_6).exits(-signal.SIGKILL)
    lost = spent_in(run).seconds
    assert lost >= 22 * 0.1 - 0.5, "all but a reading's interval"
    words = ["resume", str(run), f"carbon.budget_seconds={lost + 0.7}", "--threads", "1"]
    run_tfkit(base, words, slow_and_metered(base / "fake", 0.05)).exits(7)  # seven steps of 0.2 s are left
    # One step at least; it may stop as much before the limit as it expects the last save to take.
    assert lost + 0.2 <= totals(run)["seconds"] < lost + 30
    assert receipt(run)["attempts"][0]["status"] == "killed"
