"""A session of the engine as a command holds it: reports go to the console, and stop signals end it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tfkit import console
from tfkit.cli import crash
from tfkit.engine.session import Session, session
from tfkit.parallel.ranks import ONE_PROCESS, Ranks
from tfkit.run.signals import StopSignals

if TYPE_CHECKING:
    from tfkit.recipe.schema.carbon_section import CarbonSection


@contextmanager
def command_session(
    command: str, carbon: "CarbonSection", run: Path | None = None, threads: int | None = None, ranks: Ranks = ONE_PROCESS
) -> Iterator[Session]:
    """Meter the block, under the name of the command; see `engine.session`."""
    crash.set_folder(run)
    with (
        StopSignals(acknowledge=console.acknowledge) as signals,
        session(command, carbon, run, console, signals, threads=threads, words=sys.argv, ranks=ranks) as work,
    ):
        yield work
