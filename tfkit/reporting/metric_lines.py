"""Read the records of metrics.jsonl that a report shows. Long series are thinned out, and long texts are truncated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tfkit.errors import reason_of
from tfkit.run.metrics import is_foreign, read_lines

_T = TypeVar("_T")
MOST_RECORDS = 10_000  # maximum number of records of each kind that are kept
MOST_SAMPLES = 4  # maximum number of samples (generated texts) that are kept of a step
MOST_SAMPLED = 6  # maximum number of steps whose samples are kept, evenly spaced, not counting the last step
MOST_CHARACTERS = 2_000  # maximum number of characters that are kept of a sample's text
_LARGEST = 1 << 53  # up to this number, floats represent all integers exactly
Confusion = Mapping[str, Mapping[str, int]]  # a confusion matrix: counts by right class and predicted class; counts of 0 may be missing


class ThinnedSeries(Generic[_T]):
    """A series that keeps at most about `limit` of the items added to it, evenly spaced, and always the last item."""

    def __init__(self, limit: int) -> None:
        assert limit >= 4
        self._limit = limit
        self._kept: list[_T] = []
        self._last: list[_T] = []
        self.every = 1
        self.added = 0

    def add(self, item: _T) -> None:
        """Add an item. Every n-th item is kept; n (`every`) is doubled whenever the kept items become more than `limit`."""
        if self.added % self.every == 0:
            self._kept.append(item)
            if len(self._kept) > self._limit:
                self._kept, self.every = self._kept[::2], 2 * self.every
        self._last = [item]
        self.added += 1

    @property
    def items(self) -> list[_T]:
        """The kept items and the last item, in the order in which they were added."""
        return [*self._kept, *(self._last if (self.added - 1) % self.every else [])]


@dataclass(frozen=True)
class Sample:
    """A text that a model generated at a step of its training, and the prompt."""

    step: int
    prompt: str  # truncated to MOST_CHARACTERS, as the completion is
    completion: str
    prompt_characters: int  # before truncation
    completion_characters: int

    @property
    def caption(self) -> str:
        """A caption with the step and, if prompt or completion are truncated, their full lengths."""
        lengths = {"prompt": self.prompt_characters, "text": self.completion_characters}
        truncated = {name: length for name, length in lengths.items() if length > MOST_CHARACTERS}
        notes = (f"{name} of {length:,} characters, of which {MOST_CHARACTERS:,} are shown" for name, length in truncated.items())
        return f"step {self.step:,}" + (f": {'; '.join(notes)}" if truncated else "")


@dataclass(frozen=True)
class MetricLines:
    """The records of a run, in file order: the values of training steps (`loss`, ...), the metrics of evaluations, and some samples."""

    steps: tuple[dict[str, float], ...] = ()  # each has "step"; values may be NaN or infinite
    evaluations: tuple[tuple[int, dict[str, float]], ...] = ()  # each a step, and the metrics of the evaluation at this step
    samples: tuple[Sample, ...] = ()
    confusion: Confusion = field(default_factory=dict)  # of the best checkpoint, else of the latest evaluation; empty if not recorded
    problems: tuple[str, ...] = ()


def read_metric_lines(path: Path, best_step: int | None = None) -> MetricLines:
    """Return the records of the metrics.jsonl at `path`; no records if it is missing. `best_step`: the step of the best checkpoint."""
    steps, evaluations = ThinnedSeries[dict[str, float]](MOST_RECORDS), ThinnedSeries[tuple[int, dict[str, float]]](MOST_RECORDS)
    samples = ThinnedSeries[list[Sample]](MOST_SAMPLED)
    confusions: dict[bool, Confusion] = {}  # the latest confusion matrix of the best step (True), and of all other steps (False)
    foreign, problems = 0, []
    try:
        for line, record in read_lines(path):
            if record is None:
                foreign += is_foreign(line, record)
            elif "evaluation" in record:
                evaluations.add((record["step"], _numbers(record["evaluation"])))
                confusions[record["step"] == best_step] = confusion_of(record)
            elif "samples" in record:
                samples.add([_sample(record["step"], pair) for pair in record["samples"][:MOST_SAMPLES] if isinstance(pair, dict)])
            elif record.get("loss") is not None:
                steps.add(_numbers(record))
    except FileNotFoundError:
        return MetricLines()
    except OSError as error:
        return MetricLines(problems=(f"metrics.jsonl: {reason_of(error)}",))
    if foreign:
        lines = "1 line that is not a record" if foreign == 1 else f"{foreign:,} lines that are not records"
        problems.append(f"metrics.jsonl: skipped {lines} of a training")
    thinned = [(series.added, series.every) for series in (steps, evaluations) if series.every > 1]
    problems += [f"metrics.jsonl: of {added:,} records every {every}th is used" for added, every in thinned]
    confusion = confusions.get(True) or confusions.get(False, {})
    texts = tuple(sample for pairs in samples.items for sample in pairs)
    return MetricLines(tuple(steps.items), tuple(evaluations.items), texts, confusion, tuple(problems))


def confusion_of(record: Mapping[str, Any]) -> Confusion:
    """Return the confusion matrix of a record or a result; empty if it is missing or malformed."""
    rows = record.get("confusion")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        return {}
    return rows if all(type(count) is int and 0 <= count < _LARGEST for row in rows.values() for count in row.values()) else {}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, including NaN and infinities."""
    return {name: value for name, value in values.items() if type(value) is float or (type(value) is int and abs(value) < _LARGEST)}


def _sample(step: int, pair: dict[str, Any]) -> Sample:
    prompt, completion = (str(pair.get(name, "")) for name in ("prompt", "completion"))
    return Sample(step, prompt[:MOST_CHARACTERS], completion[:MOST_CHARACTERS], len(prompt), len(completion))
