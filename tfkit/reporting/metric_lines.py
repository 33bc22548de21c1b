"""metrics.jsonl within bounds: a long file is read in windows, a long series thinned out, a long text cut."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfkit.reporting.bounded_lines import Thinned, open_regular, whole_lines
from tfkit.run.metrics import parse_record

MOST_BYTES = 64 << 20  # that are read of a file; of a larger one, windows over its whole length
MOST_RECORDS = 10_000  # of each kind that are kept
MOST_NUMBERS = 200  # of a record
MOST_SAMPLES = 12
MOST_CHARACTERS = 2_000  # of a sample's text
_WINDOWS = 64
_LONGEST_LINE = 32 << 20
_LATEST_STEP = 1 << 53  # a float can still count it


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote, at most MOST_CHARACTERS of it and of its prompt; their real lengths are in characters."""

    step: int
    prompt: str
    completion: str
    prompt_characters: int
    completion_characters: int


@dataclass(frozen=True)
class MetricLines:
    """The numbers of a run's records, by step: of steps (`loss`, `lr`, ...) and of evaluations; the latest samples."""

    steps: tuple[dict[str, float], ...] = ()  # each with "step"; numbers that are not finite are among them
    evaluations: tuple[tuple[int, dict[str, float]], ...] = ()
    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()


def read_metric_lines(path: Path) -> MetricLines:
    """Read a metrics.jsonl; one that is missing has no records, and what could not be read is among the problems."""
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
        self.steps, self.evaluations = Thinned[dict[str, float]](MOST_RECORDS), Thinned[tuple[int, dict[str, float]]](MOST_RECORDS)
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
            found = [_sample(step, pair) for pair in record["samples"][:MOST_SAMPLES] if isinstance(pair, dict)]
            self.samples = [*self.samples, *found][-MOST_SAMPLES:]
        elif record.get("loss") is not None:
            self.steps.add(_numbers(record))

    def result(self) -> MetricLines:
        if self.foreign:
            self.problems.append(f"metrics.jsonl: {self.foreign:,} lines are not records of a training and were skipped")
        kept = (self.steps, self.evaluations)
        self.problems += [f"metrics.jsonl: of {one.added:,} records every {one.every}th is used" for one in kept if one.every > 1]
        return MetricLines(tuple(self.steps.items), tuple(self.evaluations.items), tuple(self.samples), tuple(self.problems))


def _lines(file: BinaryIO, size: int) -> Iterator[bytes | None]:
    """Yield the lines to look at, None for one that is too long: all of a file, or those of windows over a large one."""
    if size <= MOST_BYTES:
        yield from whole_lines(file, 0, size, _LONGEST_LINE)
        return
    for index in range(_WINDOWS):
        length = MOST_BYTES // _WINDOWS
        start = index * (size - length) // (_WINDOWS - 1)
        yield from whole_lines(file, start, start + length, length)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, among them those that are not finite; a missing one is left out."""
    numbers = {name: value for name, value in values.items() if type(value) is float or (type(value) is int and abs(value) < _LATEST_STEP)}
    return dict(list(numbers.items())[:MOST_NUMBERS])


def _sample(step: int, pair: dict[str, Any]) -> Sample:
    prompt, completion = (str(pair.get(name, "")) for name in ("prompt", "completion"))
    return Sample(step, prompt[:MOST_CHARACTERS], completion[:MOST_CHARACTERS], len(prompt), len(completion))
