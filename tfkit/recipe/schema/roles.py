"""The roles of the parts of a row, and the column names that are recognised for each role."""

import re
from typing import Literal, NamedTuple, get_args

_LabelForm = Literal["label", "labels", "label_set", "answers", "numbers", "votes"]  # never part of the model's input
_ReferenceForm = Literal["references", "literals"]  # texts that the model learns to generate, or with which its texts are compared
Form = Literal["text", "texts", "choices", "messages", "turns", "completions", "tools", _LabelForm, _ReferenceForm]
LABELS: tuple[Form, ...] = get_args(_LabelForm)
REFERENCES: tuple[Form, ...] = get_args(_ReferenceForm)


def normalized(name: str) -> str:
    """Return a column's name in the form in which names are compared: in lower case, with _ in place of spaces, hyphens and dots."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


class Role(NamedTuple):
    """A part of a row that an objective reads, such as its text or its label.

    `form` is the type of the part: text; label (a word or number); texts, labels and numbers (lists); choices (a list of texts, each
    perhaps with its label, such as A); messages (a conversation); references (one text, or several equally good ones); literals (references
    that may be numbers); label_set (any number of labels); answers (parts of the context of a question); turns (a text or messages);
    completions (a list of turns); votes (for one of two completions); tools (of a conversation).

    `columns` are the recognised column names; the first that a row has is used, unless a recipe names another column. The `shape` groups
    roles: a row needs the roles without a shape, and those of one shape, that whose columns a recipe names or else the first that
    the row matches. `by_number`: a class that a data set stores as a number is read as the number, not as the name of the class.
    """

    name: str
    form: Form
    columns: tuple[str, ...]
    required: bool = True
    shape: str | None = None  # None: the role belongs to every shape
    by_number: bool = False
    in_input: bool = True  # False: rows that differ only in this part have the same input, and are held out together
    later: tuple[str, ...] = ()  # column names that are recognised in rows without any of `columns`; compared by `normalized`
    # True: tfkit 0.1 lacks the role. So that its runs can be resumed, the data's hash includes the role only if a recipe names its column.
    is_later: bool = False
    within: tuple[str, ...] = ()  # paths into nested columns, tried before `columns`, such as that to the `stem` of ARC's `question`

    @property
    def is_input(self) -> bool:
        """Whether the part is in the input by which rows are held out: it is neither a label nor a reference, and `in_input` is true."""
        return self.in_input and self.form not in (*LABELS, *REFERENCES)

    def knows(self, name: str) -> bool:
        """Return whether a column's name is recognised for the role; the names are compared in the form of `normalized`."""
        return normalized(name) in map(normalized, (*self.columns, *self.later))


TEXT = (Role("text", "text", ("text",)),)
