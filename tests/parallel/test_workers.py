"""The processes of all ranks on this machine, here small scripts: their end, exit code and output."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from tiny_files import wait_for

from tfkit.parallel.ranks import find_ranks
from tfkit.parallel.workers import Workers

NAP = "import os, signal, sys, time; rank = int(os.environ['RANK']); "
HANG = "time.sleep(600)"


def started(script: str, size: int = 2) -> Workers:
    return Workers.start([sys.executable, "-S", "-E", "-c", NAP + script], size)


@pytest.mark.parametrize(
    ("script", "code", "culprits"),
    [
        ("pass", 0, (None,)),
        ("sys.exit(7 if rank else 0)", 7, (1,)),
        ("sys.exit(9 if rank == 0 else 3)", 3, (1,)),  # rank 0 noticed that the other is gone
        ("sys.exit(4) if rank else (time.sleep(0.2), sys.exit(4))", 4, (0,)),  # both had the same reason, which rank 0 reports
        ("sys.exit(9)", 9, (0, 1)),
        ("sys.exit(143) if rank else (time.sleep(0.2), sys.exit(143))", 143, (0,)),  # stopped as asked, which rank 0 reports
        ("sys.exit(143 if rank else 9)", 143, (1,)),  # one alone was stopped, which the other noticed
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else sys.exit(9)", 9, (1,)),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else " + HANG, 9, (1,)),
        (HANG + " if rank else os.kill(os.getpid(), signal.SIGKILL)", 9, (0,)),  # which rank 0 cannot report
        ("sys.exit(2) if rank == 0 else " + HANG, 2, (0,)),
    ],
)
def test_the_code_is_that_of_the_rank_that_failed_first_and_nothing_hangs(script: str, code: int, culprits: tuple[int | None, ...]) -> None:
    workers = started(script)
    assert workers.wait() == code
    assert workers.culprit in culprits
    assert all(process.poll() is not None for process in workers.processes.values()), "no orphan is left"
    workers.kill()


def test_a_rank_0_that_was_killed_is_reported_for_it() -> None:
    workers = started("sys.exit(9) if rank else os.kill(os.getpid(), signal.SIGKILL)")
    workers.wait()
    assert not workers.has_reported(0)
    assert workers.report(0) == "rank 0 of 2 was killed by SIGKILL (by a person, or by the system for lack of memory)"
    workers.kill()
    refused = started("sys.exit(9 if rank else 2)")
    assert refused.wait() == 2
    assert refused.has_reported(0)
    refused.kill()


def test_each_process_finds_its_place_and_writes_into_its_file() -> None:
    workers = started("print(repr(dict(os.environ)))", size=3)
    assert workers.wait() == 0
    assert workers.output_of(0) == ""
    places = [find_ranks(eval(workers.output_of(rank))) for rank in (1, 2)]
    found = [(place.rank, place.size, place.local_rank, place.local_size, place.node) for place in places]
    assert found == [(1, 3, 1, 3, 0), (2, 3, 2, 3, 0)]
    assert places[0].port == places[1].port > 0
    workers.kill()


def test_signals_are_passed_on(tmp_path: Path) -> None:
    ready = f"open(os.path.join({str(tmp_path)!r}, f'ready-{{rank}}'), 'w').close(); time.sleep(600)"
    workers = started(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); {ready}")
    wait_for(lambda: all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)))
    workers.forward_signal(signal.SIGTERM)
    assert workers.wait() == 143
    workers.kill()


def test_the_pipe_ends_with_the_launcher(tmp_path: Path) -> None:
    """A rank that reads it is reported the launcher's end, however that came. The launcher leaves no files of its own."""
    (own_files := tmp_path / "tmp").mkdir()
    launcher = os.fork()
    if launcher == 0:
        tempfile.tempdir = str(own_files)
        script = f"os.read(int(os.environ['TFKIT_LAUNCHER_PIPE']), 1); open(os.path.join({str(tmp_path)!r}, f'end-{{rank}}'), 'w').close()"
        started(script)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(launcher, 0)
    wait_for(lambda: all((tmp_path / f"end-{rank}").exists() for rank in (0, 1)))
    assert list(own_files.iterdir()) == []
