"""The agreement between the launcher of ranks on this machine and each of them: torchrun's variables, a pipe, and the place of the output.

The output of a rank beside the first goes into a file of the launcher's until its run folder is known, and then into that.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

_PIPE = "TFKIT_LAUNCHER_PIPE"  # its end says that the launcher is gone
_OUTPUT = "TFKIT_RANK_OUTPUT"  # the file that a rank's output goes to until its run folder is known
_PLACE = ".place"  # beside it: where the output goes since then


def rank_environment(rank: int, size: int, port: int, pipe: int, output: Path | None) -> dict[str, str]:
    """Return the variables of a rank. `pipe`: the reading end of one that the launcher holds open; `output`: None: the launcher's own."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_PORT": port}
    named = {"MASTER_ADDR": "127.0.0.1", _PIPE: str(pipe), _OUTPUT: str(output or "")}
    return {name: str(value) for name, value in places.items()} | named


def read_output(first: Path) -> str:
    """Return what a rank wrote, whose output went into the file `first` at its start."""
    place = first.with_suffix(_PLACE)
    with contextlib.suppress(OSError):
        path = Path(place.read_text(encoding="utf-8")) if place.exists() else first
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def write_into(run: Path) -> None:
    """Let the output of this rank, which a launcher has put into a file of its own, go into the run folder from here on."""
    if not (first := os.environ.get(_OUTPUT)):
        return
    path = run / "ranks" / f"rank-{os.environ['RANK']}.log"
    with contextlib.suppress(OSError):  # else it stays where it is
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
    """Stop this rank, as by SIGTERM, when the process that started all of them is gone: without it nobody would end them."""
    if not (pipe := os.environ.get(_PIPE)):
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(pipe), 1):
                pass
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
