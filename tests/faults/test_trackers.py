"""Whatever a tracker does, the run neither stops, nor waits, nor changes; points that it did not take are counted."""

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

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


def points(run: Path) -> dict[str, list[int]]:
    """The steps of each curve, as TensorBoard reads them."""
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    return {name: [event.step for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def broken(method: str, fault: Callable[..., object]) -> Callable[[], None]:
    """SummaryWriter does that in one of its methods."""
    return both(Before(torch.utils.tensorboard.SummaryWriter, method, fault))


full = raising(OSError("no room for curves"))


def hanging(*_: object, **__: object) -> None:
    time.sleep(10 * HANG_SECONDS)


def assert_same(done: Done, run: Path, untracked: Path) -> None:
    assert done.code == 0, done.err
    assert_same_bits(run, untracked, STEPS)


def test_f29_what_works_writes_every_point(base: Path, untracked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *TRACKED)
    assert_same(done, run, untracked)
    assert "TensorBoard" not in done.err
    assert points(run)["loss"] == points(run)["grad_norm"] == list(range(1, STEPS + 1))
    assert points(run)["evaluation/loss"] == [record["step"] for record in records(run) if "evaluation" in record]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [["trackers=[]", "training.tensorboard=true"], ["training.tensorboard=true"]], ids=["alias", "both"])
def test_f29_the_alias_is_the_same_tracker(base: Path, untracked: Path, tmp_path: Path, words: list[str]) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *TRACKED, *words)
    assert_same(done, run, untracked)
    assert points(run)["loss"] == list(range(1, STEPS + 1))
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_f29_a_run_that_begins_again_has_each_point_once(base: Path, untracked: Path, tmp_path: Path) -> None:
    """Its first attempt ended before it had a checkpoint."""
    run, words = tmp_path / "run", [base / "tiny.yaml", *TRACKED]
    pretrain(run, *words, before=both(Before(Checkpointer, "save", raising(KeyError("ended"))))).exits(1)
    assert points(run)["loss"] == [1, 2, 3, 4]
    time.sleep(1)  # TensorBoard reads files in the order of their names, which have the second
    assert_same(pretrain(run, *words, "--resume"), run, untracked)
    assert points(run)["loss"] == list(range(1, STEPS + 1))


def test_f29_without_its_extra_nothing_is_trained(base: Path, tmp_path: Path) -> None:
    def before() -> None:
        sys.modules["torch.utils.tensorboard"] = None

    done = pretrain(tmp_path / "run", base / "tiny.yaml", *TRACKED, before=before).exits(5)
    assert "TensorBoard needs the extra tensorboard: in the folder of tfkit, pip install -e '.[tensorboard]'" in done.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_f29_a_run_that_fails_before_its_first_step_opens_no_tracker(base: Path, tmp_path: Path) -> None:
    """Nobody would close it: in a notebook, its thread and its run in the other program would stay open."""
    with Before(AssembledRun, "_try_out", raising(KeyError("ended"))), pytest.raises(KeyError):
        tfkit.pretrain(base / "tiny.yaml", {"training.tensorboard": True, "carbon.enabled": False}, run=tmp_path / "run")
    assert "TensorBoard" not in [thread.name for thread in threading.enumerate()]


def test_f29_another_tracker_goes_on_beside_one_that_hangs(tmp_path: Path) -> None:
    class Kept:
        def __init__(self) -> None:
            self.lines: list[tuple[int, dict[str, float]]] = []

        def add(self, step: int, values: Mapping[str, float]) -> None:
            if step == 3:
                raise ValueError("a step that it does not like")
            self.lines.append((step, dict(values)))

        def close(self) -> None:
            self.lines.append((-1, {}))

    def opens_never() -> Kept:
        never.wait()
        return Kept()

    kept, warnings, never = Kept(), list[str](), threading.Event()
    queues = [trackers.TrackerQueue("Stuck", tmp_path, opens_never, warnings.append)]
    queues.append(trackers.TrackerQueue("Kept", tmp_path, lambda: kept, warnings.append))
    for step in range(1, 5):
        for queue in queues:
            queue.add(step, {"loss": step / 2, "mfu": None})
    queues[1].close()
    assert kept.lines == [(1, {"loss": 0.5}), (2, {"loss": 1.0}), (4, {"loss": 2.0}), (-1, {})]
    queues[0].close()
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
    done = pretrain(run, base / "tiny.yaml", *TRACKED, before=broken(method, fault))
    assert_same(done, run, untracked)
    (found,) = LOST.findall(done.err)
    lost, given, why = int(found[0]), int(found[1]), found[2]
    assert given > 60
    assert lost == given if method != "flush" else 0 < lost <= given
    assert why == reason
    at_once = done.err.partition("step 12/12")[0].count(f"TensorBoard takes no points ({reason}); tfkit track sends them later")
    assert at_once == (method == "__init__" and fault is not hanging)
    assert done.err.count("warning:") == 1 + at_once


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fault", [full, hanging])
def test_f29_a_close_that_fails_loses_nothing(base: Path, untracked: Path, tmp_path: Path, fault: Callable[[], object]) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *TRACKED, before=broken("close", fault))
    assert_same(done, run, untracked)
    assert "warning:" not in done.err
    assert points(run)["loss"] == list(range(1, STEPS + 1))


def test_f29_a_full_queue_drops_and_counts(base: Path, untracked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def before() -> None:
        trackers.WAITING, released = 2, threading.Event()
        Before(torch.utils.tensorboard.SummaryWriter, "add_scalar", lambda *_: released.wait(60))()  # until the run is over
        Before(trackers.TrackerQueue, "close", lambda _: released.set())()

    done = pretrain(run, base / "tiny.yaml", *TRACKED, before=before)
    assert_same(done, run, untracked)
    ((lost, given, why),) = LOST.findall(done.err)
    assert why == "the queue was full"
    assert sum(len(steps) for steps in points(run).values()) == int(given) - int(lost) > 0
    assert int(lost) > 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_f29_a_run_that_was_stopped_goes_on_with_one_curve(base: Path, untracked: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", *TRACKED, before=strike(number, 7)).exits(143 if number == signal.SIGTERM else -signal.SIGKILL)
    if number == signal.SIGTERM:
        assert points(run)["loss"] == list(range(1, 8)), "all that was trained is on the disk"
    time.sleep(1 - time.time() % 1)  # within one second TensorBoard would read the files by the numbers of the processes, as texts
    done = pretrain(run, base / "tiny.yaml", *TRACKED, "--resume")
    assert_same(done, run, untracked)
    assert points(run)["loss"] == list(range(1, STEPS + 1)), "what came after the checkpoint is there once"
