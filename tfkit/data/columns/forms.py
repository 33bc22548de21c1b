"""Readers: functions that convert a column's value to the `Form`, or type, that a role needs (recipe/schema/roles.py), or return Unfit. The
readers of texts and labels are here, those of messages, votes and other forms in structured_forms.py and preference_forms.py.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tfkit.recipe.schema.roles import Form

Part = TypeVar("Part")
_MAX_DIGITS = 20  # a longer text is no class number; this also keeps texts of over 4300 digits from int(), which refuses them


class Unfit(NamedTuple):
    """A mismatch: the kind of value that a column holds, and the kind that its role needs."""

    found: str
    wanted: str


class ClassName(str):
    """The name of a class that a data set stores as a number, with that number."""

    number: int

    def __new__(cls, name: str, number: int) -> "ClassName":
        """Create the name with its number."""
        created = super().__new__(cls, name)
        created.number = number
        return created


def by_number(value: Any) -> Any:
    """Return the number of a ClassName; return any other value unchanged."""
    return value.number if isinstance(value, ClassName) else value


def with_class_names(value: str | list[str] | Unfit, names: Sequence[str]) -> Any:
    """Return a label, or a list of labels, with each class number replaced by its ClassName; Unfit if a label names no class."""
    if isinstance(value, list):
        labels = [with_class_names(label, names) for label in value]
        return next((label for label in labels if isinstance(label, Unfit)), labels)
    if isinstance(value, Unfit) or value in names:
        return value
    number = int(value) if value.isdecimal() and len(value) <= _MAX_DIGITS else len(names)
    return ClassName(names[number], number) if number < len(names) else Unfit(f"{value!r}"[:80], f"a class from 0 to {len(names) - 1}")


def kind_of(value: Any) -> str:
    """Return `null` for None, else the name of a value's Python type, for messages."""
    return "null" if value is None else type(value).__name__


def read_text(value: Any) -> str | Unfit:
    """Read a text, or a list of sentences, which are joined by spaces."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else Unfit(kind_of(value), "text")


def read_literal(value: Any) -> str | Unfit:
    """Read a text, a finite number or a boolean as text: 1 for 1 and 1.0, true for True."""
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return Unfit(str(value), "a label")  # pandas writes an empty cell as NaN
        case int() | float():
            return str(value).removesuffix(".0")
    return Unfit(kind_of(value), "a label")


def _read_label(value: Any) -> str | Unfit:
    """Read a label as text. Blank text is no label: in a table, blank text means that the row is unlabelled."""
    label = read_literal(value)
    return Unfit("an empty text", "a label") if isinstance(label, str) and not label.strip() else label


def list_of(read: Callable[[Any], Part | Unfit], wanted: str, *, splits: bool = False) -> Callable[[Any], list[Part] | Unfit]:
    """Return a reader of lists that reads each part with `read`. `wanted`: the kind of the parts, for messages; `splits`: whether a text is
    split into words, since the cells of a table cannot hold lists.
    """

    def read_list(value: Any) -> list[Part] | Unfit:
        value = value.split() if splits and isinstance(value, str) else value
        if not isinstance(value, list):
            return Unfit(kind_of(value), f"a list of {wanted}")
        parts: list[Part] = []
        for part in map(read, value):
            if isinstance(part, Unfit):
                return Unfit(f"a list with {part.found}", f"a list of {wanted}")
            parts.append(part)
        return parts

    return read_list


read_labels = list_of(_read_label, "labels")


def _read_literals(value: Any) -> list[str] | Unfit:
    """Read a text or number, or a list of texts and numbers, as a list of texts."""
    if isinstance(value, list):
        return list_of(read_literal, "texts or numbers")(value)
    literal = read_literal(value)
    return literal if isinstance(literal, Unfit) else [literal]


def _read_part(value: Any) -> str | Unfit:
    return value if isinstance(value, str) else Unfit(kind_of(value), "text")


read_texts = list_of(_read_part, "texts")


READERS: Mapping[Form, Callable[[Any], Any]] = {
    "text": read_text,
    "label": _read_label,
    "texts": list_of(_read_part, "texts", splits=True),
    "labels": list_of(_read_label, "labels", splits=True),
    "references": lambda value: [value] if isinstance(value, str) else read_texts(value),
    "literals": _read_literals,
}


def texts_of(value: Any) -> Iterable[str]:
    """Yield every text in a value, at any depth of its lists and mappings; the keys of mappings are left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_of(part)


def find_surrogate(texts: Iterable[str]) -> str:
    """Return `character N` for the first unpaired surrogate, at offset N of a text; an empty text if all texts can be encoded as UTF-8."""
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"character {error.start}"
    return ""
