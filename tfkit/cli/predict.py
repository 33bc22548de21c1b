"""tfkit predict: a model's labels, tags, numbers or answers for rows without a label."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.text_columns import align_facts
from tfkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from tfkit.carbon import Reading
    from tfkit.engine.answers.predicting import Predictor
    from tfkit.engine.pipe import Pipe
    from tfkit.engine.session import Session


def predict(
    checkpoint: options.Checkpoint,
    data: Annotated[str, typer.Option(metavar="F", help="The rows: a file, folder or glob; - reads stdin.")],
    overrides: options.Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Write the rows to this file: a table if it ends in .csv or .tsv, otherwise JSON lines."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Add the probability of every label.")] = False,
    *,
    precision: options.Precision = "auto",
    execution: options.Execution,
    json: options.Json = False,
) -> None:
    """Predict with a trained model: the class of a row, its tags, a number, the right one of several answers, or a text.

    Rows need no label. They are written in order, with all their fields, `prediction` and `probability`. The columns are those of the
    model's training; map others with data.validation.0.columns={text: NAME}. stdin may have JSON lines, csv or tsv with a header
    line, or one text per line; rows from stdin are answered as they arrive. A row that cannot be read is an error; with
    data.on_bad_row=skip it is written with an `error` instead of a prediction.
    """
    from tfkit.cli.session import leading_session, open_as_leader
    from tfkit.engine.settings import split_arguments

    words, changes = split_arguments(overrides or ())
    if words:
        raise UsageError(f"predict does not know {words[0]!r}: give rows as --data F, and changes as key=value")

    def open_predictor() -> "Predictor":
        from tfkit.engine.answers.predicting import Predictor

        return Predictor(checkpoint, changes, data, all_labels=all_, precision=precision)

    def follow(predictor: "Predictor", work: "Session") -> None:
        rows = predictor.open_rows()
        predictor.load(work)
        for _ in predictor.answers(rows):
            pass

    refuse_ranks = "rows from stdin are answered by one process, as they arrive; give them as a file, --data F" if data == "-" else ""
    if (predictor := open_as_leader(open_predictor, follow, execution, refuse_ranks=refuse_ranks, out=out)) is None:
        return
    with leading_session("predict", predictor, execution) as work:
        with work.stop.at_once():
            pipe = _stdin_pipe() if data == "-" else None
            rows = predictor.open_rows(pipe)
            predictor.load(work)
        try:
            _write(predictor, predictor.answers(rows, pipe.is_ready if pipe else lambda: True), out, work)
        except BrokenPipeError as error:  # of --out
            raise console.ReaderGone from error
        for warning in predictor.warnings():
            console.warn(warning)
        reading = work.reading(last=json)
        result = predictor.result(reading) | ({} if out is None else {"out": str(out)})
        work.finish(result)
        _show(result, reading, as_json=json)


def _stdin_pipe() -> "Pipe":
    from tfkit.engine.pipe import Pipe

    if sys.stdin is None:
        raise DataError("stdin: closed, so no row can be read from it; give --data F")
    return Pipe(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), "stdin")


def _write(predictor: "Predictor", answers: Iterator[list[dict[str, Any]]], out: Path | None, work: "Session") -> None:
    """Write the lines of each window as soon as it is answered. Raises ReaderGone or BrokenPipeError if the reader is gone."""
    from tfkit.engine.predictions_file import DELIMITERS, lines_file

    with ExitStack() as stack:
        write: Callable[[dict[str, Any]], None] = _print_line
        if out is not None:
            extra_fields = ("error",) if predictor.on_bad_row == "skip" else ()
            write = stack.enter_context(lines_file(out, work.stop, "--out", DELIMITERS.get(out.suffix.lower()), extra_fields))
        bar = stack.enter_context(console.progress("predicting", None, "rows"))
        while True:
            with work.stop.at_once(f"{predictor.counts.rows:,} rows were answered"):  # `next` may wait for a row
                lines = next(answers, None)
            if lines is None:
                return
            for line in lines:
                write(line)
            bar.advance(len(lines))


def _print_line(line: dict[str, Any]) -> None:
    from tfkit.engine.predictions_file import json_line

    console.json(json_line(line))


def _show(result: dict[str, Any], reading: "Reading", *, as_json: bool) -> None:
    """Show a summary: on stderr if the rows themselves are the result."""
    if "out" not in result:
        if reading.status == "ok":
            console.say(f"{result['rows']:,} rows, {reading.footprint}")
    elif as_json:
        console.json(result)
    else:
        console.result(_table(result, reading))


def _table(result: dict[str, Any], reading: "Reading") -> str:
    """Return the result as text for people."""
    rows = {
        "predictions": result["out"],
        "rows": f"{result['rows']:,}",
        "without a prediction": f"{result['bad_rows']:,}" if result["bad_rows"] else "",
        "truncated": f"{result['truncated']:,}" if result["truncated"] else "",
        "checkpoint": result["checkpoint"],
        "energy": reading.footprint if result["energy_kwh"] is not None else "",
    }
    return align_facts(rows)
