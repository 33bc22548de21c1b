"""Readers of the structured forms: a set of labels, and the answers to a question; and the table of the readers of all forms."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tfkit.data.columns import forms, preference_forms
from tfkit.data.columns.forms import Unfit, kind_of, read_literal
from tfkit.recipe.schema.roles import Form

_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def read_label_set(value: Any) -> str | list[str] | dict[str, bool] | Unfit:
    """Read the labels of a row: a list; a text, which the objective splits; or a mapping from label names to 0 or 1, such as the mapping
    of several columns. Null and an empty text are no label.
    """
    match value:
        case None:
            return []
        case list():
            labels: list[str] | Unfit = forms.READERS["labels"](value)
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


_ANSWERS = "answers with text and answer_start"


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
        return Unfit(kind_of(value), _ANSWERS)
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
    **forms.READERS,
    **preference_forms.READERS,
    "label_set": read_label_set,
    "answers": read_answers,
}
