"""Readers of the values in columns of lists or objects, such as choices and messages. A reader returns the converted value or Unfit."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from tfkit.data.columns.forms import Unfit, kind_of, read_labels, read_literal, read_texts
from tfkit.recipe.schema.roles import Form
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.tool_calls import read_tools

_ANSWERS = "answers with text and answer_start"
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


class Choices(list[str]):
    """The answers of a multiple-choice question, with their labels (`A`, `1`), by which a row may name the right answer."""

    labels: tuple[str, ...]

    def __init__(self, texts: Sequence[str], labels: Sequence[str] = ()):
        """Create the answers from their texts and, in the same order, their labels; `labels` is empty if the answers have none."""
        super().__init__(texts)
        self.labels = tuple(labels)


def _read_messages(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the messages of a conversation, as mappings."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return [dict(part) for part in value]
    return Unfit(kind_of(value), "a list of messages")


def first_turn(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the contents of a conversation's messages up to and including the first user message, or of all if no message is a user's."""
    speakers = [message.get("role", message.get("from")) for message in messages]
    end = next((number for number, speaker in enumerate(speakers, 1) if speaker in ("user", "human")), len(messages))
    return [message.get("content", message.get("value")) for message in messages[:end]]


def _read_tools(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the tools of a conversation (tokenizer/tool_calls.py); null and an empty text are read as an empty list."""
    try:
        return read_tools(value) if value not in ("", None) else []
    except UnfitError:
        return Unfit(kind_of(value), "a list of tools as JSON Schemas of functions")


def _read_choices(value: Any) -> list[str] | Unfit:
    """Read a list of texts; a list of objects with a `text` and a `label`, as in ARC's files; or an object with lists of texts and labels,
    as on the Hub. Since a row of a table may have fewer answers than the table has columns for answers, nulls and empty texts at
    the end are dropped until two answers are left.
    """
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = label if isinstance(label := value.get("label"), list) else []
        value = [{"text": text, "label": label} for text, label in zip_longest(value["text"], labels)] if labels else value["text"]
    if isinstance(value, list):
        while len(value) > 2 and (value[-1].get("text") if isinstance(value[-1], Mapping) else value[-1]) in (None, ""):
            value = value[:-1]
    if isinstance(value, list) and value and all(isinstance(part, Mapping) and "text" in part for part in value):
        texts = read_texts([part["text"] for part in value])
        labels = [read_literal(part.get("label")) for part in value]
        named = [label for label in labels if isinstance(label, str)]
        return texts if isinstance(texts, Unfit) else Choices(texts, named if len(named) == len(texts) else ())
    return read_texts(value)


def read_label_set(value: Any) -> str | list[str] | dict[str, bool] | Unfit:
    """Read the labels of a row: a list; a text, which the objective splits into labels; or a mapping, which `Columns` makes of several
    columns, from their names to 0 or 1, or to a label (`_read_flags`). Null and an empty text mean that the row has no label.
    """
    match value:
        case None:
            return []
        case list():
            labels: list[str] | Unfit = read_labels(value)
            if isinstance(labels, list) and len({*labels}) < len(labels) and {*labels} <= _FLAGS.keys():
                return Unfit("a list of zeros and ones, which names no labels", "a list of labels, or a column for each")
            return labels
        case Mapping():
            return _read_flags(value)
    return read_literal(value)


def _read_flags(value: Mapping[str, Any]) -> list[str] | dict[str, bool] | Unfit:
    """Read a mapping from label names to 0 or 1 (pandas may write False or 1.0), or from column names to labels, some of them blank."""
    literals = {str(name): "" if cell is None else read_literal(cell) for name, cell in value.items()}
    for name, literal in literals.items():
        if isinstance(literal, Unfit):
            return Unfit(f"{literal.found} for {name!r}", "0 or 1, or a label")
    cells = {name: str(literal).strip() for name, literal in literals.items()}
    labels = [cell for cell in cells.values() if cell]
    flags = {name: _FLAGS[flag] for name, cell in cells.items() if (flag := cell.lower().removesuffix(".0")) in _FLAGS}
    if not labels or len(flags) < len(labels):
        return labels
    if len(labels) < len(cells):
        return Unfit(f"nothing for {next(name for name, cell in cells.items() if not cell)!r}", "0 or 1")
    return flags


def read_answers(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the answers to a question, each with its `text` and `answer_start`, the character offset at which it begins in the context.

    Answers are a list, as in SQuAD's files; an object of two lists, as on the Hub; a single object; or, in a table, one of these as JSON.
    Null, a blank text and an empty list mean no answer. An answer in a list of texts has None as its `answer_start`.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
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
    "choices": _read_choices,
    "messages": _read_messages,
    "tools": _read_tools,
    "label_set": read_label_set,
    "answers": read_answers,
}
