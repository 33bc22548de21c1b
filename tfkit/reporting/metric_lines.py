"""Bounded reading of metrics.jsonl: a long file is read in windows, a long series is thinned out, and a long text truncated."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfkit.regular_files import open_regular
from tfkit.reporting.bounded_lines import ThinnedSeries, complete_lines
from tfkit.run.metrics import parse_record

MOST_BYTES = 64 << 20  # to read; of a larger file, in windows over its whole length
MOST_RECORDS = 10_000  # to keep of each kind
MOST_NUMBERS = 200  # of a record
MOST_SAMPLES = 12
MOST_CHARACTERS = 2_000  # of a sample's text
_WINDOWS = 64
_LONGEST_LINE = 32 << 20
_LATEST_STEP = 1 << 53  # the largest integers that floats represent exactly


@dataclass(frozen=True)
class Sample:
    """A text that a model generated, and its prompt, each truncated to MOST_CHARACTERS, with their real lengths in characters."""

    step: int
    prompt: str
    completion: str
    prompt_characters: int
    completion_characters: int

    @property
    def caption(self) -> str:
        """The step, and the real length of what is truncated."""
        lengths = (("prompt", self.prompt_characters), ("text", self.completion_characters))
        truncated = [
            f"{name} of {length:,} characters, of which {MOST_CHARACTERS:,} are shown"
            for name, length in lengths
            if length > MOST_CHARACTERS
        ]
        return f"step {self.step:,}" + (f": {'; '.join(truncated)}" if truncated else "")


@dataclass(frozen=True)
class MetricLines:
    """The records of a run in order: the numbers of steps (`loss`, `lr`, ...) and of evaluations, and the latest samples."""

    steps: tuple[dict[str, float], ...] = ()  # each with "step"; with numbers that are not finite
    evaluations: tuple[tuple[int, dict[str, float]], ...] = ()
    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()


def read_metric_lines(path: Path) -> MetricLines:
    """Read a metrics.jsonl. A missing file has no records; what could not be read is listed in `problems`."""
    reader = _Reader()
    try:
        with open_regular(path) as file:
            reader.read(file)
    except FileNotFoundError:
        return MetricLines()
    except OSError as error:
        return MetricLines(problems=(f"metrics.jsonl: {error.strerror or error}",))
    return reader.result()


class _Reader:
    def __init__(self) -> None:
        self.steps = ThinnedSeries[dict[str, float]](MOST_RECORDS)
        self.evaluations = ThinnedSeries[tuple[int, dict[str, float]]](MOST_RECORDS)
        self.samples: list[Sample] = []
        self.foreign = 0
        self.problems: list[str] = []

    def read(self, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        for line in _lines(file, size):
            if line is None or (record := parse_record(line)) is None or not 0 <= record["step"] < _LATEST_STEP:
                self.foreign += 1
            else:
                self._add(record)
        if size > MOST_BYTES:
            self.problems.append(f"metrics.jsonl: of {size:,} bytes {MOST_BYTES:,} were read, in {_WINDOWS} windows over the file")

    def _add(self, record: dict[str, Any]) -> None:
        step = record["step"]
        if "evaluation" in record:
            self.evaluations.add((step, _numbers(record["evaluation"])))
        elif "samples" in record:
            samples = [_sample(step, pair) for pair in record["samples"][:MOST_SAMPLES] if isinstance(pair, dict)]
            self.samples = [*self.samples, *samples][-MOST_SAMPLES:]
        elif record.get("loss") is not None:
            self.steps.add(_numbers(record))

    def result(self) -> MetricLines:
        if self.foreign:
            lines = "1 line that is not a record" if self.foreign == 1 else f"{self.foreign:,} lines that are not records"
            self.problems.append(f"metrics.jsonl: skipped {lines} of a training")
        for series in (self.steps, self.evaluations):
            if series.every > 1:
                self.problems.append(f"metrics.jsonl: of {series.added:,} records every {series.every}th is used")
        return MetricLines(tuple(self.steps.items), tuple(self.evaluations.items), tuple(self.samples), tuple(self.problems))


def _lines(file: BinaryIO, size: int) -> Iterator[bytes | None]:
    """Yield the lines of the file, or of windows over a large file, and None for a line that is too long."""
    if size <= MOST_BYTES:
        yield from complete_lines(file, 0, size, _LONGEST_LINE)
        return
    for index in range(_WINDOWS):
        length = MOST_BYTES // _WINDOWS
        start = index * (size - length) // (_WINDOWS - 1)
        yield from complete_lines(file, start, start + length, length)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, including NaN and infinities."""
    numbers = {name: value for name, value in values.items() if type(value) is float or (type(value) is int and abs(value) < _LATEST_STEP)}
    return dict(list(numbers.items())[:MOST_NUMBERS])


def _sample(step: int, pair: dict[str, Any]) -> Sample:
    prompt, completion = (str(pair.get(name, "")) for name in ("prompt", "completion"))
    return Sample(step, prompt[:MOST_CHARACTERS], completion[:MOST_CHARACTERS], len(prompt), len(completion))
