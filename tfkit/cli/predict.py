"""The command tfkit predict, which predicts labels, tags, numbers or answers for rows without a label."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit.cli import options
from tfkit.cli.answered_rows import RowCommand, WriteRows, answer_rows
from tfkit.errors import UsageError

if TYPE_CHECKING:
    from tfkit.engine.inference.row_answers import RowAnswers
    from tfkit.engine.inference.session import Session

EXAMPLES = (
    "tfkit predict --from runs/reviews --data new.csv --out labelled.csv",
    'echo "what a film" | tfkit predict --from runs/reviews --data - --all',
)


def predict(
    checkpoint: options.Checkpoint,
    data: Annotated[str, typer.Option(metavar="F", help="The rows: a file, folder or glob; - reads stdin.")],
    overrides: options.Overrides = None,
    columns: options.Columns = None,
    rows: options.AnsweredRows = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="F", help="Write the rows to this file: a table (.csv, .tsv), words with their tags (.conll), or JSON lines (.jsonl)."
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Add the probability of every label.")] = False,
    *,
    precision: options.Precision = "auto",
    execution: options.Execution,
    json: options.Json = False,
) -> None:
    """Predict with a trained model: the class of a row, its tags, a number, the right one of several answers, or a text.

    Rows need no label. They are written in order, with all their fields, `prediction` and `probability`. The columns are those of the
    model's training; name others with --columns "text=NAME". stdin may have JSON lines, csv or tsv with a header
    line, or one text per line; rows from stdin are answered as they arrive. A row that cannot be read is an error; with
    data.on_bad_row=skip it is written with an `error` instead of a prediction.
    """
    from tfkit.recipe.reading.overrides import parse_overrides, scored_overrides

    words, changes = options.split_arguments(overrides or ())
    if words:
        raise UsageError(f"predict does not know {words[0]!r}: give rows as --data F, and changes as key=value")

    def open_predictor() -> "RowAnswers":
        from tfkit.engine.inference.predicting import open_predictor

        given = scored_overrides(options.named_columns(columns), parse_overrides(changes), rows)
        predictor = open_predictor(checkpoint, given, data, all_labels=all_, precision=precision)
        if out is not None:
            from tfkit.engine.inference.predictions_file import CONLL, require_suffix

            of_tags = predictor.settings.objective.trained_for.head == "tags"
            require_suffix(out, of_tags=of_tags)
            predictor.adds_words = of_tags and out.suffix.lower() in CONLL
        return predictor

    answer_rows(RowCommand("predict", "predicting", open_predictor, _lines_file), execution, data, out, as_json=json)


@contextmanager
def _lines_file(out: Path, answers: "RowAnswers", session: "Session") -> Iterator[WriteRows]:
    from tfkit.engine.inference.predictions_file import DELIMITERS, lines_file

    extra_fields = ("error",) if answers.on_bad_row == "skip" else ()
    with lines_file(out, session.stop, "--out", DELIMITERS.get(out.suffix.lower()), extra_fields) as write:
        yield lambda lines: [write(line) for line in lines]
