"""One run a folder: the second is refused with the owner, and what a dead process left is taken over."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_runs import WORDS, Base, contents
from tiny_files import read_json, wait_for
from tiny_runs import Before, Process, both, raising, run_here

from tfkit.engine.training_run import checkpointing
from tfkit.training.step import Stepper


def start(saved: Base, run: Path, before: Callable[[], object] | None = None) -> Process:
    return Process(saved.folder, ["pretrain", str(saved.recipe), "--run", str(run), "--threads", "1", "--resume", *WORDS], before)


# As everywhere else, and as on a network file system without a lock daemon.
LOCKS = {"with locks": lambda: None, "no locks": Before(fcntl, "flock", raising(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))}


def pause_in_a_save(mark: Path, before: Callable[[], None]) -> Callable[[], None]:
    """The process writes `mark` in its first save, and continues when the mark is gone."""

    def pause(*_: object, **__: object) -> None:
        mark.touch()
        while mark.exists():
            time.sleep(0.005)

    return both(before, Before(checkpointing, "save_checkpoint", pause, 1))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("before", LOCKS.values(), ids=LOCKS)
def test_f44_two_runs_in_one_folder(saved: Base, tmp_path: Path, before: Callable[[], None]) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(saved.killed, run)
    first = start(saved, run, pause_in_a_save(mark, before))
    try:
        wait_for(mark.exists)
        content = contents(run)
        start(saved, run, before).wait().refuses(5, f"{run}: this run folder is in use by process {first.pid} on {socket.gethostname()}")
        assert contents(run) == content, "the second run changed nothing"
    finally:
        mark.unlink()
        done = first.wait()
    done.exits(0)
    saved.assert_same(run)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("before", LOCKS.values(), ids=LOCKS)
def test_f44_the_lock_of_a_killed_process_is_taken_over(saved: Base, tmp_path: Path, before: Callable[[], None]) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    killed = start(saved, run, pause_in_a_save(mark, before))
    wait_for(mark.exists)
    killed.kill(signal.SIGKILL)
    killed.wait().exits(-signal.SIGKILL)
    assert read_json(run / "lock")["pid"] == killed.pid
    start(saved, run, before).wait().exits(0)
    saved.assert_same(run)
    assert (run / "lock").read_text() == ""


def test_f44_a_run_whose_folder_was_deleted_ends_and_leaves_the_next_run_there_alone(saved: Base, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(saved.killed, other)
    shutil.copytree(saved.killed, run)

    def replace(*_: object, **__: object) -> None:
        shutil.rmtree(run)
        shutil.copytree(other, run)

    start(saved, run, Before(Stepper, "take", replace, 1)).wait().exits(5, f"{run}: this run folder was deleted or moved")
    assert contents(run) == contents(other)


def test_f44_a_run_without_its_recipe_says_so(saved: Base, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved.killed, run)
    (run / "recipe.yaml").unlink()
    run_here(["resume", run]).exits(2, f"{run}: its recipe.yaml is missing, without which the run cannot continue")
