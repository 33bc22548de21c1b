"""Time whole processes: `tfkit --help` and `tfkit check` beside a bare Python and the import of typer alone."""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

PYTHON = sys.executable
COMMANDS = {
    "python -c pass": [PYTHON, "-c", "pass"],
    "import typer": [PYTHON, "-c", "import typer"],
    "import pydantic": [PYTHON, "-c", "import pydantic"],
    "tfkit --help": [PYTHON, "-m", "tfkit", "--help"],
    "tfkit recipes": [PYTHON, "-m", "tfkit", "recipes"],
    "tfkit check gpt2-stdlib": [PYTHON, "-m", "tfkit", "check", "gpt2-stdlib"],
}


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command without output; return its wall time in seconds and its peak memory in MiB."""
    nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}; run it by hand to see why")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return seconds, usage.ru_maxrss / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="processes a command, after one to warm up (default 9)")
    runs = parser.parse_args().runs
    os.chdir(Path(__file__).parent)  # so that -m finds the installed tfkit
    for command in COMMANDS.values():
        measure(command)
    # In rounds, so that a drift of the machine affects every command.
    rounds = [{name: measure(command) for name, command in COMMANDS.items()} for _ in range(runs)]
    print("| command | median s | least s | peak MiB |\n| --- | --- | --- | --- |")
    for name in COMMANDS:
        seconds = [measured[name][0] for measured in rounds]
        peak = max(measured[name][1] for measured in rounds)
        print(f"| `{name}` | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
