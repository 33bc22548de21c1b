"""Start the ranks of a command as processes on this machine, with torchrun's variables, watch them and end them together.

The process that starts them is the launcher, whose end the ranks notice by a pipe. Every rank but rank 0 writes its output to a temporary
file until a run folder is known, and then to a file in that folder. Temporary files have no names, so a killed launcher leaves none.
This module does not import torch.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.05  # between two checks whether processes have ended
_SHOWN_LINES = 60  # how many lines, from the end of a failed rank's output, are reported
# After a rank has failed, its connections close, so the other ranks end by themselves. Those that do not are asked to stop (SIGTERM), so
# that rank 0 can still write its files, and then killed. A killed rank's connections close at once, so the waits are shorter then.
_ASK_SECONDS, _END_SECONDS = 5.0, 15.0
_ASK_AFTER_KILL_SECONDS, _END_AFTER_KILL_SECONDS = 0.0, 4.0
_OTHERS_SECONDS = 4.0  # the time after the end of rank 0 in which the other ranks may end by themselves
_OTHERS_OF_REFUSED_SECONDS = 0.3  # the same after an error of rank 0's own, such as a wrong recipe: unconnected ranks would not notice it
_LOST = 9  # the exit code of PeerLostError
_PIPE = "TFKIT_LAUNCHER_PIPE"  # the environment variable with the descriptor of a pipe that is closed when the launcher ends
_OUTPUT = "TFKIT_RANK_OUTPUT"  # the environment variable with the descriptor of a rank's temporary output file
_MOVED = b"\0"  # the first byte of the temporary file once the output goes to the run folder, followed by the new file's path


@dataclass
class Workers:
    """The processes of the ranks, without rank 0 if this process is rank 0 itself; otherwise rank 0 writes to this process's output."""

    size: int
    port: int
    pipe: int  # the descriptor of the writing end of the pipe by which the ranks notice the launcher's end
    processes: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    outputs: dict[int, IO[bytes]] = field(default_factory=dict)  # the temporary files with the ranks' output, without rank 0's
    ended: dict[int, int] = field(default_factory=dict)  # the exit code by rank, in the order of exits; -N: killed by signal N
    signals: list[int] = field(default_factory=list)  # the signals that were forwarded
    _since: dict[str, float] = field(default_factory=dict)  # the monotonic times of the first failure and of the end of rank 0
    _asked: bool = False  # whether the running ranks were asked to stop (SIGTERM) after a failure
    _killed: set[int] = field(default_factory=set)  # the ranks that `_kill_all` killed

    @classmethod
    def start(cls, command: Sequence[str], size: int, environment: Mapping[str, str] = os.environ, *, first: int = 0) -> "Workers":
        """Start the ranks `first` to `size` - 1, all with `command`, in `environment` with the variables of each rank."""
        reading, writing = os.pipe()
        with socket.socket() as listener:  # finds a port at which nothing listens now
            listener.bind(("127.0.0.1", 0))
            found = cls(size, listener.getsockname()[1], writing)
        try:
            for rank in range(first, size):
                if rank:
                    found.outputs[rank] = tempfile.TemporaryFile()  # noqa: SIM115
                output = found.outputs[rank].fileno() if rank else None
                own = {**environment, **rank_environment(rank, size, found.port, reading, output)}
                found.processes[rank] = _started(command, on_loopback(own), reading, output)
        except BaseException:
            found.kill()
            raise
        finally:
            os.close(reading)
        return found

    def forward_signal(self, number: int) -> None:
        """Forward a signal to all ranks that are still running."""
        self.signals.append(number)
        self._send(number)

    def wait(self) -> int:
        """Wait until all ranks have ended, and return the exit code of the command.

        After a failure or the end of rank 0, ranks that do not end by themselves are killed.
        """
        self._look()
        while len(self.ended) < len(self.processes):
            self._end_the_others()
            time.sleep(_POLL_SECONDS)
            self._look()
        return self.exit_code

    def lost(self, seconds: float = 0.0) -> str | None:
        """Wait until a rank fails, for at most `seconds` seconds. Return the report on that rank; None if no rank has failed."""
        end = time.monotonic() + seconds
        while True:
            self._look()
            if (culprit := self.culprit) is not None:
                return self.report(culprit)
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_SECONDS)

    def report(self, rank: int) -> str:
        """Describe how a rank ended, with the last lines of its output."""
        code = self.ended[rank]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        how += " (by a person, or by the system for lack of memory)" if -code == signal.SIGKILL else ""
        lines = [f"  {line}" for line in self.output_of(rank).splitlines()[-_SHOWN_LINES:]]
        return "\n".join([f"rank {rank} of {self.size} {how}{':' if lines else ''}", *lines])

    def has_reported(self, rank: int) -> bool:
        """Whether a rank has written its error to this process's stderr: rank 0 has, unless a signal killed it."""
        return rank == 0 and self.ended[rank] > 0

    def kill(self) -> None:
        """Kill all ranks that are still running, and close their pipe and outputs."""
        self._send(signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        with contextlib.suppress(OSError):
            os.close(self.pipe)
        for output in self.outputs.values():
            output.close()

    @property
    def culprit(self) -> int | None:
        """The rank whose failure caused those of the others, or rank 0 if it has an error of its own; None if no rank failed."""
        failed = [rank for rank, code in self.ended.items() if code and rank not in self._killed]
        own = [rank for rank in failed if 0 < self.ended[rank] < 128 and self.ended[rank] != _LOST]
        killed = [rank for rank in failed if self.ended[rank] < 0]
        stopped = [rank for rank in failed if self.ended[rank] > 128]
        causes = own or killed or ([0] if 0 in stopped else stopped) or failed
        return 0 if 0 in own else next(iter(causes), None)

    @property
    def exit_code(self) -> int:
        """The exit code of the command: that of `culprit`; 0 if no rank failed.

        If signal N killed the culprit, the exit code is 128 + N if this process forwarded N, else 9, that of a lost rank.
        """
        if self.culprit is None:
            return 0
        code = self.ended[self.culprit]
        if code < 0:
            return 128 - code if -code in self.signals else _LOST
        return code

    def output_of(self, rank: int) -> str:
        """Return the output of a rank; empty for rank 0, which writes to this process's output."""
        return read_output(self.outputs[rank].fileno()) if rank in self.outputs else ""

    def _look(self) -> None:
        for rank, process in self.processes.items():
            if rank not in self.ended and (code := process.poll()) is not None:
                self.ended[rank] = code

    def _end_the_others(self) -> None:
        if (first := self.ended.get(0)) is not None:
            refused = 0 < first < 128 and first != _LOST
            if self._seconds_since("rank 0") >= (_OTHERS_OF_REFUSED_SECONDS if refused else _OTHERS_SECONDS):
                self._kill_all()
            return
        failures = [code for code in self.ended.values() if code and code < 128]  # above 128: stopped by a signal, as requested
        if not failures:
            return
        was_killed = any(code < 0 for code in failures)
        ask, end = (_ASK_AFTER_KILL_SECONDS, _END_AFTER_KILL_SECONDS) if was_killed else (_ASK_SECONDS, _END_SECONDS)
        seconds = self._seconds_since("failure")
        if seconds >= end:
            self._kill_all()
        elif seconds >= ask and not self._asked:
            self._asked = True
            self._send(signal.SIGTERM)

    def _seconds_since(self, event: str) -> float:
        now = time.monotonic()
        return now - self._since.setdefault(event, now)

    def _kill_all(self) -> None:
        self._killed |= {rank for rank, process in self.processes.items() if process.poll() is None}
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)


