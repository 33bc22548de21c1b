"""The library is stopped: by its caller, by Ctrl-C, and on two ranks, this process and one that is started for the call."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from library_calls import Recorder, call
from tiny_files import receipt
from tiny_runs import assert_same_bits, hashes, kept, strike

import tfkit
from tfkit.errors import PeerLostError, Stopped, UsageError
from tfkit.run.signals import Interrupts, interrupts

STEPS = 12


@pytest.mark.thorough
def test_should_stop_gives_a_result_and_resume_goes_on(base: Path, document: dict[str, Any]) -> None:
    def stopped() -> Any:
        asked = iter([False] * 16)
        return tfkit.pretrain(document, run="stopped", should_stop=lambda: next(asked, True)).to_dict()

    result = call(base, stopped)
    assert (result["status"], result["stopped_early"]) == ("stopped", True)
    assert 0 < result["steps"] < STEPS
    assert kept(base / "stopped")[-1] == Path(result["checkpoint"]).name == f"step-{result['steps']:06d}"
    result = call(base, lambda: tfkit.resume("stopped").to_dict())
    assert (result["status"], result["steps"]) == ("finished", STEPS)
    assert_same_bits(base / "stopped", base / "unbroken", STEPS)
    assert call(base, lambda: tfkit.resume("stopped").to_dict()) == result  # again


def test_a_run_that_is_stopped_before_its_first_step(base: Path, document: dict[str, Any]) -> None:
    def stopped() -> Any:
        result = tfkit.pretrain(document, run="early", should_stop=lambda: True)
        return [result.to_dict(), result.checkpoint, result.history]

    result, checkpoint, history = call(base, stopped)
    assert (result["status"], result["steps"], checkpoint, history) == ("stopped", 0, None, [])
    assert result["run"] == str(base / "early")


def interrupted(base: Path, run: str, at: Callable[[str], object]) -> bool:
    """Whether a training with this listener, in a fork, raised KeyboardInterrupt, and gave the handler of SIGINT back."""

    def train() -> bool:
        before = signal.getsignal(signal.SIGINT)
        try:
            tfkit.pretrain("tiny.yaml", {"training.steps": 10**6}, run=run, listener=Recorder(at))
        except KeyboardInterrupt:
            return signal.getsignal(signal.SIGINT) == before
        return False

    return bool(call(base, train))


def interrupt(_: str = "") -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.thorough
def test_a_stop_drops_the_step_that_is_not_whole(base: Path, document: dict[str, Any]) -> None:
    """Ctrl-C in the first micro-batch of two: of the first step, and of the fourth."""

    def train(run: str) -> bool:
        with suppress(KeyboardInterrupt):
            tfkit.pretrain(document, run=run)
            return False
        return True

    assert call(base, lambda: train("first"), before=strike(signal.SIGINT, 1))
    assert kept(base / "first") == []
    assert call(base, lambda: train("fourth"), before=strike(signal.SIGINT, 7))
    assert kept(base / "fourth") == ["step-000003"]
    for run in ("first", "fourth"):
        call(base, lambda run=run: tfkit.pretrain(document, run=run, resume=True).status)
        assert hashes(base / run, STEPS) == hashes(base / "unbroken", STEPS)


def test_half_a_score_is_none(base: Path) -> None:
    """Where nothing is saved a stop is an exception, and Ctrl-C is Ctrl-C."""

    def raised(act: Callable[[], object]) -> str:
        try:
            act()
        except (Stopped, KeyboardInterrupt) as error:
            return type(error).__name__
        return ""

    acts: list[Callable[[], object]] = [
        lambda: tfkit.evaluate(start="unbroken", should_stop=lambda: True),
        lambda: tfkit.generate("the cat", start="unbroken", should_stop=lambda: True),
        lambda: tfkit.evaluate(start="unbroken", listener=Recorder(lambda event: interrupt() if event == "progress" else None)),
        lambda: tfkit.plan("tiny.yaml", listener=Recorder(lambda event: interrupt() if event == "progress" else None)),
    ]
    assert call(base, lambda: [raised(act) for act in acts]) == ["Stopped", "Stopped", "KeyboardInterrupt", "KeyboardInterrupt"]


def test_ctrl_c_in_the_preparation_is_raised_at_once(base: Path) -> None:
    assert interrupted(base, "prepared", lambda event: interrupt() if event == "progress" else None)
    assert not (base / "prepared" / "checkpoints").exists()
    assert receipt(base / "prepared")["status"] != "finished"


def test_the_third_ctrl_c_ends_the_run_but_not_the_process(base: Path) -> None:
    assert interrupted(base, "thrice", lambda event: [interrupt() for _ in range(3)] if event == "update" else None)
    assert not kept(base / "thrice")


def test_ctrl_c_is_raised_with_what_was_saved_and_also_if_it_comes_too_late() -> None:
    """A notebook showed a bare KeyboardInterrupt, as if the steps were lost."""

    def stop(request: Interrupts) -> None:
        interrupt()
        request.raise_if_requested("its checkpoint is saved")

    with pytest.raises(KeyboardInterrupt, match="its checkpoint is saved"), interrupts(None) as request:
        stop(request)
    with pytest.raises(KeyboardInterrupt), interrupts(None):
        interrupt()


def test_a_strike_of_sigterm_is_the_callers(base: Path, document: dict[str, Any]) -> None:
    """The library handles Ctrl-C alone: a program that is asked to end has its own way."""

    def train() -> Any:
        heard: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        return [tfkit.pretrain(document, {"training.steps": 2}, run="termed").status, heard]

    assert call(base, train, before=strike(signal.SIGTERM, 2)) == ["finished", [signal.SIGTERM]]


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
