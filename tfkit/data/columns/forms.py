"""Readers of a column for a role, one for each form of recipe.roles. Each returns the value of the role, or why it does not fit."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tfkit.recipe.schema.roles import Form
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.tool_calls import read_tools


class Unfit(NamedTuple):
    """A column's content and the expected one."""

    found: str
    wanted: str


class ClassName(str):
    """A class that a data set stores as a number: its name, with the number."""

    number: int

    def __new__(cls, name: str, number: int) -> "ClassName":
        """Name the class of a number."""
        made = super().__new__(cls, name)
        made.number = number
        return made


def by_number(value: Any) -> Any:
    """Return the number of a class that a data set stores as one; anything else unchanged."""
    return value.number if isinstance(value, ClassName) else value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def read_text(value: Any) -> str | Unfit:
    """Read a text; the sentences of a list are joined by spaces."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else Unfit(_kind(value), "text")


def read_literal(value: Any) -> str | Unfit:
    """Read a text or number as it is written: 1 for 1 and 1.0, true for True."""
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return Unfit(str(value), "a label")  # pandas' empty cell
        case int() | float():
            return str(value).removesuffix(".0")
    return Unfit(_kind(value), "a label")


def _read_label(value: Any) -> str | Unfit:
    """Read a label as it is written. Blank text is none: tables have it in unlabelled rows."""
    found = read_literal(value)
    return Unfit("an empty text", "a label") if isinstance(found, str) and not found.strip() else found


def _list_of(read: Callable[[Any], str | Unfit], wanted: str) -> Callable[[Any], list[str] | Unfit]:
    def read_list(value: Any) -> list[str] | Unfit:
        if not isinstance(value, list):
            return Unfit(_kind(value), f"a list of {wanted}")
        parts: list[str] = []
        for part in map(read, value):
            if isinstance(part, Unfit):
                return Unfit(f"a list with {part.found}", f"a list of {wanted}")
            parts.append(part)
        return parts

    return read_list


def _read_messages(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the messages of a conversation, as mappings."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return [dict(part) for part in value]
    return Unfit(_kind(value), "a list of messages")


def _read_literals(value: Any) -> list[str] | Unfit:
    """Read a text or number, or a list of such, each as it is written."""
    if isinstance(value, list):
        return _list_of(read_literal, "texts or numbers")(value)
    found = read_literal(value)
    return found if isinstance(found, Unfit) else [found]


def _read_tools(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the tools of a conversation, in one form."""
    try:
        return read_tools(value) if value not in ("", None) else []
    except UnfitError:
        return Unfit(_kind(value), "a list of tools as JSON Schemas of functions")


_read_texts = _list_of(lambda part: part if isinstance(part, str) else Unfit(_kind(part), "text"), "texts")
READERS: Mapping[Form, Callable[[Any], Any]] = {
    "text": read_text,
    "label": _read_label,
    "texts": _read_texts,
    "labels": _list_of(_read_label, "labels"),
    "messages": _read_messages,
    "tools": _read_tools,
    "references": lambda value: [value] if isinstance(value, str) else _read_texts(value),
    "literals": _read_literals,
}


def texts_of(value: Any) -> Iterable[str]:
    """Yield every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_of(part)


def first_turn(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the contents of the messages of a conversation up to the first one of the user; of all, if the user says nothing."""
    speakers = [message.get("role", message.get("from")) for message in messages]
    end = next((number for number, speaker in enumerate(speakers, 1) if speaker in ("user", "human")), len(messages))
    return [message.get("content", message.get("value")) for message in messages[:end]]


def find_surrogate(value: Any) -> str:
    """Return the position at which a text cannot be written as UTF-8; empty if it can."""
    for text in texts_of(value):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"character {error.start}"
    return ""
