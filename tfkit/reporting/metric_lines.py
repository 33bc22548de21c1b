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
    steps, evaluations = ThinnedSeries[dict[str, float]](MOST_RECORDS), ThinnedSeries[tuple[int, dict[str, float]]](MOST_RECORDS)
    samples: list[Sample] = []
    foreign, problems = 0, []
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            for line in _lines(file, size):
                record = parse_record(line or b"")
                if record is None or not 0 <= (step := record["step"]) < _LATEST_STEP:
                    foreign += 1
                elif "evaluation" in record:
                    evaluations.add((step, _numbers(record["evaluation"])))
                elif "samples" in record:
                    samples += [_sample(step, pair) for pair in record["samples"][:MOST_SAMPLES] if isinstance(pair, dict)]
                    samples = samples[-MOST_SAMPLES:]
                elif record.get("loss") is not None:
                    steps.add(_numbers(record))
    except FileNotFoundError:
        return MetricLines()
    except OSError as error:
        return MetricLines(problems=(f"metrics.jsonl: {error.strerror or error}",))
    if size > MOST_BYTES:
        problems.append(f"metrics.jsonl: of {size:,} bytes {MOST_BYTES:,} were read, in {_WINDOWS} windows over the file")
    if foreign:
        lines = "1 line that is not a record" if foreign == 1 else f"{foreign:,} lines that are not records"
        problems.append(f"metrics.jsonl: skipped {lines} of a training")
    thinned = [(series.added, series.every) for series in (steps, evaluations) if series.every > 1]
    problems += [f"metrics.jsonl: of {added:,} records every {every}th is used" for added, every in thinned]
    return MetricLines(tuple(steps.items), tuple(evaluations.items), tuple(samples), tuple(problems))


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
