"""Readers of the forms that have parts: a set of labels, the answers to a question. The others are in forms.py."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tfkit.data.columns import forms, preference_forms
from tfkit.data.columns.forms import Unfit, read_literal
from tfkit.recipe.schema.roles import Form

_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def read_label_set(value: Any) -> str | list[str] | dict[str, bool] | Unfit:
    """Read the labels of a row: a list; a text, which the objective splits; or a value for each name of a label (0 or 1), which several
    columns are, too. Null and an empty text are no label.
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
    """Read zeros and ones by their labels' names; of other values, each is a label itself, and blank ones are none."""
    found = {str(name): "" if one is None else read_literal(one) for name, one in value.items()}
    for name, one in found.items():
        if isinstance(one, Unfit):
            return Unfit(f"{one.found} for {name!r}", "0 or 1, or a label")
    kept = {name: str(one).strip() for name, one in found.items()}
    labels = [one for one in kept.values() if one]
    if not labels or not {*labels} <= _FLAGS.keys():
        return labels
    if len(labels) < len(kept):
        return Unfit(f"nothing for {next(name for name, one in kept.items() if not one)!r}", "0 or 1")
    return {name: _FLAGS[one] for name, one in kept.items()}


_ANSWERS = "answers with text and answer_start"


def read_answers(value: Any) -> list[dict[str, Any]] | Unfit:
    """Read the answers to a question, each with its `text` and the character of the context at which it begins, `answer_start`: a list
    of them, as in SQuAD's files, or one object of two lists, as on the Hub; of a table, as JSON. Null and an empty list are no answer.
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
    found = []
    for one in value:
        text, start = (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (None, None)
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            missing = "text" if not isinstance(text, str) else "answer_start"
            return Unfit(f"an answer without {missing}", _ANSWERS)
        found.append({"text": text, "answer_start": start})
    return found


READERS: Mapping[Form, Callable[[Any], Any]] = {
    **forms.READERS,
    **preference_forms.READERS,
    "label_set": read_label_set,
    "answers": read_answers,
}
