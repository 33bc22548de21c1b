"""Readers of a column, one for each form of a role (recipe/schema/roles.py). Each returns the role's value, or Unfit."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

from tfkit.recipe.schema.roles import Form
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.tool_calls import read_tools

Part = TypeVar("Part")
_ANSWERS = "answers with text and answer_start"
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


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


class Choices(list[str]):
    """The answers to choose from, with the label of each (`A`, `1`), by which the right one may be named."""

    labels: tuple[str, ...]

    def __init__(self, texts: Sequence[str], labels: Sequence[str] = ()):
        """Create it from texts, and labels in the same order; empty if the answers have none."""
        super().__init__(texts)
        self.labels = tuple(labels)


def by_number(value: Any) -> Any:
    """Return the number of a ClassName; any other value unchanged."""
    return value.number if isinstance(value, ClassName) else value


def with_class_names(value: str | list[str] | Unfit, names: Sequence[str]) -> Any:
    """Return a label, or each of a list, by its name if it is the number of a class; Unfit if it is neither a number nor a name."""
    if isinstance(value, list):
        labels = [with_class_names(label, names) for label in value]
        return next((label for label in labels if isinstance(label, Unfit)), labels)
    if isinstance(value, Unfit) or value in names:
        return value
    number = int(value) if value.isdecimal() else len(names)
    return ClassName(names[number], number) if number < len(names) else Unfit(f"{value!r}", f"a class from 0 to {len(names) - 1}")


def kind_of(value: Any) -> str:
    """Return the kind of a value that does not fit, for messages."""
    return "null" if value is None else type(value).__name__


def read_text(value: Any) -> str | Unfit:
    """Read a text, or a list of sentences, which are joined by spaces."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else Unfit(kind_of(value), "text")


def read_literal(value: Any) -> str | Unfit:
    """Read a text or number as text: 1 for 1 and 1.0, true for True."""
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
    """Read a label as text. Blank text is no label: tables hold it in unlabelled rows."""
    label = read_literal(value)
    return Unfit("an empty text", "a label") if isinstance(label, str) and not label.strip() else label


def list_of(read: Callable[[Any], Part | Unfit], wanted: str, *, splits: bool = False) -> Callable[[Any], list[Part] | Unfit]:
    """Return a reader of lists whose parts `read` reads; `wanted`: what they are, for messages. `splits`: a text is a list of its words, as
    in a table, whose cells hold no lists.
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


_read_labels = list_of(_read_label, "labels")


def _read_messages(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the messages of a conversation, as mappings."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return [dict(part) for part in value]
    return Unfit(kind_of(value), "a list of messages")


def _read_literals(value: Any) -> list[str] | Unfit:
    """Read a text or number, or a list of texts and numbers, as a list of texts."""
    if isinstance(value, list):
        return list_of(read_literal, "texts or numbers")(value)
    literal = read_literal(value)
    return literal if isinstance(literal, Unfit) else [literal]


def _read_tools(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the tools of a conversation (tool_calls.py); null and an empty text are an empty list."""
    try:
        return read_tools(value) if value not in ("", None) else []
    except UnfitError:
        return Unfit(kind_of(value), "a list of tools as JSON Schemas of functions")


def _read_part(value: Any) -> str | Unfit:
    return value if isinstance(value, str) else Unfit(kind_of(value), "text")


_read_texts = list_of(_read_part, "texts")


def _read_choices(value: Any) -> list[str] | Unfit:
    """Read a list of texts; or of objects with a `text` and a `label`, as in ARC's files; or an object with a list of each, as on the Hub.

    Null and blank texts at the end are no answers: rows of a table may have fewer than it has columns.
    """
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = value.get("label") or []
        value = [{"text": text, "label": label} for text, label in zip_longest(value["text"], labels)] if labels else value["text"]
    if isinstance(value, list):
        while len(value) > 2 and (value[-1].get("text") if isinstance(value[-1], Mapping) else value[-1]) in (None, ""):
            value = value[:-1]
    if isinstance(value, list) and value and all(isinstance(part, Mapping) and "text" in part for part in value):
        texts = _read_texts([part["text"] for part in value])
        labels = [read_literal(part.get("label")) for part in value]
        named = [label for label in labels if isinstance(label, str)]
        return texts if isinstance(texts, Unfit) else Choices(texts, named if len(named) == len(texts) else ())
    return _read_texts(value)


