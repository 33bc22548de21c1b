"""The command tfkit verify, which compares files of checkpoints with their checksums, and the energy of runs with its recorded readings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show

if TYPE_CHECKING:
    from tfkit.engine.tools.audit import Audit
    from tfkit.engine.tools.verification import Verdict

EXAMPLES = ("tfkit verify runs/demo",)


def verify(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, or a run folder or a folder of runs with all checkpoints in it.")
    ],
    json: options.Json = False,
) -> None:
    """Compare every file of a checkpoint with its checksum, and the energy of a run with its ledgers. Ends with 4 if any differ."""
    from tfkit.engine.tools.verification import verify_path

    verification = verify_path(checkpoint, console)
    verdict_lines = (line for verdict in verification.verdicts for line in _verdict_lines(verdict))
    carbon_lines = (line for audit in verification.audits for line in _carbon_lines(audit))
    lines = (*verdict_lines, *verification.notes, *carbon_lines)
    show(verification.to_dict(), lambda _: "\n".join(lines), verification.error, as_json=json)
    if verification.error is not None:
        raise verification.error


def _carbon_lines(audit: "Audit") -> list[str]:
    if not audit.ledgers and not audit.problems:
        return [*audit.notes]
    states = ", ".join(f"{name} {state}" for name, state in audit.ledgers.items())
    source = f"the ledgers ({states}; {audit.lines:,} lines)" if audit.ledgers else "the files in the folder"
    first = f"{audit.run}: the energy {'does not follow' if audit.problems else 'follows'} from {source}"
    return [first, *(f"  {line}" for line in (*audit.problems, *audit.notes))]


def _verdict_lines(verdict: "Verdict") -> list[str]:
    """Return a verdict on a checkpoint as lines: a summary, each problem, and each file that manifest.json does not list."""
    size = f" ({verdict.files} files, {verdict.bytes:,} bytes)" if verdict.files else ""
    extra = (f"{verdict.path}/{name}: is not in the manifest, and is ignored" for name in verdict.extra)
    wrong = [*verdict.problems, *extra]
    return [f"{verdict.path}: {verdict.verdict}{size}", *(f"  {line}" for line in wrong)]