def _started(command: Sequence[str], environment: Mapping[str, str], pipe: int, output: int | None) -> "subprocess.Popen[bytes]":
    """Start a rank's process, which inherits the descriptors `pipe`, a reading end, and `output` (None: this process's output)."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=None if output is None else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[pipe] if output is None else [pipe, output],
        start_new_session=True,  # so that Ctrl-C reaches it once only, as this process forwards it
    )


def on_loopback(environment: MutableMapping[str, str]) -> MutableMapping[str, str]:
    """Let gloo use the loopback interface, if GLOO_SOCKET_IFNAME names no other: the host name may resolve to another address, or none."""
    if Path("/sys/class/net/lo").exists():
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def rank_environment(rank: int, size: int, port: int, pipe: int, output: int | None) -> dict[str, str]:
    """Return the environment variables of a rank. `pipe`, `output`: the inherited descriptors; `output` None: the launcher's output."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_PORT": port}
    named = {"MASTER_ADDR": "127.0.0.1", _PIPE: str(pipe), _OUTPUT: "" if output is None else str(output)}
    return {name: str(value) for name, value in places.items()} | named


def read_output(first: int) -> str:
    """Return a rank's output. `first`: the descriptor of its temporary file, which names another file if the output was moved."""
    with contextlib.suppress(OSError):
        content = _content(first)
        if content.startswith(_MOVED):
            content = Path(os.fsdecode(content.split(_MOVED)[1])).read_bytes()
        return content.decode(errors="replace")
    return ""


def _content(descriptor: int) -> bytes:
    """Return the content of a file without changing its position, which the launcher and the rank share."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def write_into(run: Path) -> None:
    """Redirect the output of this rank from its temporary file to a file in the run folder `run`."""
    if not (descriptor := os.environ.get(_OUTPUT)):
        return
    first, path = int(descriptor), run / "ranks" / f"rank-{os.environ['RANK']}.log"
    with contextlib.suppress(OSError):  # after an error, the output stays in the temporary file
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            if not (content := _content(first)).startswith(_MOVED):
                file.write(content)
                file.flush()
            for stream in (sys.stdout, sys.stderr):
                os.dup2(file.fileno(), stream.fileno())
        os.ftruncate(first, 0)
        os.pwrite(first, _MOVED + os.fsencode(path.absolute()), 0)


def watch_launcher() -> None:
    """Start a thread that sends SIGTERM to this rank when the launcher ends, since nothing else would stop the rank."""
    if not (pipe := os.environ.get(_PIPE)):
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(pipe), 1):
                pass
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
