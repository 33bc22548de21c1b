"""The roles of the parts of a row, and the column names that are recognised for each. Torch-free."""

import re
from typing import Literal, NamedTuple

Form = Literal[
    "text",
    "label",
    "texts",
    "choices",
    "labels",
    "messages",
    "references",
    "literals",
    "label_set",
    "answers",
    "turns",
    "completions",
    "numbers",
    "votes",
    "tools",
]
LABELS: tuple[Form, ...] = ("label", "labels", "label_set", "answers", "numbers", "votes")  # not part of the input
REFERENCES: tuple[Form, ...] = ("references", "literals")  # texts to generate, or to compare with


def normalized(name: str) -> str:
    """Return a column's name in the form in which names are compared: in lower case, with _ for spaces, hyphens and dots."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


class Role(NamedTuple):
    """A part of a row.

    The forms are: a text; a label (a word or number); texts and labels (lists); choices (a list of texts, each perhaps with a label of its
    own); the messages of a conversation; references (one text, or several equally good ones); literals (the same, of texts or numbers); a
    label_set; the answers to a question, as parts of its context; turns (a text or messages); completions (a list of turns); numbers (a
    list); votes for one of two completions; the tools of a conversation.

    `columns` are the recognised column names; the first that a row has is used, unless a recipe names another. Roles with a `shape` are
    alternatives: a row needs the roles of the first shape that it has, or that a recipe names. `by_number`: a class that a data set stores
    as a number is read as the number, not as its name. Rows that share their input are held out together.
    """

    name: str
    form: Form
    columns: tuple[str, ...]
    required: bool = True
    shape: str | None = None  # None if it is in every shape
    by_number: bool = False
    in_input: bool = True  # False: rows that differ only in this part share their input
    later: tuple[str, ...] = ()  # further names, in any letter case, for rows that have none of `columns`
    is_later: bool = False  # not in tfkit 0.1: in a fingerprint only if the recipe names it, so that earlier runs can be resumed
    within: tuple[str, ...] = ()  # paths into nested columns, which go before `columns`: the `stem` of ARC's `question`

    @property
    def is_input(self) -> bool:
        """Whether the part is given to the model: neither a label nor a text to generate."""
        return self.in_input and self.form not in (*LABELS, *REFERENCES)

    def knows(self, name: str) -> bool:
        """Return whether a column's name is one of the role's names, in any letter case."""
        return normalized(name) in map(normalized, (*self.columns, *self.later))


TEXT = (Role("text", "text", ("text",)),)
