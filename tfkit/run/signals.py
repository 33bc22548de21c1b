"""SIGTERM, SIGINT and SIGHUP as a flag that the training loop polls, so that a run ends between two micro-batches with every complete step
saved.

Python runs signal handlers between two bytecode instructions, and a backward pass, which is a single instruction, can take minutes. So a
thread reads from the pipe to which the interpreter writes signal numbers immediately (signal.set_wakeup_fd). The thread acknowledges
signals, and after a third one ends the process.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, cast

from tfkit.errors import Stopped

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP")
_GRACE_SECONDS = 1.0  # the time that Python's handler has to end the process after a third signal, before the thread does
_HANDLER_SECONDS = 0.3  # the wait for Python's handler before a signal is acknowledged; a long call may delay the handler further
_ACKNOWLEDGEMENTS = (
    "stopping as soon as nothing is lost; a third signal ends at once, without saving",
    "stopping already; one more signal ends at once, without saving",
    "ended at once, without saving",
)


@contextmanager
def forwarded(forward: Callable[[int], None], numbers: Sequence[int] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) -> Iterator[None]:
    """A context in which `forward` is called with each signal received, if it is in `numbers`. Signals ignored on entry stay ignored."""
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = [(number, signal.signal(number, lambda received, frame: forward(received))) for number in handled]
    try:
        yield
    finally:
        for number, before in previous:
            signal.signal(number, before)


def ignore_signals() -> None:
    """Ignore stop signals from now on. Call this when the exit code is final and Python, which is shutting down, calls no more handlers."""
    for name in _NAMES:
        signal.signal(signal.Signals[name], signal.SIG_IGN)


class StopSignals:
    """A context in which a first stop signal sets `requested`, a second is ignored, so that no save is torn, and a third kills the process.

    A signal that is ignored on entry stays ignored (nohup, a shell's background job). Outside the main thread, where Python allows no
    handlers, the context does nothing. An inner StopSignals replaces the handlers of the outer one, and raises Stopped on entry if the
    outer one has received a signal. `acknowledge` is called in a thread with a sentence for each signal that raises no Stopped.
    """

    def __init__(self, names: Sequence[str] = _NAMES, acknowledge: Callable[[str], None] | None = None) -> None:
        self._names, self._acknowledge = names, acknowledge
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._outer_pipe = -1
        self._thread: threading.Thread | None = None
        self._raised = False  # whether the first signal raised Stopped in `at_once`
        self._repeated = False  # whether the thread has sent the first signal again, and the handler has not run since
        self._exited = threading.Event()
        self._requested: int | None = None
        self._count = 0
        self._at_once, self._message = False, ""
        self._previous: dict[int, Any] = {}
        self._outer_hook: Callable[[Any], object] | None = None

    @property
    def requested(self) -> int | None:
        """The number of the first signal; None if there was none."""
        return self._requested

    def should_stop(self) -> bool:
        """Return whether a signal was received."""
        return self._requested is not None

    def raise_if_requested(self, message: str = "nothing was lost") -> None:
        """Raise Stopped if a signal was received; `message`: what was saved, and how to resume. Call this after saving."""
        if self._requested is not None:
            raise Stopped(f"stopped by {signal.Signals(self._requested).name}: {message}", self._requested)

    @contextmanager
    def at_once(self, message: str = "nothing had to be saved") -> Iterator[None]:
        """A context in which a first signal raises Stopped immediately, for code without anything to save, such as data preparation."""
        outer = self._at_once, self._message
        self._at_once, self._message = True, message
        try:
            self.raise_if_requested(message)  # a signal may have come before the block; for a signal within it, the handler raises
            yield
        except Exception as error:
            if self._requested is not None and not isinstance(error, Stopped):
                self.raise_if_requested(message)  # a library has wrapped the Stopped in an exception of its own
            raise
        finally:
            self._at_once, self._message = outer
        self.raise_if_requested(message)  # a library may have swallowed the Stopped

    def end(self, *, for_good: bool) -> None:
        """Count signals from now on as if a first one had come: ignore a second, and let a third kill the process. `for_good`: keep these
        handlers after the context is left, until the process has ended.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._at_once, self._count = False, max(self._count, 1)
        for number in (signal.Signals[name] for name in _NAMES):
            if (previous := signal.getsignal(number)) is not signal.SIG_IGN:
                self._previous.setdefault(number, previous)
                signal.signal(number, self._handle)
        if for_good:
            self._previous.clear()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.Signals[name] for name in self._names):
                previous = signal.getsignal(number)
                if isinstance(outer := getattr(previous, "__self__", None), StopSignals):
                    outer.raise_if_requested()  # a library may have swallowed the exception that the outer handler raised
                if previous is signal.SIG_IGN:
                    continue
                self._previous[number] = previous
                signal.signal(number, self._handle)
            self._outer_hook, sys.unraisablehook = sys.unraisablehook, self._report_unraisable
            if self._acknowledge is not None and self._previous:
                self._watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exited.set()
        if self._outer_hook is not None:
            sys.unraisablehook, self._outer_hook = self._outer_hook, None
        if self._pipe is not None:
            signal.set_wakeup_fd(self._outer_pipe)
            reading, writing = self._pipe
            writing.close()  # the thread ends when it has read what is in the pipe
            if self._thread is not None:
                self._thread.join(_GRACE_SECONDS)
            reading.close()
            self._pipe = None
        while self._previous:
            number, previous = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if previous is None else previous)  # None: a handler of C code, which cannot be restored

    def _report_unraisable(self, unraisable: Any) -> None:
        """Report an exception that Python cannot raise, as in a `__del__`; not a Stopped, since the training loop polls `requested`."""
        if not isinstance(unraisable.exc_value, Stopped) and self._outer_hook is not None:
            self._outer_hook(unraisable)

    def _watch(self) -> None:
        """Start the thread that acknowledges signals."""
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        self._pipe, self._outer_pipe = (reading, writing), signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._acknowledge_all, args=(reading, {*self._previous}), name="signals", daemon=True)
        self._thread.start()

    def _acknowledge_all(self, reading: socket.socket, numbers: set[int]) -> None:
        assert self._acknowledge is not None
        count, is_repeated = 0, False
        with contextlib.suppress(OSError, ValueError):  # the socket is closed on exit
            while received := reading.recv(64):
                for number in (number for number in received if number in numbers):
                    if is_repeated:
                        is_repeated = False
                        continue
                    if not count:
                        is_repeated = self._wait_for_handler(number)
                    if self._raised:
                        return  # the message of the Stopped reports the signal
                    self._acknowledge(f"{signal.Signals(number).name}: {_ACKNOWLEDGEMENTS[min(count, 2)]}")
                    count += 1
                    if count == 3:
                        self._exited.wait(_GRACE_SECONDS)
                        os._exit(128 + number)

    def _wait_for_handler(self, number: int) -> bool:
        """Wait until Python's handler has run. If it does not run in time, send the signal again, and return True.

        The first signal does not interrupt a system call that began to wait for input just after it; the repeated signal does.
        """
        if self._is_handled():
            return False
        self._repeated = True
        signal.pthread_kill(cast(int, threading.main_thread().ident), number)
        self._is_handled()
        return True

    def _is_handled(self) -> bool:
        """Wait for Python's handler for at most _HANDLER_SECONDS, and return whether it has run."""
        end = time.monotonic() + _HANDLER_SECONDS
        while not self._count and time.monotonic() < end:
            time.sleep(0.005)
        return self._count > 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_repetition, self._repeated = self._repeated and self._count > 0, False
        if is_repetition:
            return
        self._raised = self._raised or (self._at_once and not self._count)
        self._count += 1
        if self._count == 1:
            self._requested = number
            if self._at_once:
                self.raise_if_requested(self._message)
        elif self._count >= 3:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Interrupts(StopSignals):
    """A context in which Ctrl-C or `asked` requests a stop at a point where nothing is lost. A third Ctrl-C raises KeyboardInterrupt."""

    def __init__(self, asked: Callable[[], bool]):
        super().__init__(("SIGINT",))
        self._asked = asked

    def should_stop(self) -> bool:
        """Return whether Ctrl-C was pressed or the callable `asked` returns True."""
        return super().should_stop() or self._asked()

    def raise_if_requested(self, message: str = "nothing was lost") -> None:
        """Raise Stopped if `should_stop` returns True; `message`: what was saved, and how to resume."""
        super().raise_if_requested(message)
        if self._asked():
            raise Stopped(f"stopped: {message}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._count == 2:  # a third signal kills the process of a command; here it would kill the kernel of a notebook
            raise KeyboardInterrupt
        super()._handle(number, frame)


@contextmanager
def interrupts(should_stop: Callable[[], bool] | None) -> Iterator[Interrupts]:
    """A context that defers Ctrl-C. On exit after Ctrl-C, it raises KeyboardInterrupt, with the message of the Stopped that Ctrl-C caused,
    if any. `should_stop`: returns True to stop for another reason, which raises Stopped; None: there is no other reason.
    """
    messages = []
    with Interrupts(should_stop or (lambda: False)) as stop:
        try:
            yield stop
        except Stopped as stopped:
            if stop.requested is None:
                raise
            messages.append(str(stopped))
    if stop.requested is not None:  # also if Ctrl-C came too late to stop anything
        raise KeyboardInterrupt(*messages)
