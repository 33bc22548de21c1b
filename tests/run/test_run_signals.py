"""The first stop signal sets a flag, the second is ignored, the third kills. tests/faults/test_saving.py sends them in saves."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tiny_files import wait_for

from tfkit.errors import Stopped
from tfkit.run.signals import StopSignals

PREPARING = """
import sys, time
from tfkit.errors import Stopped
from tfkit.run.signals import StopSignals
try:
    with StopSignals(acknowledge=print) as signals, signals.at_once():
        print("running", flush=True)
        time.sleep(600)
except Stopped as stopped:
    print(stopped, flush=True)
    sys.exit(stopped.exit_code)
"""


@contextmanager
def child(code: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True, **options)
    try:
        assert process.stdout.readline() == "running\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def stopped(said: str, make: type[StopSignals] = StopSignals) -> Iterator[StopSignals]:
    """A block that the signals end with this message."""
    with make() as signals, pytest.raises(Stopped, match=said):
        yield signals


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_ends_the_run_after_saving_and_the_handlers_before_come_back(name: str, code: int) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with StopSignals() as signals:
        assert not {signal.getsignal(number) for number in numbers} & {*before}
        assert signals.requested is None
        os.kill(os.getpid(), signal.Signals[name])
        assert signals.requested == signal.Signals[name]
        with pytest.raises(Stopped, match=f"^stopped by {name}: saved at step 3$") as caught:
            signals.raise_if_requested("saved at step 3")
    assert caught.value.exit_code == code
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert (signals.requested, signal.getsignal(signal.SIGHUP)) == (None, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_at_once_does_not_wait_and_acknowledges_nothing_else() -> None:
    with child(PREPARING) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (143, "stopped by SIGTERM: nothing had to be saved\n", "")


def test_at_once_holds_after_a_block_within_the_block() -> None:
    """A rank prepares its data in such a nested block before it builds the model."""
    with stopped("^stopped by SIGTERM: outside$") as signals, signals.at_once("outside"):
        with signals.at_once("inside"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")


def test_a_signal_as_a_block_begins_does_not_wait_for_its_end() -> None:
    class Struck(StopSignals):
        def raise_if_requested(self, message: str = "") -> None:
            super().raise_if_requested(message)
            os.kill(os.getpid(), signal.SIGTERM)

    with stopped("SIGTERM: nothing had to be saved", Struck) as signals, signals.at_once():
        pytest.fail("went on")


def test_a_signal_in_a_destructor_is_obeyed_later_and_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot raise an exception in a destructor: it would report the exception, and continue."""
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: reported.append(found.exc_value))

    class Struck:
        def __init__(self, error: Exception | None = None):
            self.error = error

        def __del__(self) -> None:
            if self.error is not None:
                raise self.error
            os.kill(os.getpid(), signal.SIGTERM)

    with stopped("SIGTERM") as signals, signals.at_once():
        Struck(ValueError("a bug"))
        Struck()
        reported.append("went on")
    assert reported.pop() == "went on"
    assert [type(error) for error in reported] == [ValueError]


def test_a_stop_that_a_library_swallows_is_raised_again() -> None:
    with stopped("SIGTERM") as signals, signals.at_once(), contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")


def test_outside_the_main_thread_it_does_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with StopSignals() as signals:
            found.append((signals.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, signal.getsignal(signal.SIGTERM))]


WITHIN_ONE_CALL = """
import hashlib
from tfkit import console
from tfkit.run.signals import StopSignals
with StopSignals(acknowledge=console.acknowledge) as signals:
    print("running", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a quarter of an hour outside of Python, as a large micro-batch is
"""


def test_signals_are_acknowledged_within_a_long_call_and_the_third_ends_it() -> None:
    with child(WITHIN_ONE_CALL) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "SIGTERM: stopping as soon as nothing is lost; a third signal ends at once, without saving\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "SIGINT: stopping already; one more signal ends at once, without saving\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "SIGTERM: ended at once, without saving\n"
        assert process.wait(timeout=300) == 143


WITHIN_A_READ = """
import os, signal, threading, time
from tfkit.errors import Stopped
from tfkit.run.signals import StopSignals
def send():  # to this thread, so that the read of the main thread is not interrupted, as by a signal just before it
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
with StopSignals(acknowledge=print) as signals:
    threading.Thread(target=send).start()
    try:
        with signals.at_once():
            print("running", flush=True)
            os.read(0, 1)
    except Stopped as stopped:
        print(stopped)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
print("ended")
"""


def test_a_signal_just_before_a_read_ends_the_read() -> None:
    """The second signal of the user is the second one still."""
    with child(WITHIN_A_READ) as process:
        assert process.stdout.read() == "stopped by SIGTERM: nothing had to be saved\nended\n"
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 0


def test_the_wake_up_pipe_before_comes_back() -> None:
    threads = threading.active_count()
    with StopSignals(acknowledge=print), StopSignals(acknowledge=print):
        assert threading.active_count() == threads + 2
    assert signal.set_wakeup_fd(-1) == -1
    wait_for(lambda: threading.active_count() == threads)