def read_label_set(value: Any) -> str | list[str] | dict[str, bool] | Unfit:
    """Read the labels of a row: a list; a text, which the objective splits; or a mapping from label names to 0 or 1, such as the mapping
    of several columns. Null and an empty text are no label.
    """
    match value:
        case None:
            return []
        case list():
            labels: list[str] | Unfit = _read_labels(value)
            if isinstance(labels, list) and len({*labels}) < len(labels) and {*labels} <= _FLAGS.keys():
                return Unfit("a list of zeros and ones, which names no labels", "a list of labels, or a column for each")
            return labels
        case Mapping():
            return _read_flags(value)
    return read_literal(value)


def _read_flags(value: Mapping[str, Any]) -> list[str] | dict[str, bool] | Unfit:
    """Read a mapping from label names to 0 or 1. Otherwise, each value that is not blank is a label."""
    literals = {str(name): "" if cell is None else read_literal(cell) for name, cell in value.items()}
    for name, literal in literals.items():
        if isinstance(literal, Unfit):
            return Unfit(f"{literal.found} for {name!r}", "0 or 1, or a label")
    cells = {name: str(literal).strip() for name, literal in literals.items()}
    labels = [cell for cell in cells.values() if cell]
    if not labels or not {*labels} <= _FLAGS.keys():
        return labels
    if len(labels) < len(cells):
        return Unfit(f"nothing for {next(name for name, cell in cells.items() if not cell)!r}", "0 or 1")
    return {name: _FLAGS[cell] for name, cell in cells.items()}


def read_answers(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the answers to a question, each with its `text` and `answer_start`, the character offset at which it begins in the context.

    Answers are a list, as in SQuAD's files; an object of two lists, as on the Hub; or, in a table, either as JSON. Null and an empty
    list are no answer. In a list of texts, each has None as its `answer_start`.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            return Unfit("text", _ANSWERS)
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        else:
            value = [value]
    if value is None:
        return []
    if not isinstance(value, list):
        return Unfit(type(value).__name__, _ANSWERS)
    if all(isinstance(answer, str) for answer in value):
        return [{"text": text, "answer_start": None} for text in value]
    answers = []
    for answer in value:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, Mapping) else (None, None)
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            missing = "text" if not isinstance(text, str) else "answer_start"
            return Unfit(f"an answer without {missing}", _ANSWERS)
        answers.append({"text": text, "answer_start": start})
    return answers


READERS: Mapping[Form, Callable[[Any], Any]] = {
    "text": read_text,
    "label": _read_label,
    "texts": list_of(_read_part, "texts", splits=True),
    "choices": _read_choices,
    "labels": list_of(_read_label, "labels", splits=True),
    "messages": _read_messages,
    "tools": _read_tools,
    "references": lambda value: [value] if isinstance(value, str) else _read_texts(value),
    "literals": _read_literals,
    "label_set": read_label_set,
    "answers": read_answers,
}


def texts_of(value: Any) -> Iterable[str]:
    """Yield every text in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_of(part)


def first_turn(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the contents of a conversation's messages up to and including the first user message, or of all if no user speaks."""
    speakers = [message.get("role", message.get("from")) for message in messages]
    end = next((number for number, speaker in enumerate(speakers, 1) if speaker in ("user", "human")), len(messages))
    return [message.get("content", message.get("value")) for message in messages[:end]]


def find_surrogate(value: Any) -> str:
    """Return the position of the first unpaired surrogate in the texts of a value; empty if all can be encoded as UTF-8."""
    for text in texts_of(value):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"character {error.start}"
    return ""
