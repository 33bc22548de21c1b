"""Saving on disks that fill up, fail for a while, fail for good, or are slow, with signals in between."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from saved_runs import WORDS, Base, contents, limited_files, resumed_from
from tiny_files import read_json, wait_for
from tiny_runs import Before, Done, Process, Replaced, Strike, assert_same_bits, both, exact, hashes, kept, raising, records, run_here

from tfkit import durable
from tfkit.engine.training_run import checkpointing
from tfkit.run import checkpoints
from tfkit.run.manifest import recorded_bytes, verify
from tfkit.training.step import Stepper

# From the smallest to the largest.
FILES = ["training_state/state.json", "tokenizer_config.json", "config.json", "manifest.json", "tokenizer.json", "model.safetensors"]
LARGEST = "training_state/optimizer.safetensors"


def in_saves(fault: Callable[[], object], first: int = 1) -> Callable[[], None]:
    """`fault` is put in place when the save of this number, counted from 1, begins."""
    quick = Replaced(durable.with_retries, "__defaults__", lambda _: (None, (0.01, 0.02, 0.05)))
    return both(quick, Before(checkpointing, "save_checkpoint", lambda *_, **__: fault(), first))


def refuse(module: object, function: str, number: int, times: int, where: str = "") -> Callable[[], None]:
    """The next `times` calls of a function, of those with `where` in an argument, raise an error of the disk."""
    left = iter(range(times))

    def fail(*arguments: object, **_: object) -> None:
        if where in " ".join(map(str, arguments)) and next(left, None) is not None:
            raise OSError(number, os.strerror(number))

    return Before(module, function, fail)


def assert_refused(done: Done, run: Path, left: list[str], hidden: bool = False) -> None:
    """Exit 5 and a message; these checkpoints are whole, and there is no trace of another, or a hidden one at most."""
    done.refuses(5, "cannot save the checkpoint")
    names = {path.name for path in (run / "checkpoints").iterdir() if not (hidden and path.name.startswith("."))}
    assert names - {"best.json"} == set(left)
    for name in left:
        assert verify(run / "checkpoints" / name) == []


# ------------------------------------------------------------------------------------------------------------- full disks


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", [*FILES, LARGEST])
def test_f15_no_file_may_be_larger_than_k_bytes(saved: Base, tmp_path: Path, name: str) -> None:
    """k is one byte less than each file of a checkpoint in turn takes. Only in the save: the output of this process is a file too."""
    run = tmp_path / "run"
    limit = (saved.killed / "checkpoints" / "step-000002" / name).stat().st_size - 1

    limited = limited_files(checkpointing, "save_checkpoint", lambda: limit if (run / "checkpoints").exists() else None)  # not the first
    assert_refused(saved.run(run, before=limited), run, ["step-000002"])
    saved.assert_ends_the_same(run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill the disk up to this many bytes."""
    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - room))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_f15_the_disk_is_full_after_a_share_of_a_save(saved: Base, small_disk: Path, share: float) -> None:
    run = small_disk / "run"
    shutil.rmtree(saved.copy_killed(run) / "step-000002")
    leave(small_disk, int(recorded_bytes(run / "checkpoints" / "step-000004") * share))
    assert_refused(saved.run(run, "--resume", "--force"), run, ["step-000004"])
    (small_disk / "ballast").unlink()
    saved.assert_ends_the_same(run)


