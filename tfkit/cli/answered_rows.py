"""Code of predict and embed: read windows (groups of consecutive rows), write each row with its prediction or vector, show a summary."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.cli.options import Execution
from tfkit.cli.results import align_facts
from tfkit.units import format_number_of

if TYPE_CHECKING:
    from tfkit.carbon import Reading
    from tfkit.engine.inference.row_answers import RowAnswers
    from tfkit.engine.inference.session import Session

WriteRows = Callable[[Sequence[Mapping[str, Any]]], object]


@dataclass(frozen=True)
class RowCommand:
    """The parts in which predict and embed differ. `open_file` returns a context that opens the --out file and yields a `WriteRows`."""

    name: str
    doing: str  # the text of the progress bar, such as `predicting`
    open_answers: "Callable[[], RowAnswers]"
    open_file: "Callable[[Path, RowAnswers, Session], AbstractContextManager[WriteRows]]"


def answer_rows(command: RowCommand, execution: Execution, data: str, out: Path | None, *, as_json: bool) -> None:
    """Compute a prediction or vector for each row of `data` ("-": stdin) on all ranks; write it to `out` (None: JSON lines to stdout)."""
    from tfkit.cli.session import command_session, open_as_leader, stdin_bytes
    from tfkit.engine.inference.pipe import Pipe

    def follow(answers: "RowAnswers", session: "Session") -> None:
        rows = answers.open_rows()
        answers.load(session)
        for _ in answers.windows(rows):
            pass

    refuse_ranks = "rows from stdin are answered by one process, as they arrive; give them as a file, --data F" if data == "-" else ""
    if (answers := open_as_leader(command.open_answers, follow, execution, refuse_ranks=refuse_ranks, out=out)) is None:
        return
    with command_session(command.name, answers.settings.carbon, execution) as session:
        with session.stop.at_once():
            pipe = Pipe(stdin_bytes("row", "--data F"), "stdin") if data == "-" else None
            rows = answers.open_rows(pipe)
            answers.load(session)
        try:
            with ExitStack() as stack:
                write = _print_rows if out is None else stack.enter_context(command.open_file(out, answers, session))
                bar = stack.enter_context(console.progress(command.doing, None, "rows"))
                for lines in _interruptible(answers, answers.windows(rows, pipe.is_ready if pipe else lambda: True), session):
                    write(lines)
                    bar.advance(len(lines))
        except BrokenPipeError as error:  # --out is a pipe, and its reader has closed it
            raise console.ReaderGone from error
        for warning in answers.warnings():
            console.warn(warning)
        reading = session.reading(last=as_json)
        result = answers.result(reading) | ({} if out is None else {"out": str(out)})
        session.finish(result)
        _show(result, reading, f"{answers.name}s", as_json=as_json)


def _interruptible(answers: "RowAnswers", windows: Iterator[list[dict[str, Any]]], session: "Session") -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each window with their answers, once they are computed. A signal ends the wait for the next window."""
    while True:
        with session.stop.at_once(f"{format_number_of(answers.counts.rows, 'row')} answered"):  # `next` may wait for a row from stdin
            lines = next(windows, None)
        if lines is None:
            return
        yield lines


def _print_rows(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as JSON lines. Raises ReaderGone if the process that reads stdout has exited."""
    from tfkit.engine.inference.predictions_file import json_line

    for line in lines:
        console.json(json_line(line))


def _show(result: dict[str, Any], reading: "Reading", answers: str, *, as_json: bool) -> None:
    """Show a summary, on stderr if the rows are on stdout. `answers`: the name of what was computed, such as `predictions`."""
    if "out" not in result:
        if reading.status == "ok":
            console.say(f"{format_number_of(result['rows'], 'row')}, {reading.text}")
    elif as_json:
        console.json(result)
    else:
        facts = {
            answers: result["out"],
            "rows": f"{result['rows']:,}",
            "dim": str(result.get("dim", "")),
            "without a prediction": f"{result['bad_rows']:,}" if result["bad_rows"] else "",
            "truncated": f"{result['truncated']:,}" if result["truncated"] else "",
            "checkpoint": result["checkpoint"],
            "energy": reading.text if result["energy_kwh"] is not None else "",
        }
        console.result(align_facts(facts))
