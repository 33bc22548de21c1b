"""Whatever TensorBoard does, the run neither stops, nor waits, nor changes; what it did not write is counted."""

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.utils.tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import HANG_SECONDS, Done, exact, hashes, pretrain, records, strike, write_corpus, write_recipe

import tfkit.engine.trackers.tensorboard

STEPS = 12
TRACKED = ["training.tensorboard=true", "checkpoint={every: 4, keep: 3}", "training.log_every=1"]
LOST = re.compile(r"warning: .*tensorboard: (\d+) of (\d+) points for TensorBoard were not written \((.*)\)")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trackers")
    write_recipe(folder, write_corpus(folder / "corpus"))
    return folder


@pytest.fixture(scope="module")
def untracked(base: Path) -> Path:
    done = pretrain(base / "off", base / "tiny.yaml", *TRACKED, "training.tensorboard=false")
    assert done.code == 0, done.err
    return base / "off"


def points(run: Path) -> dict[str, list[int]]:
    """The steps of each curve, as TensorBoard reads them."""
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    return {name: [event.step for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def broken(method: str, fault: Callable[[], object]) -> Callable[[], None]:
    """SummaryWriter does that in one of its methods."""

    def before() -> None:
        def do(*arguments: Any, **named: Any) -> None:
            fault()

        setattr(torch.utils.tensorboard.SummaryWriter, method, do)

    return before


def raising() -> None:
    raise OSError("no room for curves")


def hanging() -> None:
    time.sleep(10 * HANG_SECONDS)


def assert_same(done: Done, run: Path, untracked: Path) -> None:
    assert done.code == 0, done.err
    assert hashes(run, STEPS) == hashes(untracked, STEPS)
    assert exact(run) == exact(untracked)


def test_f29_what_works_writes_every_point(base: Path, untracked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *TRACKED)
    assert_same(done, run, untracked)
    assert "TensorBoard" not in done.err
    assert points(run)["loss"] == points(run)["grad_norm"] == list(range(1, STEPS + 1))
    assert points(run)["evaluation/loss"] == [record["step"] for record in records(run) if "evaluation" in record]


@pytest.mark.parametrize(
    ("method", "fault", "reason"),
    [
        ("__init__", raising, "OSError: no room for curves"),
        ("__init__", lambda: sys.exit(3), "SystemExit: 3"),
        ("__init__", hanging, "it did not answer in time"),
        ("add_scalar", raising, "OSError: no room for curves"),
        ("add_scalar", hanging, "it did not answer in time"),
        ("flush", raising, "OSError: no room for curves"),
    ],
    ids=["constructor raises", "constructor exits", "constructor hangs", "points raise", "points hang", "flush raises"],
)
def test_f29_what_is_not_written_is_counted_and_told_once(
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
    assert done.err.count("warning:") == 1


@pytest.mark.parametrize("fault", [raising, hanging])
def test_f29_a_close_that_fails_loses_nothing(base: Path, untracked: Path, tmp_path: Path, fault: Callable[[], object]) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *TRACKED, before=broken("close", fault))
    assert_same(done, run, untracked)
    assert "warning:" not in done.err
    assert points(run)["loss"] == list(range(1, STEPS + 1))


def test_f29_a_full_queue_drops_and_counts(base: Path, untracked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def before() -> None:
        tfkit.engine.trackers.tensorboard.WAITING = 2
        add = torch.utils.tensorboard.SummaryWriter.add_scalar

        def slow(*arguments: Any) -> None:
            time.sleep(0.03)
            add(*arguments)

        torch.utils.tensorboard.SummaryWriter.add_scalar = slow  # type: ignore[assignment,method-assign]

    done = pretrain(run, base / "tiny.yaml", *TRACKED, before=before)
    assert_same(done, run, untracked)
    ((lost, given, why),) = LOST.findall(done.err)
    assert why == "the queue was full"
    assert sum(len(steps) for steps in points(run).values()) == int(given) - int(lost) > 0
    assert int(lost) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_f29_a_run_that_was_stopped_goes_on_with_one_curve(base: Path, untracked: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *TRACKED, before=strike(number, 7))
    assert done.code == (143 if number == signal.SIGTERM else -signal.SIGKILL), done.err
    if number == signal.SIGTERM:
        assert points(run)["loss"] == list(range(1, 8)), "all that was trained is on the disk"
    done = pretrain(run, base / "tiny.yaml", *TRACKED, "--resume")
    assert_same(done, run, untracked)
    assert points(run)["loss"] == list(range(1, STEPS + 1)), "what came after the checkpoint is there once"
