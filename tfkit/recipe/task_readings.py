"""The remedies in an error about data whose task is not clear: a line with options to copy for each task that the columns may serve."""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, permutations
from typing import Any, NamedTuple

from tfkit.errors import argument
from tfkit.recipe.column_forms import Held, choices_by, form_of, instructed, languages_in
from tfkit.recipe.schema.objective_facts import SECTIONS, Stacks

MAX_LISTED = 20
PRETRAINING = {"encoder": "masked_lm", "decoder": "causal_lm", "both": "span_corruption"}


class _Reading(NamedTuple):
    """A way in which an objective may read columns that are not recognised by their names."""

    kind: str  # kind of the objective
    roles: Mapping[str, str]  # for each role, the form of its column, as `form_of` returns it
    purpose: str  # what the task is for, shown after the options
    joins: bool = True  # whether more columns of text than roles may be given, and are joined with the first


_CHOICES = _Reading("multiple_choice", {"context": "text", "choices": "texts", "label": "label"}, "to choose the right answer")
_VOTES = {"prompt": "text", "response_a": "text", "response_b": "text", "winner": "label"}
_READINGS = (
    _Reading("classification", {"text": "text", "pair": "text", "label": "label"}, "for the classes of pairs of texts"),
    _Reading("classification", {"text": "text", "label": "label"}, "for the classes of texts"),
    _CHOICES,
    _Reading("tagging", {"tokens": "texts", "tags": "texts"}, "for the tags of words"),
    _Reading("chat", {"messages": "messages"}, "for answers in conversations"),
    _Reading("chat", {"instruction": "text", "output": "text"}, "for answers in a conversation"),
    _Reading("text_to_text", {"source": "text", "target": "text"}, "to write one text for another"),
    _Reading("dpo", {"prompt": "text", "chosen": "text", "rejected": "text"}, "for the better of two completions", joins=False),
    _Reading("dpo", _VOTES, "for the better of two responses", joins=False),
    *(_Reading(kind, {"text": "text"}, f"for {kind}, on text alone") for kind in PRETRAINING.values()),
)
# The columns and the purpose of a usual task with labels, by the stacks of the model.
_LABELLED: Mapping[str, tuple[Mapping[str, str], str]] = {
    "encoder": ({"text": "NAME", "label": "NAME"}, "for the classes of texts, or numbers for them"),
    "decoder": ({"instruction": "NAME", "output": "NAME"}, "for answers in a conversation"),
    "both": ({"source": "NAME", "target": "NAME"}, "to write one text for another"),
}


def remedies(held: Held, stacks: Stacks) -> list[str]:
    """Return a line with options for each task that a model of the kind `stacks` may learn from `held`, with NAME for columns not found."""
    kind = PRETRAINING[stacks]
    kinds = [name for name, section in SECTIONS.items() if stacks in section.stacks and name not in PRETRAINING.values()]
    on_text = readings(held, [kind]) or [f"{columns_option({'text': 'NAME'})} for {kind}, on text alone"]
    return [*(readings(held, kinds) or [labelled(stacks)]), *on_text]


def labelled(stacks: Stacks) -> str:
    """Return a line with options for a labelled task, with NAME in place of each column, for the user to fill in."""
    columns, purpose = _LABELLED[stacks]
    return f"{columns_option(columns)} {purpose}"


def readings(held: Held, kinds: Collection[str]) -> list[str]:
    """Return a line with options for each way in which objectives of `kinds` could read the columns, and for each direction of a
    translation (at most 20). A line also names the columns of texts or labels that would not be read.
    """
    forms = {name: form_of(values) for name, values in held.items()}
    return [_line(one, columns, held, forms) for one in _READINGS if one.kind in kinds for columns in _fillings(one, held, forms)]


def _fillings(reading: _Reading, held: Held, forms: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return each possible choice of columns for the roles of a reading; an empty list if the columns do not fit."""
    languages = languages_in(held)
    if len(languages) > 1 and {"output", "target"} & reading.roles.keys():
        pairs = [dict(zip(("source", "target"), pair, strict=True)) for pair in islice(permutations(languages, 2), MAX_LISTED)]
        return pairs if reading.kind == "text_to_text" else [*map(instructed, pairs)]
    if reading.roles is _VOTES:
        forms = {name: "label" if _votes_in(held[name]) == {"0", "1"} else form for name, form in forms.items()}
    columns = {} if len(languages) > 2 and not reading.joins else _fill(reading, forms)
    if reading.kind == "tagging" and columns and not _are_parallel(held[columns["tokens"]], held[columns["tags"]]):
        return []
    numbered = [named for answer in held for named in choices_by(held, answer)] if reading is _CHOICES else []
    return [columns] if columns else numbered


def _fill(reading: _Reading, forms: Mapping[str, str]) -> dict[str, str]:
    """Return a column or template for each role of a reading; empty if columns are missing, or if texts would be left out."""
    columns: dict[str, str] = {}
    for form in dict.fromkeys(reading.roles.values()):
        roles = [role for role, wanted in reading.roles.items() if wanted == form]
        found = [column for column, held in forms.items() if held == form]
        if len(found) < len(roles) or (form == "text" and len(found) > len(roles) and not reading.joins):
            return {}
        if form == "text":
            rest = len(found) - len(roles) + 1
            found = [found[0] if rest == 1 else " ".join(f"{{{column}}}" for column in found[:rest]), *found[rest:]]
        columns |= dict(zip(roles, found, strict=False))
    return {role: columns[role] for role in reading.roles}


def _are_parallel(tokens: Sequence[object], tags: Sequence[object]) -> bool:
    """Whether each list of words has as many words as the list of tags in its row has tags."""
    pairs = zip(tokens, tags, strict=False)
    return all(len(words) == len(names) for words, names in pairs if isinstance(words, list) and isinstance(names, list))


def _votes_in(values: Sequence[object]) -> set[str]:
    """Return the distinct votes in a column, each value of which is a vote or a list of the annotators' votes."""
    return {str(vote) for value in values for vote in (value if isinstance(value, list) else [value])}


def _line(reading: _Reading, columns: Mapping[str, str | list[str]], held: Held, forms: Mapping[str, str]) -> str:
    named = [name for column in columns.values() for name in ([column] if isinstance(column, str) else column)]
    read = {part for name in named for part in (re.findall(r"\{(.*?)\}", name) or [name])}
    unread = [repr(name) for name, form in forms.items() if form != "other" and name not in read]
    kind = f" objective.kind={reading.kind}" if reading.kind in PRETRAINING.values() and unread else ""
    note = f" ({', '.join(unread)} {'is' if len(unread) == 1 else 'are'} not read)" if unread else ""
    if "winner" in columns and _votes_in(held[str(columns["winner"])]) == {"0", "1"}:
        kind, note = " data.train.0.class_names=[a,b]", f", if 0 is a vote for {columns['response_a']!r}, else [b,a]{note}"
    return f"{columns_option(columns)}{kind} {reading.purpose}{note}"


def columns_option(columns: Mapping[str, str | list[str]]) -> str:
    """Return the option (or, in Python, the argument) that names the column of each role, as text to copy."""
    return argument("columns", dict(columns))
