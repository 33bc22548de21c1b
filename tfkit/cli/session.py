"""Code of commands that do not train: open a session (energy meter, stop signals), open a checkpoint on each rank, read stdin as bytes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfkit import console
from tfkit.cli.options import Execution
from tfkit.cli.program import set_crash_folder, start_ranks
from tfkit.engine.inference.predictions_file import require_writable
from tfkit.engine.inference.session import Session, follow_command, open_session
from tfkit.engine.training_run.ranks_of_command import ONE_PROCESS, find_ranks
from tfkit.errors import DataError, UsageError
from tfkit.run.signals import StopSignals

if TYPE_CHECKING:
    from tfkit.engine.request.evaluation_settings import OpenedCheckpoint
    from tfkit.recipe.schema.carbon_section import CarbonSection


def stdin_bytes(content: str, remedy: str) -> Any:
    """Return stdin as an unbuffered byte stream. If stdin is closed, raises DataError, with `content` and `remedy` in the message."""
    if sys.stdin is None:
        raise DataError(f"stdin: closed, so no {content} can be read from it; give {remedy}")
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


T = TypeVar("T", bound="OpenedCheckpoint")


def open_as_leader(
    open_checkpoint: Callable[[], T],
    follow: Callable[[T, Session], object],
    execution: Execution,
    *,
    refuse_ranks: str = "",
    out: Path | None = None,
    option: str = "--out",
) -> T | None:
    """Open and return a checkpoint if this process is rank 0, which leads the command; None if the process has nothing left to do.

    Ranks other than rank 0 call `follow` before they return None. `refuse_ranks`: the reason why the command cannot have several ranks;
    empty if it can. Before the model is loaded, raises MachineError if the file `out` cannot be written, and UsageError
    if `out` or the run folder is, or lies in, an input. `option`: the command's option that gives `out`.
    """
    size, place = execution.ranks or find_ranks().size, (execution.device, execution.threads)
    if refuse_ranks and size > 1:
        raise UsageError(f"--ranks {size}: {refuse_ranks}")
    if (ranks := start_ranks(execution.ranks)) is None:
        return None
    if not ranks.is_first:
        console.set_quiet(True)
        with StopSignals(acknowledge=console.acknowledge) as signals:
            follow_command(ranks, signals, *place, lambda session: follow(open_checkpoint(), session))
        return None
    if out is not None:
        require_writable(out, option)
    opened = open_checkpoint()
    if out is not None:
        opened.inputs.refuse_output(out, option, execution.run)
    if execution.run is not None:
        opened.inputs.refuse_folder(execution.run, "--run")
    return opened


@contextmanager
def command_session(command: str, carbon: "CarbonSection", execution: Execution | None = None) -> Iterator[Session]:
    """Yield the session of a command (engine/inference/session.py), which measures the energy of the `with` block.

    `execution`: the options of a command that this process leads as rank 0; None: the command runs in one process, without a run folder.
    """
    ranks, options = (ONE_PROCESS, Execution()) if execution is None else (find_ranks(), execution)
    set_crash_folder(options.run)
    with (
        StopSignals(acknowledge=console.acknowledge) as signals,
        open_session(
            command, carbon, options.run, console, signals, device=options.device, threads=options.threads, words=sys.argv, ranks=ranks
        ) as session,
    ):
        yield session
