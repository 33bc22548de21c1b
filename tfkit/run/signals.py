"""SIGTERM, SIGINT and SIGHUP as a flag that the loop polls, so that a run ends between two micro-batches with every whole step saved.

Python runs its handlers between two of its instructions, and a backward pass is one of minutes. So a thread reads the signals from the
pipe into which the interpreter writes their numbers at once (signal.set_wakeup_fd): it acknowledges them, and a third ends the process.
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
from typing import Any, Self

from tfkit.errors import Stopped

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP")  # Windows has no SIGHUP
_GRACE_SECONDS = 1.0  # in which Python's own handler may end the process after a third signal
_SOON_SECONDS = 0.3  # in which Python's own handler runs, unless a long call keeps it waiting
_ACKNOWLEDGED = (
    "stopping as soon as nothing is lost; a third signal ends at once, without saving",
    "stopping already; one more signal ends at once, without saving",
    "ended at once, without saving",
)


class StopSignals:
    """While entered, a first stop signal sets `requested`; a second changes nothing, so that no save is torn; a third kills.

    A signal that is ignored on entry stays ignored (nohup, a shell's background job). Outside the main thread, where Python allows no
    handlers, it does nothing. Inside others it takes their place, and raises Stopped on entry if they have got a signal.

    `acknowledge` is called with a sentence for each signal, at once, in a thread of its own.
    """

    def __init__(self, names: Sequence[str] = _NAMES, acknowledge: Callable[[str], None] | None = None) -> None:
        self._names, self._acknowledge = names, acknowledge
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._outer_pipe = -1
        self._thread: threading.Thread | None = None
        self._struck = False  # a signal ended the block at once
        self._left = threading.Event()
        self._requested: int | None = None
        self._count = 0
        self._at_once = False
        self._previous: dict[int, Any] = {}
        self._outer_hook: Callable[[Any], object] | None = None

    @property
    def requested(self) -> int | None:
        """The number of the first signal, or None."""
        return self._requested

    def should_stop(self) -> bool:
        """Whether a signal came."""
        return self._requested is not None

    def raise_if_requested(self, message: str = "nothing was lost") -> None:
        """Raise Stopped if a signal came; `message` states what was saved and how to resume. Call it after saving."""
        if self._requested is not None:
            raise Stopped(f"stopped by {signal.Signals(self._requested).name}: {message}", self._requested)

    @contextmanager
    def at_once(self, message: str = "nothing had to be saved") -> Iterator[None]:
        """Inside, a first signal raises Stopped where it strikes: for stretches without anything to save, such as preparing data."""
        self.raise_if_requested(message)
        self._at_once, self._message = True, message
        try:
            yield
        except Exception as error:
            if self._requested is not None and not isinstance(error, Stopped):
                self.raise_if_requested(message)  # some library has wrapped the exception in one of its own
            raise
        finally:
            self._at_once = False
        self.raise_if_requested(message)  # some library may have swallowed the exception

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self._names if hasattr(signal, name)):
                previous = signal.getsignal(number)
                if isinstance(outer := getattr(previous, "__self__", None), StopSignals):
                    outer.raise_if_requested()  # some library has swallowed its exception
                if previous is signal.SIG_IGN:
                    continue
                self._previous[number] = previous
                signal.signal(number, self._handle)
            self._outer_hook, sys.unraisablehook = sys.unraisablehook, self._ignored
            if self._acknowledge is not None and self._previous:
                self._watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        if self._outer_hook is not None:
            sys.unraisablehook, self._outer_hook = self._outer_hook, None
        if self._pipe is not None:
            signal.set_wakeup_fd(self._outer_pipe)
            reading, writing = self._pipe
            writing.close()  # after what is in the pipe, this ends the thread's reading
            if self._thread is not None:
                self._thread.join(_GRACE_SECONDS)
            reading.close()
            self._pipe = None
        while self._previous:
            number, previous = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if previous is None else previous)  # None: set by C code, which cannot be put back

    def _ignored(self, unraisable: Any) -> None:
        """Report what Python cannot raise; but not a Stopped that struck in a destructor or a callback, since its request still holds."""
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
        count = 0
        with contextlib.suppress(OSError, ValueError):  # closed: the block is left
            while received := reading.recv(64):
                for number in (one for one in received if one in numbers):
                    if not count:
                        self._wait_for_the_handler()
                    if self._struck:
                        return  # it has ended where the signal struck, and says so
                    self._acknowledge(f"{signal.Signals(number).name}: {_ACKNOWLEDGED[min(count, 2)]}")
                    count += 1
                    if count == 3:
                        self._left.wait(_GRACE_SECONDS)
                        os._exit(128 + number)

    def _wait_for_the_handler(self) -> None:
        end = time.monotonic() + _SOON_SECONDS
        while not self._count and time.monotonic() < end:
            time.sleep(0.005)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._struck = self._struck or (self._at_once and not self._count)
        self._count += 1
        if self._count == 1:
            self._requested = number
            if self._at_once:
                self.raise_if_requested(self._message)
        elif self._count >= 3:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
