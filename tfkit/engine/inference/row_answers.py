"""The common part of predict and embed: rows are read in windows (up to 32 batches), and a checkpoint answers them in their order."""

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, cast

from tfkit.carbon import Footprint, Reading
from tfkit.data import Encoded
from tfkit.data.columns.rows import BadRow, Row, Skipped, describe_skipped, skip
from tfkit.data.formats.file_content import BOM, Content
from tfkit.data.formats.readers import Layout
from tfkit.data.sources.derived_rows import draw, select
from tfkit.data.sources.open_sources import open_source
from tfkit.data.sources.prediction_rows import PredictionColumns, PredictionInput, prediction_rows, prediction_stream
from tfkit.engine.inference.pipe import Pipe
from tfkit.engine.inference.session import Session, open_model
from tfkit.engine.request.call_arguments import require_iterable
from tfkit.engine.request.evaluation_settings import EvaluationSettings, settings_inputs
from tfkit.errors import DataError, UsageError, argument
from tfkit.parallel.rank_map import RankMap, serial_map
from tfkit.recipe.schema.data_sections import SourceSection

if TYPE_CHECKING:
    from tfkit.generation.answer_precision import Precision
    from tfkit.hub import Loaded

_NAME = re.compile(r"[A-Za-z_]\w*")  # a column's name; a first line of only such names, separated by a delimiter, is a header
_MOST_BATCHES = 32  # the largest number of batches in a window; rows are sorted by length only within their window
_MOST_CHARACTERS = 1 << 24  # a window ends once its texts have this many characters


