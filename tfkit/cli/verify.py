"""tfkit verify: every file of a checkpoint, or of all of a run or runs, against its checksum, and a run's energy against its ledgers.

Nothing is changed.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options

if TYPE_CHECKING:
    from tfkit.engine.commands.audit import Audit
    from tfkit.engine.commands.verification import Verdict


def verify(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, or a run folder or a folder of runs with all checkpoints in it.")
    ],
    json: options.Json = False,
) -> None:
    """Compare every file of a checkpoint with its checksum, and the energy of a run with its ledgers. Ends with 4 if any differ."""
    from tfkit.engine.commands.verification import verify_path

    found = verify_path(checkpoint, console)
    with suppress(console.ReaderGone):  # the exit code says it, too
        if json:
            console.json(found.to_dict(), found.error)
        else:
            carbon_lines = (line for audit in found.audits for line in _carbon_lines(audit))
            for line in (*(line for verdict in found.verdicts for line in _verdict_lines(verdict)), *found.notes, *carbon_lines):
                console.result(line)
    if found.error is not None:
        raise found.error


def _carbon_lines(audit: "Audit") -> list[str]:
    if not audit.ledgers and audit.good:
        return [*audit.notes]
    states = ", ".join(f"{name} {state}" for name, state in audit.ledgers.items())
    source = f"the ledgers ({states}; {audit.lines:,} lines)" if audit.ledgers else "the files in the folder"
    first = f"{audit.run}: the energy {'follows' if audit.good else 'does not follow'} from {source}"
    return [first, *(f"  {line}" for line in (*audit.problems, *audit.notes))]


def _verdict_lines(found: "Verdict") -> list[str]:
    """Return a verdict for people: a line, and one for each file that is wrong or extra."""
    size = f" ({found.files} files, {found.bytes:,} bytes)" if found.files else ""
    wrong = [*found.problems, *(f"{found.path}/{name}: not in the manifest; it may be there, and is ignored" for name in found.extra)]
    return [f"{found.path}: {found.verdict}{size}", *(f"  {line}" for line in wrong)]
