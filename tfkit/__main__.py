"""The program's entry point. It handles stop signals from the start: the command line and its libraries are imported after that."""

import atexit
import gc
import sys
from collections.abc import Sequence

from tfkit.errors import Stopped
from tfkit.run.signals import StopSignals, ignore_signals

# By default the garbage collector visits the objects that torch has created, several times while a command starts, which takes a fifth of
# a second, and once more at exit, which takes as long as importing torch. Training steps leave no tensors that only it could free.
gc.set_threshold(10_000)
atexit.register(gc.freeze)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. `arguments`: None: those of the process, which ends after the command."""
    is_process = arguments is None
    if is_process:
        atexit.register(ignore_signals)  # registered first, so called last
    try:
        with StopSignals(("SIGTERM", "SIGHUP")) as signals, signals.at_once():  # Ctrl-C raises KeyboardInterrupt, as everywhere
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
