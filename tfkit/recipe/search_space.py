"""The fields that a sweep varies, with their values or ranges.

On the command line: optimizer.lr=1e-3,3e-3   training.adapter.targets=[[q_proj], [q_proj, v_proj]]   optimizer.lr=1e-5..1e-2
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tfkit.errors import UsageError
from tfkit.recipe.chain import read_recipes
from tfkit.recipe.reading.overrides import LENGTH, Overrides, assignment, parse_overrides, parse_value, plain_value
from tfkit.recipe.reading.problems import RecipeError
from tfkit.recipe.reading.read import RecipeText

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\.\.({_NUMBER})\s*")
LOG_RATIO = 10.0  # a range of positive numbers is sampled on a logarithmic scale if its ends differ by this factor or more


@dataclass(frozen=True)
class Axis:
    """A field that varies, and its values: a list, or the range between two ends."""

    key: str
    values: tuple[Any, ...] = ()
    ends: tuple[float, float] | None = None
    whole: bool = False  # whether a range has only integers

    @property
    def is_logarithmic(self) -> bool:
        """Whether a range is sampled on a logarithmic scale."""
        return self.ends is not None and self.ends[0] > 0 and self.ends[1] / self.ends[0] >= LOG_RATIO

    @property
    def first(self) -> Any:
        """The first of the values, or the lower end of the range."""
        return self.values[0] if self.ends is None else self.number(self.ends[0])

    def number(self, value: float) -> float:
        """Return `value` as a number of the range: rounded if the range has only integers."""
        return round(value) if self.whole else float(value)

    def document(self) -> Any:
        """Return the values as a list, or the range as text, in the form in which run.json holds them."""
        return [*self.values] if self.ends is None else "..".join(repr(self.number(end)) for end in self.ends)

    def __str__(self) -> str:
        values = self.document()
        return f"{self.key}={values if isinstance(values, str) else ','.join(assignment('', value)[1:] for value in values)}"


@dataclass(frozen=True)
class SearchSpace:
    """The overrides that all trials of a sweep share, and the fields that vary between trials."""

    fixed: Overrides
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, fixed: Overrides, varied: Mapping[str, str | Sequence[Any]]) -> "SearchSpace":
        """Create a space. `varied`: for each varied field several values, or a range as text: 1e-5..1e-2.

        Raises UsageError for a single, repeated or malformed value, if nothing varies, or if two fields set the length of one training.
        """
        if not isinstance(varied, Mapping):
            raise UsageError(
                f"space={varied!r}: give a dict with the values of each varied field, such as {{'optimizer.lr': [1e-3, 3e-3]}}"
            )
        axes = []
        for key, values in varied.items():
            axis = _parse_axis(str(key), values) if isinstance(values, str) else _axis_of(str(key), values)
            if axis is None:
                raise UsageError(
                    f"{key}: a single value cannot be varied in a sweep; give a list, or put it into the overrides, which all trials share"
                )
            axes.append(axis)
        return _checked(cls({name: value for name, value in fixed.items() if name not in varied}, tuple(axes)))

    def document(self) -> dict[str, Any]:
        """Return the varied fields with their values or ranges, in the form that run.json holds, and that `of` accepts."""
        return {axis.key: axis.document() for axis in self.axes}

    @property
    def first(self) -> dict[str, Any]:
        """The first value of each varied field, or the lower end of its range."""
        return {axis.key: axis.first for axis in self.axes}

    @property
    def size(self) -> int | None:
        """The number of combinations; None (unlimited) if there is a range."""
        return None if any(axis.ends for axis in self.axes) else math.prod(len(axis.values) for axis in self.axes)


def read_space(words: Iterable[str], fixed: Overrides, source: Callable[[Overrides], RecipeText]) -> SearchSpace:
    """Divide arguments key=value into varied fields and overrides; the overrides are added to `fixed`, and replace its values.

    Several values are separated by commas, or are the items of a YAML list, unless only the whole list is valid as the field's value. This
    is tested with the recipe that `source` returns, the overrides, and the first value of each other varied field.

    Raises UsageError for a repeated or malformed value, if nothing varies, or if two fields set the length of one training.
    """
    shared: list[str] = []
    axes: dict[str, Axis] = {}
    lists: list[tuple[str, Axis]] = []
    last: dict[str, str] = {}  # the last argument for each field, which replaces earlier ones
    for word in words:
        key = word.partition("=")[0].strip()
        last.pop(key, None)
        last[key] = word
    for key, word in last.items():
        _, equals, text = word.partition("=")
        if (axis := _parse_axis(key, text) if equals else None) is not None:
            axes[key] = axis
        elif equals and len(items := _list_items(text)) > 1:
            lists.append((word, Axis(key, tuple(items))))
        else:
            shared.append(word)
    overrides = {**fixed, **parse_overrides(shared)}
    recipe = source({**overrides, **{axis.key: axis.first for axis in axes.values()}}) if lists else None
    for word, axis in lists:
        assert recipe is not None
        others = {varied.key: varied.first for varied in (*axes.values(), *(other for _, other in lists if other.key != axis.key))}
        whole = parse_overrides([word])
        if _is_valid(recipe, {**overrides, **others, **whole}) and not _is_valid(recipe, {**overrides, **others, axis.key: axis.first}):
            overrides |= whole
        else:
            axes[axis.key] = axis
    return _checked(SearchSpace(overrides, tuple(axes.values())))


def _checked(space: SearchSpace) -> SearchSpace:
    """Return the space. Raises UsageError if nothing varies, a value occurs twice (1e-3,0.001), or two fields set one training's length."""
    if not space.axes:
        raise UsageError(
            "sweep: nothing varies; give a field several values, as in optimizer.lr=1e-3,3e-3, or, if a value contains commas, a list of "
            "values: 'training.adapter.targets=[[q_proj], [q_proj, v_proj]]'"
        )
    for axis in space.axes:
        if twice := [value for value in axis.values if axis.values.count(value) > 1]:
            raise UsageError(f"{axis}: has the value {json.dumps(twice[0])} twice; write each once")
    for one, other in combinations((axis.key for axis in space.axes if axis.key.endswith(LENGTH)), 2):
        if one.rpartition(".")[0] == other.rpartition(".")[0]:
            raise UsageError(f"{one} and {other}: two lengths of one training; keep one")
    return space