@dataclass
class Counts:
    """Counts over the rows so far; only `rows` and `skipped` count those without an answer."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    first_truncated: str = ""  # place (such as file and line) of the first truncated row
    skipped: dict[str, Skipped] = field(default_factory=dict)  # rows without an answer, by reason
    replaced: set[str] = field(default_factory=set)  # names of the rows' fields that were replaced by fields of the answers


class RowAnswers(ABC):
    """Answers rows with a checkpoint. The subclasses are Predictor and Embedder.

    The model is loaded by `load`, or passed to `use`. `precision`: `load` replaces "auto" by the precision that it chooses.
    """

    name: ClassVar[str]  # the name of the answer's field, whose value is None for a row that cannot be read
    adds_words = False  # whether each row also gets a field `tokens` with its words, whatever column they were read from

    def __init__(self, checkpoint: str | Path, folder: Path, settings: EvaluationSettings, precision: "Precision"):
        self.folder, self.settings, self.precision = folder, settings, precision
        if settings.data is None or not isinstance(settings.data.validation, list):
            raise UsageError(f"{argument('data')}: the override of data.validation replaces the given rows; leave this override out")
        self.sources, self.on_bad_row, self.drawn = settings.data.validation, settings.data.on_bad_row, settings.data.rows
        self.inputs = settings_inputs(settings, folder, checkpoint)
        self.counts = Counts()

    @abstractmethod
    def columns(self, named: Mapping[str, str | list[str]]) -> PredictionColumns:
        """Return the columns to read from a source. `named`: the columns that the source's entry in data.validation names, by role."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return each row encoded as an example, or the reason why the row cannot be read."""

    @abstractmethod
    def answer(self, rows: Sequence[Any], encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """Return the fields of each row's answer. `self.deal` distributes the batches over the ranks."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the fields that only the subclass's command, `tfkit predict` or `tfkit embed`, has in its result."""

    def open_rows(self, pipe: Pipe | None = None) -> Iterator[PredictionInput]:
        """Open the sources, and return an iterator over their rows. `pipe`: the stream that is read for the source "-". Raises DataError if
        a source cannot be read, UsageError if data.rows, a number of rows to draw, is set with the source "-".
        """
        return chain.from_iterable([self._open(section, pipe) for section in self.sources])

    def given_rows(self, rows: Iterable[Mapping[str, Any] | str] | Mapping[str, Any] | str) -> Iterator[PredictionInput]:
        """Yield the rows passed to a call in Python, mappings or texts. Raises UsageError for other types, and if data.rows is set."""
        if self.drawn is not None:
            raise UsageError("data.rows: all rows of a call are answered, and none are drawn; select them before the call, as rows[:10]")
        given = [rows] if isinstance(rows, Mapping | str) else rows
        each = require_iterable(given, "predict takes rows", "a list of them, as table.to_dict('records') of pandas")
        columns = self._source_columns(self.sources[0])
        for number, row in enumerate(each, 1):
            if not isinstance(row, Mapping | str):
                raise UsageError(f"row {number}: a row is a dict or a text, and this is of type {type(row).__name__}")
            yield columns.asked(row, f"row {number}")

    def load(self, session: Session) -> None:
        """Load the model. Raises ModelError for a model that does not fit the objective."""
        opened = open_model(self.folder, session, self.inputs, self.precision)
        self.precision = opened.precision
        self.use(opened.loaded, session.deal)

    def use(self, loaded: "Loaded", deal: RankMap = serial_map) -> None:
        """Set the model that answers rows. Raises ModelError if it has no tokenizer. `deal` distributes its batches over the ranks."""
        loaded.require_tokenizer()
        self.loaded, self.deal = loaded, deal

    def windows(self, rows: Iterable[PredictionInput], is_ready: Callable[[], bool] = lambda: True) -> Iterator[list[dict[str, Any]]]:
        """Yield windows (lists) of rows with their answers, in row order. A window ends early if `is_ready()` is False: no row is waiting.

        Raises DataError for a bad row, once the rows before it are yielded; with data.on_bad_row: skip, the bad row gets a field `error`.
        """
        for window in self.unanswered(rows, is_ready):
            lines, refusal = self.answered(window)
            if lines:
                yield lines
            if refusal is not None:
                raise refusal

    def unanswered(self, rows: Iterable[PredictionInput], is_ready: Callable[[], bool] = lambda: True) -> Iterator[list[PredictionInput]]:
        """Yield the rows in windows, as `windows` does, but without answers."""
        return _windows(rows, self.settings.evaluation.batch_size, is_ready)

    def answered(self, window: list[PredictionInput]) -> tuple[list[dict[str, Any]], DataError | None]:
        """Return the rows with their answers, and None; or, if there is a bad row that is not skipped, the rows before it and its error."""
        rows = [asked.row for asked in window if isinstance(asked.row, Row)]
        examples = iter(self.encode(rows) if rows else ())
        encoded: list[Encoded | BadRow] = [next(examples) if isinstance(asked.row, Row) else asked.row for asked in window]
        if self.on_bad_row == "error":
            for number, example in enumerate(encoded):
                if isinstance(example, BadRow):
                    return self._lines(window[:number], encoded[:number]), example.refusal()
        return self._lines(window, encoded), None

    def warnings(self) -> list[str]:
        """Return warnings about the rows answered so far: how many were skipped or truncated, and which fields answers replaced."""
        counts, length = self.counts, self.settings.sequence_length
        limit = f"the model's context of {self.loaded.config.context_length:,}" if length is None else f"data.sequence_length, {length:,}"
        cut = (
            f"{counts.truncated:,} of {counts.rows:,} rows are longer than {limit} tokens, and were not read to their ends (first "
            f"{counts.first_truncated})"
        )
        replaced = f"the rows have the fields {', '.join(sorted(counts.replaced))} already, which are replaced" if counts.replaced else ""
        return [text for text in (describe_skipped(f"{self.name}s", counts.skipped), cut if counts.truncated else "", replaced) if text]

    def result(self, reading: Reading) -> dict[str, Any]:
        """Return the document of --json (docs/cli.md), with the energy of `reading`."""
        counts = self.counts
        return {
            "schema_version": 1,
            "rows": counts.rows,
            "bad_rows": sum(one.rows for one in counts.skipped.values()),
            "truncated": counts.truncated,
            "tokens": counts.tokens,
            **self.facts(),
            "checkpoint": str(self.loaded.folder),
            "batch_size": self.settings.evaluation.batch_size,
            "precision": "bfloat16" if self.precision == "bf16" else self.precision,
            **vars(Footprint.from_reading(reading)),
        }

    def _source_columns(self, section: SourceSection) -> PredictionColumns:
        return self.columns(section.columns | ({} if section.text is None else {"text": section.text}))

    def _open(self, section: SourceSection, pipe: Pipe | None) -> Iterator[PredictionInput]:
        columns = self._source_columns(section)
        if section.path == "-" and pipe is not None:
            if self.drawn is not None:
                raise UsageError(
                    "data.rows: rows from stdin are answered as they arrive, and none are drawn; select them before, as with head -n 10"
                )
            return _from_pipe(pipe, columns, section)
        # "skip": reading yields a bad row without raising; `windows` raises its error later, after the answers to the rows before it.
        source = open_source(section, "all", None, "skip", columns=columns)
        if self.drawn is None:
            return prediction_rows(source)
        return select(prediction_rows(source), draw(prediction_rows(source), self.drawn, self.settings.seed))

    def _lines(self, window: Sequence[PredictionInput], encoded: Sequence[Encoded | BadRow]) -> list[dict[str, Any]]:
        """Count the rows, and return the fields of each with its answer or error."""
        good = {number: example for number, example in enumerate(encoded) if not isinstance(example, BadRow)}
        answers = self.answer([window[number].row for number in good], list(good.values()))
        by_number = dict(zip(good, answers, strict=True))
        lines = []
        for number, (asked, example) in enumerate(zip(window, encoded, strict=True)):
            self.counts.rows += 1
            fields = asked.fields
            if self.adds_words:
                fields = {**fields, "tokens": asked.row.values["tokens"] if isinstance(asked.row, Row) else []}
            if isinstance(example, BadRow):
                skip(example, self.counts.skipped)
                lines.append({**fields, self.name: None, "error": example.message})
                continue
            self.counts.tokens += example.length
            self.counts.truncated += example.truncated
            self.counts.first_truncated = self.counts.first_truncated or (asked.row.place if example.truncated else "")
            self.counts.replaced |= asked.fields.keys() & by_number[number].keys()
            lines.append({**fields, **by_number[number]})
        return lines


def _windows(rows: Iterable[PredictionInput], batch_size: int, is_ready: Callable[[], bool]) -> Iterator[list[PredictionInput]]:
    """Yield rows in windows: of one batch at first, for quick first answers, then of twice as many each time, up to _MOST_BATCHES. A window
    ends early at _MOST_CHARACTERS, or if the next row has not arrived yet.

    If the source raises DataError, the rows before the error are yielded first.
    """
    window: list[PredictionInput] = []
    most, characters = batch_size, 0
    try:
        for asked in rows:
            window.append(asked)
            characters += len(asked.row.text) if isinstance(asked.row, Row) else 0
            if len(window) >= most or characters >= _MOST_CHARACTERS or not is_ready():
                yield window
                window, characters, most = [], 0, min(2 * most, _MOST_BATCHES * batch_size)
    except DataError:
        if window:
            yield window
        raise
    if window:
        yield window


def _from_pipe(pipe: Pipe, columns: PredictionColumns, section: SourceSection) -> Iterator[PredictionInput]:
    """Yield the rows of a pipe, in the section's format or, without one, as the first line suggests. Raises DataError for an empty pipe."""
    name, delimiter = (section.format, None) if section.format else _format_of(pipe.first_line(), columns)
    layout, empty = Layout(name, tuple(section.header or ())), True
    for asked in prediction_stream(Content(pipe.name, "", "", lambda: cast(IO[bytes], pipe)), columns, layout, delimiter):
        empty = False
        yield asked
    if empty:
        raise DataError(f"{pipe.name}: there is no row; give JSON lines, csv under a header line, or a text a line")


def _format_of(line: bytes, columns: PredictionColumns) -> tuple[str, str | None]:
    """Return the format of data whose first line is `line`, and its delimiter if it is a table.

    The formats are JSON lines, a table whose header has the columns that are read, and a text per line. A line of column names without the
    required ones is also taken for a header, so that reading the table raises an error about the missing column.
    """
    text = line.removeprefix(BOM).decode(errors="replace").strip()
    if text.startswith("{"):
        return "jsonl", None
    for delimiter in ",\t;|":
        try:
            columns.check(next(csv.reader([text], delimiter=delimiter)), "")
        except (DataError, csv.Error, StopIteration):
            continue
        return "csv", delimiter
    names = next((delimiter for delimiter in ",\t;|" if delimiter in text and all(map(_NAME.fullmatch, text.split(delimiter)))), None)
    return ("lines", None) if names is None else ("csv", names)
