"""The fields that a sweep varies. Torch-free.

optimizer.lr=1e-3,3e-3   training.adapter.targets=[[q_proj], [q_proj, v_proj]]   optimizer.lr=1e-5..1e-2
"""

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tfkit.errors import UsageError
from tfkit.recipe.chain import read_recipes
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.problems import RecipeError
from tfkit.recipe.reading.read import RecipeText
from tfkit.recipe.reading.tree import COMMAND_LINE, plain
from tfkit.recipe.reading.tree import Sequence as ListNode

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\.\.({_NUMBER})\s*")
LOG_RATIO = 10.0  # a range is sampled on a logarithmic scale if its ends differ by this factor or more


@dataclass(frozen=True)
class Axis:
    """A field that varies: over `values`, each as YAML, or over the range between two `ends`."""

    key: str
    values: tuple[str, ...] = ()
    ends: tuple[float, float] | None = None
    whole: bool = False  # of a range: integers only

    @property
    def is_logarithmic(self) -> bool:
        """Whether a range is sampled on a logarithmic scale."""
        return self.ends is not None and self.ends[0] > 0 and self.ends[1] / self.ends[0] >= LOG_RATIO

    @property
    def first(self) -> str:
        """The first value or the lower end, as YAML."""
        return self.values[0] if self.ends is None else number_text(self.ends[0], whole=self.whole)


@dataclass(frozen=True)
class SearchSpace:
    """The changes that all trials of a sweep share, as key=value, and the fields that differ."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]

    @property
    def size(self) -> int | None:
        """The number of combinations; None (unlimited) if there is a range."""
        return None if any(axis.ends for axis in self.axes) else math.prod(len(axis.values) for axis in self.axes)


def value_of(text: str) -> Any:
    """Parse the YAML value that was given for a field."""
    node, _ = parse(text, str(COMMAND_LINE), COMMAND_LINE)
    return None if node is None else plain(node)


def number_text(value: float, *, whole: bool) -> str:
    """Format a number of a range as YAML."""
    return str(round(value)) if whole else repr(float(value))


def read_space(source: RecipeText, words: Sequence[str]) -> SearchSpace:
    """Split key=value arguments into fixed and varied fields. Raises UsageError if nothing varies, or for malformed or equal values.

    Several values are separated by commas, or are the items of a YAML list that the field does not accept as one value.
    """
    fixed: list[str] = []
    axes: dict[str, Axis] = {}
    lists: list[tuple[str, str, Axis]] = []
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if (axis := _parse_axis(key, text) if equals else None) is not None:
            axes[key] = axis
        elif equals and len(items := _list_items(text)) > 1:
            lists.append((key, word, Axis(key, tuple(items))))
        else:
            fixed.append(word)
    for key, word, axis in lists:
        others = [f"{varied.key}={varied.first}" for varied in (*axes.values(), *(other for _, _, other in lists if other.key != key))]
        if _is_valid(source, [*fixed, *others, word]) and not _is_valid(source, [*fixed, *others, f"{key}={axis.first}"]):
            fixed.append(word)
        else:
            axes[key] = axis
    if not axes:
        raise UsageError(
            "sweep: nothing varies; give a field several values, as in optimizer.lr=1e-3,3e-3, or a list of values where they hold commas: "
            "'training.adapter.targets=[[q_proj], [q_proj, v_proj]]'"
        )
    for axis in axes.values():
        _require_different(axis)
    return SearchSpace(tuple(fixed), tuple(axes.values()))


def _require_different(axis: Axis) -> None:
    """Raise UsageError for a value that is given twice, even in another spelling: both trials would be the same."""
    seen: set[str] = set()
    for text in axis.values:
        value = text
        with suppress(RecipeError):  # an invalid value is refused with its trial
            value = json.dumps(value_of(text), default=str)
        if value in seen:
            raise UsageError(f"{axis.key}={','.join(axis.values)}: has the value {text} twice; write each once")
        seen.add(value)


def _parse_axis(key: str, text: str) -> Axis | None:
    if (match := _RANGE.fullmatch(text)) is not None:
        low, high = float(match[1]), float(match[2])
        if not low < high:
            raise UsageError(f"{key}={text.strip()}: a range goes from its smaller end to its larger one, as in 1e-5..1e-2")
        return Axis(key, ends=(low, high), whole=all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups()))
    parts = _split_at_commas(text)
    if len(parts) < 2:
        return None
    if not all(parts):
        raise UsageError(f"{key}={text}: there is nothing between two commas, or at an end; write each value, null for none")
    return Axis(key, tuple(parts))


def _split_at_commas(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def _list_items(text: str) -> list[str]:
    """Return the items of a YAML list, each as JSON; empty if the text is not a list."""
    try:
        node, problems = parse(text, str(COMMAND_LINE), COMMAND_LINE)
    except RecipeError:
        return []
    if problems or not isinstance(node, ListNode):
        return []
    return [json.dumps(item, ensure_ascii=False) for item in plain(node)]


def _is_valid(source: RecipeText, words: Sequence[str]) -> bool:
    try:
        read_recipes(source, words)
    except UsageError:
        return False
    return True
