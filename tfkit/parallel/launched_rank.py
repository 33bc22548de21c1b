"""The interface between the launcher and a rank that it starts on this machine: torchrun's variables, a pipe and an output file.

The output of every rank but the first goes to a file of the launcher until the run folder is known, and then into the run folder. That file
has no name, so that nothing is left of a launcher that was killed.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

_PIPE = "TFKIT_LAUNCHER_PIPE"  # closed when the launcher ends
_OUTPUT = "TFKIT_RANK_OUTPUT"  # the descriptor of a rank's output file until its run folder is known
_MOVED = b"\0"  # begins this file once the output goes to another one, whose path follows


def rank_environment(rank: int, size: int, port: int, pipe: int, output: int | None) -> dict[str, str]:
    """Return the variables of a rank, with the descriptors that it inherits. `pipe`: reading end of the launcher's pipe. `output` None:
    write to the launcher's output.
    """
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_PORT": port}
    named = {"MASTER_ADDR": "127.0.0.1", _PIPE: str(pipe), _OUTPUT: "" if output is None else str(output)}
    return {name: str(value) for name, value in places.items()} | named


def read_output(first: int) -> str:
    """Return the output of a rank, which first went to the file with the descriptor `first`."""
    with contextlib.suppress(OSError):
        content = _content(first)
        if content.startswith(_MOVED):
            content = Path(os.fsdecode(content.split(_MOVED)[1])).read_bytes()
        return content.decode(errors="replace")
    return ""


def _content(descriptor: int) -> bytes:
    """Return the content of a file. Its position, which processes share, stays as it is."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def write_into(run: Path) -> None:
    """Redirect the output of this rank from the launcher's file into the run folder."""
    if not (descriptor := os.environ.get(_OUTPUT)):
        return
    first, path = int(descriptor), run / "ranks" / f"rank-{os.environ['RANK']}.log"
    with contextlib.suppress(OSError):  # then the output stays in the launcher's file
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
    """Send SIGTERM to this rank when the launcher ends: nothing else would stop the ranks then."""
    if not (pipe := os.environ.get(_PIPE)):
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(pipe), 1):
                pass
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
