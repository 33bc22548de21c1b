"""The command tfkit embed, which computes a vector for each text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit.cli import options
from tfkit.cli.answered_rows import RowCommand, answer_rows
from tfkit.errors import UsageError

if TYPE_CHECKING:
    from tfkit.engine.inference.row_answers import RowAnswers

EXAMPLES = (
    "tfkit embed --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv --field review --out reviews.npy",
    'echo "what a film" | tfkit embed --from runs/reviews --data -',
)


def embed(
    checkpoint: options.Checkpoint,
    data: Annotated[str, typer.Option(metavar="F", help="The texts: a file, folder or glob; - reads stdin.")],
    overrides: options.Overrides = None,
    rows: options.AnsweredRows = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Write the vectors to this file: to F.npy as one array, to F.parquet with the fields of the rows."),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column of the text; by default the one that the model was trained on, else text."),
    ] = None,
    *,
    precision: options.Precision = "auto",
    execution: options.Execution,
    json: options.Json = False,
) -> None:
    """Embed texts: one vector for each, in order, the mean of the model's last hidden states over the text's tokens.

    Rows come from all files that predict reads, or from stdin, which may have JSON lines, csv or tsv with a header line, or one text per
    line. Without --out each row is a JSON line with its fields and `embedding`. Vectors are float32 and not normalised. The
    states are those after the last norm, in an encoder-decoder those of the encoder. With --precision auto the model computes in float32.
    """
    from tfkit.engine.inference.vectors_file import require_vectors_file, vectors_file
    from tfkit.recipe.reading.overrides import parse_overrides, scored_overrides

    words, changes = options.split_arguments(overrides or ())
    if words:
        raise UsageError(f"embed does not know {words[0]!r}: give texts as --data F, and changes as key=value")
    if out is not None:
        require_vectors_file(out)

    def open_embedder() -> "RowAnswers":
        from tfkit.engine.inference.embedded_rows import open_embedder

        given = scored_overrides({}, parse_overrides(changes), rows)
        return open_embedder(checkpoint, given, data, field=field, needs_all=out is not None, precision=precision)

    command = RowCommand("embed", "embedding", open_embedder, lambda path, answers, _: vectors_file(path, answers.loaded.config.dim))
    answer_rows(command, execution, data, out, as_json=json)
