"""Bounded reading of metrics.jsonl: a long file is read in windows, a long series is thinned out, and a long text truncated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tfkit.regular_files import open_regular
from tfkit.reporting.bounded_lines import ThinnedSeries, complete_lines
from tfkit.run.metrics import parse_record

MOST_BYTES = 64 << 20  # to read; of a larger file, in windows over its whole length
MOST_RECORDS = 10_000  # to keep of each kind
MOST_NUMBERS = 200  # of a record
MOST_SAMPLES = 4  # of a step
MOST_SAMPLED = 6  # steps with samples to keep, evenly spaced, and the last one
MOST_CLASSES = 400  # of a confusion matrix
MOST_CHARACTERS = 2_000  # of a sample's text
_WINDOWS = 64
_LONGEST_LINE = 32 << 20
_LATEST_STEP = 1 << 53  # the largest integers that floats represent exactly
Confusion = Mapping[str, Mapping[str, int]]  # how often each class was predicted, by the right class; counts of 0 may lack


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
    """The records of a run in order: the numbers of steps (`loss`, `lr`, ...) and of evaluations, and samples of a few steps."""

    steps: tuple[dict[str, float], ...] = ()  # each with "step"; with numbers that are not finite
    evaluations: tuple[tuple[int, dict[str, float]], ...] = ()
    samples: tuple[Sample, ...] = ()
    confusion: Confusion = field(default_factory=dict)  # of the best evaluation, or else of the latest; empty if none has one
    problems: tuple[str, ...] = ()


def read_metric_lines(path: Path, best_step: int | None = None) -> MetricLines:
    """Read a metrics.jsonl. A missing file has no records; what could not be read is listed in `problems`."""
    steps, evaluations = ThinnedSeries[dict[str, float]](MOST_RECORDS), ThinnedSeries[tuple[int, dict[str, float]]](MOST_RECORDS)
    samples = ThinnedSeries[list[Sample]](MOST_SAMPLED)
    confusions: dict[bool, Confusion] = {}  # the latest, and the latest of the best step
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
                    confusions[step == best_step] = confusion_of(record)
                elif "samples" in record:
                    samples.add([_sample(step, pair) for pair in record["samples"][:MOST_SAMPLES] if isinstance(pair, dict)])
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
    confusion = confusions.get(True) or confusions.get(False, {})
    texts = tuple(sample for pairs in samples.items for sample in pairs)
    return MetricLines(tuple(steps.items), tuple(evaluations.items), texts, confusion, tuple(problems))


def _lines(file: BinaryIO, size: int) -> Iterator[bytes | None]:
    """Yield the lines of the file, or of windows over a large file, and None for a line that is too long."""
    if size <= MOST_BYTES:
        yield from complete_lines(file, 0, size, _LONGEST_LINE)
        return
    for index in range(_WINDOWS):
        length = MOST_BYTES // _WINDOWS
        start = index * (size - length) // (_WINDOWS - 1)
        yield from complete_lines(file, start, start + length, length)


def confusion_of(record: Mapping[str, Any]) -> Confusion:
    """Return the counts of predictions for each class of a record or result; empty if it has none, or what has another form."""
    rows = record.get("confusion")
    if not isinstance(rows, dict) or len(rows) > MOST_CLASSES or not all(isinstance(row, dict) for row in rows.values()):
        return {}
    counts = [count for row in rows.values() for count in row.values()]
    is_valid = len(counts) <= MOST_CLASSES**2 and all(type(count) is int and 0 <= count < _LATEST_STEP for count in counts)
    return rows if is_valid else {}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, including NaN and infinities."""
    numbers = {name: value for name, value in values.items() if type(value) is float or (type(value) is int and abs(value) < _LATEST_STEP)}
    return dict(list(numbers.items())[:MOST_NUMBERS])


def _sample(step: int, pair: dict[str, Any]) -> Sample:
    prompt, completion = (str(pair.get(name, "")) for name in ("prompt", "completion"))
    return Sample(step, prompt[:MOST_CHARACTERS], completion[:MOST_CHARACTERS], len(prompt), len(completion))
