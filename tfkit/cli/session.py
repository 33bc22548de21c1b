"""A command without gradients at work: who leads and who follows, and the session of the engine, stopped by signals."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tfkit import console
from tfkit.cli import crash
from tfkit.cli.options import Execution
from tfkit.cli.ranks import place_in_command
from tfkit.engine.predictions_file import require_writable
from tfkit.engine.session import Session, session
from tfkit.parallel.ranks import ONE_PROCESS, Ranks, find_ranks
from tfkit.run.signals import StopSignals

if TYPE_CHECKING:
    from tfkit.engine.settings import Opened
    from tfkit.recipe.schema.carbon_section import CarbonSection

T = TypeVar("T", bound="Opened")


def open_to_lead(
    opened: Callable[[], T],
    follow: Callable[[T, Session], object],
    how: Execution,
    *,
    alone: str = "",
    out: Path | None = None,
    option: str = "--out",
) -> T | None:
    """Open a checkpoint, and return it if this process leads the command; None if it has done its part.

    A rank beside the first does its part by `follow`. `alone`: why the command is for one process, if it is. Raises UsageError and
    MachineError, before anything is loaded, for a run folder or a file `out` that cannot be written or belongs to the inputs.
    """
    place = place_in_command(how.ranks, lambda work: follow(opened(), work), how.device, how.threads, alone)
    if place is None:
        return None
    if out is not None:
        require_writable(out, option)
    found = opened()
    if out is not None:
        found.inputs.refuse_file(out, option)
    if how.run is not None:
        found.inputs.refuse_folder(how.run, "--run")
    return found


def leading_session(command: str, opened: "Opened", how: Execution) -> AbstractContextManager[Session]:
    """Meter the block, which leads the command that `open_to_lead` has begun."""
    return command_session(command, opened.settings.carbon, how, find_ranks())


@contextmanager
def command_session(command: str, carbon: "CarbonSection", how: Execution = Execution(), ranks: Ranks = ONE_PROCESS) -> Iterator[Session]:
    """Meter the block, under the name of the command; see `engine.session`."""
    crash.set_folder(how.run)
    with (
        StopSignals(acknowledge=console.acknowledge) as signals,
        session(command, carbon, how.run, console, signals, device=how.device, threads=how.threads, words=sys.argv, ranks=ranks) as work,
    ):
        yield work
