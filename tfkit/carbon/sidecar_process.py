"""The meter's connection to the sidecar. Two daemon threads own the pipes, so the caller never waits for them.

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

Receive = Callable[[dict[str, Any]], None]


class SidecarProcess:
    """The sidecar's process. `receive` is called with each of its messages, and `ended` after the last one, both in a thread."""

    def __init__(self, process: "subprocess.Popen[bytes]", receive: Receive, ended: Callable[[], None]):
        self._process, self._receive, self._ended = process, receive, ended
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.pid, self.poll = process.pid, process.poll

    @classmethod
    def start(cls, spec: dict[str, Any], receive: Receive, ended: Callable[[], None]) -> Self:
        """Start the process, and send it the spec."""
        sidecar = cls(_spawn(), receive, ended)
        sidecar.send(spec)
        for target in (sidecar._write, sidecar._read):
            threading.Thread(target=target, name="carbon-meter", daemon=True).start()
        return sidecar

    def send(self, command: dict[str, Any]) -> None:
        """Queue a command, which is written as soon as the pipe accepts it."""
        self._commands.put(command)

    def end(self) -> None:
        """Kill the process if it is still running."""
        with contextlib.suppress(Exception):
            self._process.kill()
            self._process.wait(1.0)
        self._commands.put(None)

    def _write(self) -> None:
        """Write the queued commands. This thread may wait for the pipe, and ends if the pipe breaks."""
        assert self._process.stdin is not None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # it would end training if its default action was restored
        with contextlib.suppress(OSError, ValueError), self._process.stdin as pipe:
            while (command := self._commands.get()) is not None:
                pipe.write(json.dumps(command).encode() + b"\n")
                pipe.flush()

    def _read(self) -> None:
        """Read the messages, in a thread, until the pipe ends."""
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._receive(json.loads(line))
        self._ended()


def _spawn() -> "subprocess.Popen[bytes]":
    """Start the sidecar in a new session, so that it does not receive Ctrl-C, with this process's import path and without thread pools."""
    quiet = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    imports = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    # The signals that the sidecar ignores are blocked while it starts, since it inherits the mask. This process receives them afterwards.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tfkit.carbon.sidecar"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | quiet | {"PYTHONPATH": imports},
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
