"""The interface between the launcher and a rank that it starts on this machine: torchrun's variables, a pipe and an output file.

The output of every rank but the first goes to a temporary file of the launcher until the run folder is known, and then into the run folder.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

_PIPE = "TFKIT_LAUNCHER_PIPE"  # closed when the launcher ends
_OUTPUT = "TFKIT_RANK_OUTPUT"  # the output file of a rank until its run folder is known
_PLACE = ".place"  # beside the output file: names the file in the run folder


def rank_environment(rank: int, size: int, port: int, pipe: int, output: Path | None) -> dict[str, str]:
    """Return the variables of a rank. `pipe`: reading end of the launcher's pipe. `output` None: write to the launcher's output."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_PORT": port}
    named = {"MASTER_ADDR": "127.0.0.1", _PIPE: str(pipe), _OUTPUT: str(output or "")}
    return {name: str(value) for name, value in places.items()} | named


def read_output(first: Path) -> str:
    """Return the output of a rank, which first went to the file `first`."""
    place = first.with_suffix(_PLACE)
    with contextlib.suppress(OSError):
        path = Path(place.read_text(encoding="utf-8")) if place.exists() else first
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def write_into(run: Path) -> None:
    """Redirect the output of this rank from the launcher's temporary file into the run folder."""
    if not (first := os.environ.get(_OUTPUT)):
        return
    path = run / "ranks" / f"rank-{os.environ['RANK']}.log"
    with contextlib.suppress(OSError):  # then the output stays in the temporary file
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(Path(first).read_bytes())
            file.flush()
            Path(first).write_bytes(b"")
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
        Path(first).with_suffix(_PLACE).write_text(str(path), encoding="utf-8")


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
