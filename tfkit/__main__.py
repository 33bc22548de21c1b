"""The entry point of the program. Stop signals are handled from the start, even while the code of the command line is imported."""

import atexit
import gc
import sys
from collections.abc import Sequence

from tfkit.errors import Stopped
from tfkit.run.signals import StopSignals, ignore_signals

# With Python's default threshold, the garbage collector would traverse torch's many objects several times while a command starts (a fifth
# of a second). At exit it would traverse them again, which takes as long as importing torch, so `freeze` then excludes them. Training
# does not need frequent collections, because a step leaves no tensors in reference cycles.
gc.set_threshold(10_000)
atexit.register(gc.freeze)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. `arguments`: the words after `tfkit`; None: those of the process, which then ends."""
    is_process = arguments is None
    if is_process:
        atexit.register(ignore_signals)  # atexit reverses the order: called after what is registered later
    try:
        with StopSignals(("SIGTERM", "SIGHUP")) as signals, signals.at_once():  # Ctrl-C raises KeyboardInterrupt, Python's default
            try:
                from tfkit.cli.program import run

                return run(sys.argv[1:] if arguments is None else list(arguments), signals)
            finally:
                signals.end(for_good=is_process)
    except (Stopped, KeyboardInterrupt) as error:
        from tfkit import console

        return console.fail(str(error), error.exit_code) if isinstance(error, Stopped) else console.fail("interrupted", 130)


if __name__ == "__main__":
    sys.exit(main())