def _parse_axis(key: str, text: str) -> Axis | None:
    """Return the axis of a text such as 1e-3,3e-3 or 1e-5..1e-2; None for a single value. Raises UsageError for a malformed text."""
    if (match := _RANGE.fullmatch(text)) is not None:
        low, high = float(match[1]), float(match[2])
        if not -math.inf < low < high < math.inf:
            raise UsageError(f"{key}={text.strip()}: a range goes from its smaller end to its larger end, both finite, as in 1e-5..1e-2")
        return Axis(key, ends=(low, high), whole=all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups()))
    parts = _split_at_commas(text)
    if len(parts) < 2:
        return None
    if not all(parts):
        raise UsageError(f"{key}={text}: a value is missing between two commas, or at an end; write each value, null for none")
    return Axis(key, tuple(parse_overrides([f"{key}={part}"])[key] for part in parts))


def _axis_of(key: str, values: object) -> Axis | None:
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        return None
    try:
        axis = Axis(key, tuple(plain_value(value) for value in values))
    except ValueError as error:
        raise UsageError(f"{key}: {error}") from None
    if not axis.values:
        raise UsageError(f"{key}: the list of its values is empty; give the values to try")
    return axis


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


def _list_items(text: str) -> list[Any]:
    """Return the items of a YAML list; empty if the text is not a list."""
    try:
        value, problems = parse_value(text)
    except RecipeError:
        return []
    return value if isinstance(value, list) and not problems else []


def _is_valid(source: RecipeText, overrides: Overrides) -> bool:
    try:
        read_recipes(source, overrides)
    except UsageError:
        return False
    return True
