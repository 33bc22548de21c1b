"""The sidecar's process as the meter reaches it. Two daemon threads own the pipes, so the caller never waits for one.

No signal handler is installed.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

Take = Callable[[dict[str, Any]], None]


class SidecarProcess:
    """A process that takes commands, and whose messages `take` is called with, in a thread; after the last one `ended` is called."""

    def __init__(self, process: "subprocess.Popen[bytes]", take: Take, ended: Callable[[], None]):
        self._process, self._take, self._ended = process, take, ended
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.pid, self.poll = process.pid, process.poll

    @classmethod
    def start(cls, spec: dict[str, Any], take: Take, ended: Callable[[], None]) -> Self:
        """Start the process, and send it its first message."""
        found = cls(_spawn(), take, ended)
        found.send(spec)
        for target in (found._write, found._read):
            threading.Thread(target=target, name="carbon-meter", daemon=True).start()
        return found

    def send(self, command: dict[str, Any]) -> None:
        """Send a command; it is written as soon as the pipe takes it."""
        self._commands.put(command)

    def end(self) -> None:
        """Kill the process if it is still there."""
        with contextlib.suppress(Exception):
            self._process.kill()
            self._process.wait(1.0)
        self._commands.put(None)

    def _write(self) -> None:
        """Write commands, in a thread that may wait for the pipe, and that ends if the pipe breaks."""
        assert self._process.stdin is not None
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # if the program restored its default, it would end training
        with contextlib.suppress(OSError, ValueError), self._process.stdin as pipe:
            while (command := self._commands.get()) is not None:
                pipe.write(json.dumps(command).encode() + b"\n")
                pipe.flush()

    def _read(self) -> None:
        """Pass on messages, in a thread of its own."""
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._take(json.loads(line))
        self._ended()


def _spawn() -> "subprocess.Popen[bytes]":
    """Start the sidecar, in a session of its own so that Ctrl-C does not reach it, with this process's imports and no thread pools."""
    quiet = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    imports = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    with _signals_held():
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tfkit.carbon.sidecar"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | quiet | {"PYTHONPATH": imports},
            start_new_session=True,
        )


@contextlib.contextmanager
def _signals_held() -> Any:
    """Block the signals that the sidecar ignores until it does: it inherits the mask. Ours arrive a moment later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
