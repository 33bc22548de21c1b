"""tfkit.pretrain(..., ranks=2): this process and one that is started for the call train together."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from library_calls import call
from tiny_files import receipt
from tiny_runs import assert_same_bits, kept

import tfkit
from tfkit.errors import PeerLostError, UsageError

STEPS = 12


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the other process by /proc")
def test_two_ranks_are_stopped_lost_and_resumed(base: Path, document: dict[str, Any]) -> None:
    def stopped() -> Any:
        asked = iter([False] * 12)
        return tfkit.pretrain(document, run="ranks", ranks=2, threads=1, should_stop=lambda: next(asked, True)).to_dict()

    result = call(base, stopped)
    assert (result["status"], 0 < result["steps"] < STEPS) == ("stopped", True)
    assert kept(base / "ranks")[-1] == f"step-{result['steps']:06d}"

    def lost() -> Any:
        def kill_the_other() -> bool:
            for child in _children():
                os.kill(int(child), signal.SIGKILL)
            return False

        try:
            tfkit.resume("ranks", ranks=2, threads=1, should_stop=kill_the_other)
        except PeerLostError as error:
            return str(error)

    assert "rank 1 of 2 was killed by SIGKILL" in call(base, lost)

    def interrupted() -> Any:
        def press() -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            return False

        try:
            tfkit.resume("ranks", ranks=2, threads=1, should_stop=press)
        except KeyboardInterrupt:
            return tfkit.resume("ranks", ranks=2, threads=1).to_dict()

    result = call(base, interrupted)
    assert (result["status"], result["steps"]) == ("finished", STEPS)
    assert_same_bits(base / "ranks", base / "unbroken", STEPS)


@pytest.mark.slow
def test_trials_of_a_sweep_are_trained_by_both_ranks(base: Path, document: dict[str, Any]) -> None:
    def swept() -> Any:
        space = {"optimizer.lr": [1e-3, 1e-2]}
        found = [tfkit.sweep(document, space, run=f"sweep-{ranks}", ranks=ranks, threads=1).to_dict() for ranks in (1, 2)]
        return [[one["score"] for one in result["trials"]] for result in found]

    one, two = call(base, swept)
    assert two == pytest.approx(one, rel=1e-5)
    assert [receipt(base / "sweep-2" / name)["ranks"] for name in ("trial-001", "trial-002")] == [2, 2]


def test_a_refused_recipe_starts_nothing_that_stays(document: dict[str, Any], tmp_path: Path) -> None:
    before = _children()
    with pytest.raises(UsageError, match="3 rows cannot be divided evenly among 2 ranks"):
        tfkit.pretrain(document, {"training.batch_size": 3, "training.micro_batch_size": 1}, run=tmp_path / "run", ranks=2)
    assert not _children() - before


def _children() -> set[str]:
    """Return the processes that this one has started, where the system lists them."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(path.read_text(encoding="ascii").split()) if path.exists() else set()
