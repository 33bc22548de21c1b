"""A run beside other busy processes, by faked clocks: reported once, with the number of threads that are free."""

from pathlib import Path

import pytest

from tfkit.engine.training_run import contention
from tfkit.engine.training_run.contention import Contention, busy_neighbours


class Machine:
    """Clocks and a load that a test sets."""

    def __init__(self, patch: pytest.MonkeyPatch, load: float, used: float, threads: int = 4):
        self.now, self.processor_seconds, self.used = 0.0, 0.0, used
        self.warnings: list[str] = []
        patch.setattr("time.perf_counter", lambda: self.now)
        patch.setattr("time.process_time", lambda: self.processor_seconds)
        patch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
        patch.setattr("torch.get_num_threads", lambda: threads)
        self.watch = Contention(Path("runs/x"), self.warnings.append)

    def steps(self, count: int, between: float = 0.0) -> list[str]:
        """Pass the time of steps of two seconds, and before each some that another thing took, without a processor; return the warnings."""
        for _ in range(count):
            self.now += between + 2
            self.processor_seconds += self.used * 2
            self.watch.stepped(2)
        return self.warnings


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "usable_cores", lambda: 4)
    monkeypatch.setattr("os.cpu_count", lambda: 4)


def test_it_is_reported_once_with_the_threads_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, load=5.2, used=3.1)
    assert not machine.steps(29)
    (warning,) = machine.steps(100)
    assert "at a load of 5.2 on 4 cores this run's 4 threads get the time of 3.1," in warning
    assert "`tfkit resume runs/x --threads 3`" in warning


@pytest.mark.parametrize(
    ("load", "used", "threads"),
    [
        (4.2, 3.1, 4),  # alone: its own threads, which wait for each other
        (9.0, 3.9, 4),  # others wait, and this run does not
        (9.0, 0.5, 1),  # nothing to give up
        (9.0, 1.9, 2),  # both threads have their core
    ],
)
def test_no_contention(load: float, used: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Machine(monkeypatch, load, used, threads).steps(200)


def test_time_between_steps_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute on the disk, without a processor, is no contention."""
    machine = Machine(monkeypatch, load=6.0, used=4.0)
    assert not machine.steps(100, between=60)
    machine.used = 2.0
    (warning,) = machine.steps(100, between=0.1)
    assert "--threads 2`" in warning


def test_a_system_without_a_load(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, load=9.0, used=0.5)
    monkeypatch.delattr("os.getloadavg")
    machine.watch = Contention(Path("runs/x"), pytest.fail)
    machine.steps(200)


@pytest.mark.parametrize(
    ("average", "ready", "busy"),
    [
        (3.1, "4/900", 3),
        (2.0, "1/900", 0),  # of processes that have just ended
        (0.1, "3/900", 0),  # of processes that have just begun
        (1.6, "9/900", 2),
        (1.4, "nonsense", 1),  # another system
    ],
)
def test_neighbours_were_busy_for_a_minute_and_still_are(average: float, ready: str, busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    monkeypatch.setattr(Path, "read_text", lambda path, **how: f"{average} 0.00 0.00 {ready} 1\n")
    assert busy_neighbours() == busy
    monkeypatch.delattr("os.getloadavg")
    assert busy_neighbours() == 0