@pytest.mark.parametrize("is_known", [True, False], ids=["seen before", "found while writing"])
def test_f15_what_may_go_goes(saved: Base, small_disk: Path, is_known: bool) -> None:
    """With room for half a checkpoint, the older of two makes way, though two are to be kept."""
    run = small_disk / "run"
    saved.copy_killed(run)
    leave(small_disk, recorded_bytes(run / "checkpoints" / "step-000004") // 2)

    gives_up_when_full = Replaced(checkpoints, "disk_is_full", lambda _: lambda error: False)
    saved.run(run, "--resume", "--force", before=gives_up_when_full if is_known else disk_with(1 << 40)).exits(0)
    assert kept(run) == ["step-000004", "step-000006"]
    saved.assert_same(run)


def disk_with(free: int) -> Replaced:
    """A fault: the disk says that it has this many bytes free."""
    return Replaced(shutil, "disk_usage", lambda _: lambda path: SimpleNamespace(free=free))


def test_f18_the_planned_checkpoints_do_not_fit(saved: Base, tmp_path: Path) -> None:
    run, said = tmp_path / "run", ("the planned checkpoints need 0.000", "the disk has 1.23e-05 GB free", "--force")
    saved.run(run, before=disk_with(12_345)).refuses(5, *said)
    assert not (run / "metrics.jsonl").exists()
    saved.run(run, "--force", before=disk_with(12_345)).exits(0)
    saved.assert_same(run)


# ---------------------------------------------------------------------------------------------------------- failing disks


@pytest.mark.sampled(10)
@pytest.mark.parametrize(("number", "times"), [(errno.EIO, 1), (errno.ESTALE, 3)])
@pytest.mark.parametrize("function", ["fsync", "rename", "replace", "open", "mkdir"])
def test_f19_an_error_that_passes(saved: Base, tmp_path: Path, function: str, number: int, times: int) -> None:
    run, where = tmp_path / "run", "" if function == "fsync" else "step-"
    saved.run(run, before=in_saves(refuse(os, function, number, times, where), first=2)).exits(0)
    saved.assert_same(run)


@pytest.mark.thorough
@pytest.mark.parametrize("function", ["fsync", "rename", "open"])
def test_f19_an_error_that_stays(saved: Base, tmp_path: Path, function: str) -> None:
    run, where = tmp_path / "run", "" if function == "fsync" else "step-"
    done = saved.run(run, before=in_saves(refuse(os, function, errno.EIO, 10_000, where), first=2))
    assert_refused(done, run, ["step-000002"], hidden=function == "open")  # what cannot be opened cannot be emptied: the next start does it
    assert "Input/output error" in done.err
    saved.assert_ends_the_same(run)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, to find the file of a descriptor")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_f16_metrics_that_cannot_be_written(saved: Base, tmp_path: Path, number: int) -> None:
    """From the second save on: one warning, and earlier saves are kept."""
    run = tmp_path / "run"

    def refuse_metrics(descriptor: int, data: bytes) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("metrics.jsonl"):
            raise OSError(number, os.strerror(number))

    done = saved.run(run, before=in_saves(Before(os, "write", refuse_metrics), first=2)).exits(0)
    assert done.err.count("warning: ") == 1
    assert f"{run / 'metrics.jsonl'}: cannot write metrics ({os.strerror(number)})" in done.err
    assert hashes(run, 6) == hashes(saved.unbroken, 6)
    found = exact(run)
    assert found == exact(saved.unbroken)[: len(found)]
    assert 0 < len(found) < len(records(saved.unbroken))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_f16_a_receipt_that_cannot_be_written(saved: Base, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    done = saved.run(run, before=in_saves(refuse(os, "replace", number, 10_000, "run.json"))).exits(0)
    assert done.err.count("warning: ") == 1
    assert f"{run / 'run.json'}: cannot be written ({os.strerror(number)}); the run continues" in done.err
    assert_same_bits(run, saved.unbroken, 6)


# ------------------------------------------------------------------------------------------------------- slow disks, signals


def signals_from(call: int, *numbers: int) -> Callable[[], None]:
    """In the second save, the process gets these signals at this call of fsync, counted from 1, and at those after it."""
    return in_saves(both(*(Strike(number, at, os, "fsync") for at, number in enumerate(numbers, call))), first=2)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("first", "second", "call"),
    [(signal.SIGTERM, signal.SIGINT, 1), (signal.SIGINT, signal.SIGTERM, 6), (signal.SIGTERM, signal.SIGTERM, 12)],
)
def test_f05_a_second_signal_in_a_save_changes_nothing(saved: Base, tmp_path: Path, first: int, second: int, call: int) -> None:
    run = tmp_path / "run"
    saved.run(run, before=signals_from(call, first, second)).exits(128 + first, "stopped after step 4 of 6; its checkpoint is saved")
    assert kept(run) == ["step-000002", "step-000004"]
    assert verify(run / "checkpoints" / "step-000004") == []
    saved.assert_ends_the_same(run)
    assert resumed_from(run) == "step-000004"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("call", [1, 6, 12])
def test_f05_a_third_signal_in_a_save_kills(saved: Base, tmp_path: Path, call: int) -> None:
    run = tmp_path / "run"
    saved.run(run, before=signals_from(call, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)).exits(-signal.SIGTERM)
    assert verify(run / "checkpoints" / "step-000002") == []
    assert kept(run) in (["step-000002"], ["step-000002", "step-000004"])
    saved.assert_ends_the_same(run)


def slow_disk(strike: Callable[[], object] = lambda: None) -> Before:
    """A fault: a file takes 10 ms to be on the disk; meanwhile `strike` is called."""
    return Before(os, "fsync", lambda _: (strike(), time.sleep(0.01)))


@pytest.mark.thorough
def test_f45_a_slow_disk_and_a_save_at_every_step(saved: Base, tmp_path: Path) -> None:
    run = tmp_path / "run"
    saved.run(run, "checkpoint={every: 1, keep: 6}", before=slow_disk()).exits(0)
    assert kept(run) == [f"step-{step:06d}" for step in range(1, 7)]
    written = [(run / "checkpoints" / name / "manifest.json").stat().st_mtime_ns for name in kept(run)]
    assert written == sorted(written)
    assert all(verify(run / "checkpoints" / name) == [] for name in kept(run))
    assert hashes(run, 6) == hashes(saved.unbroken, 6)
    assert not list(run.rglob(".*"))


def test_f45_a_signal_while_a_slow_disk_is_written(saved: Base, tmp_path: Path) -> None:
    run, struck = tmp_path / "run", []

    def strike() -> None:
        if not struck and list((run / "checkpoints").glob(".step-000004.tmp-*")):
            struck.append(os.kill(os.getpid(), signal.SIGTERM))

    saved.run(run, before=slow_disk(strike)).exits(143, "stopped after step 4 of 6; its checkpoint is saved")
    assert kept(run)[-1] == "step-000004"
    assert all(verify(run / "checkpoints" / name) == [] for name in kept(run))
    saved.assert_ends_the_same(run)


# -- the lock of a run folder: one run at a time, and a lock of a dead process is taken over


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
