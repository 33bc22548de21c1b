"""Whatever a tracker does, the run neither stops, nor waits, nor changes; points that it did not take are counted."""

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch.utils.tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import HANG_SECONDS, Before, Done, assert_same_bits, both, pretrain, raising, records, strike

import tfkit
from tfkit.engine.training_run import trackers
from tfkit.engine.training_run.assembled_run import AssembledRun
from tfkit.engine.training_run.checkpointing import Checkpointer

STEPS = 12
TRACKED = ["trackers=[{kind: tensorboard}]", "checkpoint={every: 4, keep: 3}", "training.log_every=1"]
LOST = re.compile(r"warning: .*tensorboard: (\d+) of (\d+) points for TensorBoard were not written \((.*)\); tfkit track sends them")


@pytest.fixture(scope="module")
def untracked(base: Path) -> Path:
    pretrain(base / "off", base / "tiny.yaml", *TRACKED, "trackers=[]").exits(0)
    return base / "off"


def track(run: Path, base: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    return pretrain(run, base / "tiny.yaml", *TRACKED, *words, before=before)


def points(run: Path) -> dict[str, list[int]]:
    """The steps of each curve, as TensorBoard reads them."""
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    return {name: [event.step for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def broken(method: str, fault: Callable[..., object]) -> Callable[[], None]:
    """SummaryWriter does that in one of its methods, in a process of its own, since it may hang."""
    return both(Before(torch.utils.tensorboard.SummaryWriter, method, fault))


full = raising(OSError("no room for curves"))


def hanging(*_: object, **__: object) -> None:
    time.sleep(10 * HANG_SECONDS)


def assert_same(done: Done, run: Path, untracked: Path, *, whole: bool = True) -> None:
    """Assert that the run is as without a tracker; `whole`: and that the curve has each of its steps once."""
    done.exits(0)
    assert_same_bits(run, untracked, STEPS)
    assert not whole or points(run)["loss"] == list(range(1, STEPS + 1))


def test_f29_what_works_writes_every_point(base: Path, untracked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = track(run, base)
    assert_same(done, run, untracked)
    assert "TensorBoard" not in done.err
    assert points(run)["grad_norm"] == points(run)["loss"]
    assert points(run)["evaluation/loss"] == [record["step"] for record in records(run) if "evaluation" in record]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [["trackers=[]", "training.tensorboard=true"], ["training.tensorboard=true"]], ids=["alias", "both"])
def test_f29_the_alias_is_the_same_tracker(base: Path, untracked: Path, tmp_path: Path, words: list[str]) -> None:
    run = tmp_path / "run"
    assert_same(track(run, base, *words), run, untracked)
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_f29_without_its_extra_nothing_is_trained(base: Path, tmp_path: Path) -> None:
    done = track(tmp_path / "run", base, before=lambda: sys.modules.update({"torch.utils.tensorboard": None}))
    done.exits(5, "TensorBoard needs the extra tensorboard: in the folder of tfkit, pip install -e '.[tensorboard]'")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_f29_a_run_that_fails_before_its_first_step_opens_no_tracker(base: Path, tmp_path: Path) -> None:
    """Nobody would close it: in a notebook, its thread and its run in the other program would stay open."""
    with Before(AssembledRun, "_try_out", raising(KeyError("ended"))), pytest.raises(KeyError):
        tfkit.pretrain(base / "tiny.yaml", {"training.tensorboard": True, "carbon.enabled": False}, run=tmp_path / "run")
    assert "TensorBoard" not in [thread.name for thread in threading.enumerate()]


def test_f29_another_tracker_goes_on_beside_one_that_hangs(tmp_path: Path) -> None:
    class Kept(list[Any]):
        def add(self, step: int, values: Mapping[str, float]) -> None:
            if step == 3:
                raise ValueError("a step that it does not like")
            self.append((step, dict(values)))

        def close(self) -> None:
            self.append("closed")

    kept, warnings, never = Kept(), list[str](), threading.Event()
    stuck = trackers.TrackerQueue("Stuck", tmp_path, lambda: never.wait() and Kept(), warnings.append)
    other = trackers.TrackerQueue("Kept", tmp_path, lambda: kept, warnings.append)
    for step in range(1, 5):
        for queue in (stuck, other):
            queue.add(step, {"loss": step / 2, "mfu": None})
    other.close()
    assert kept == [(1, {"loss": 0.5}), (2, {"loss": 1.0}), (4, {"loss": 2.0}), "closed"]
    stuck.close()
    never.set()
    assert warnings == [
        f"{tmp_path}: 1 of 4 points for Kept were not written (ValueError: a step that it does not like); tfkit track sends them",
        f"{tmp_path}: 4 of 4 points for Stuck were not written (it did not answer in time); tfkit track sends them",
    ]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("method", "fault", "reason"),
    [
        ("__init__", full, "OSError: no room for curves"),
        ("__init__", lambda *_, **__: sys.exit(3), "SystemExit: 3"),
        ("__init__", hanging, "it did not answer in time"),
        ("add_scalar", full, "OSError: no room for curves"),
        ("add_scalar", hanging, "it did not answer in time"),
        ("flush", full, "OSError: no room for curves"),
    ],
    ids=["constructor raises", "constructor exits", "constructor hangs", "points raise", "points hang", "flush raises"],
)
def test_f29_what_is_not_written_is_counted_and_reported_once(
    base: Path, untracked: Path, tmp_path: Path, method: str, fault: Callable[[], object], reason: str
) -> None:
    run = tmp_path / "run"
    done = track(run, base, before=broken(method, fault))
    assert_same(done, run, untracked, whole=False)
    ((lost, given, why),) = LOST.findall(done.err)
    assert int(given) > 60
    assert lost == given if method != "flush" else 0 < int(lost) <= int(given)
    assert why == reason
    at_once = done.err.partition("step 12/12")[0].count(f"TensorBoard takes no points ({reason}); tfkit track sends them later")
    assert at_once == (method == "__init__" and fault is not hanging)
    assert done.err.count("warning:") == 1 + at_once


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fault", [full, hanging])
def test_f29_a_close_that_fails_loses_nothing(base: Path, untracked: Path, tmp_path: Path, fault: Callable[[], object]) -> None:
    done = track(tmp_path / "run", base, before=broken("close", fault))
    assert_same(done, tmp_path / "run", untracked)
    assert "warning:" not in done.err


def test_f29_a_full_queue_drops_and_counts(base: Path, untracked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def before() -> None:
        trackers.WAITING, released = 2, threading.Event()
        Before(torch.utils.tensorboard.SummaryWriter, "add_scalar", lambda *_: released.wait(60))()  # until the run is over
        Before(trackers.TrackerQueue, "close", lambda _: released.set())()

    done = track(run, base, before=before)
    assert_same(done, run, untracked, whole=False)
    ((lost, given, why),) = LOST.findall(done.err)
    assert why == "the queue was full"
    assert sum(len(steps) for steps in points(run).values()) == int(given) - int(lost) > 0
    assert int(lost) > 0


@pytest.mark.parametrize(
    ("fault", "code", "last"),
    [
        pytest.param(both(Before(Checkpointer, "save", raising(KeyError("ended")))), 1, 4, id="before it had a checkpoint"),
        pytest.param(strike(signal.SIGTERM, 7), 143, 7, id="SIGTERM"),
        pytest.param(strike(signal.SIGKILL, 7), -signal.SIGKILL, None, id="SIGKILL", marks=pytest.mark.thorough),
    ],
)
def test_f29_a_run_that_was_stopped_goes_on_with_one_curve(
    base: Path, untracked: Path, tmp_path: Path, fault: Callable[[], object], code: int, last: int | None
) -> None:
    run = tmp_path / "run"
    track(run, base, before=fault).exits(code)
    assert last is None or points(run)["loss"] == list(range(1, last + 1)), "all that was trained is on the disk"
    time.sleep(1 - time.time() % 1)  # within one second TensorBoard would read the files by the numbers of the processes, as texts
    assert_same(track(run, base, "--resume"), run, untracked)
