"""What an objective reads of a row: its roles, and the columns that are recognised for each. Torch-free."""

from typing import Literal, NamedTuple

Form = Literal["text", "label", "texts", "labels", "messages"]


class Role(NamedTuple):
    """One part of a row. `form`: a text; a label (a word or number); lists of these; the messages of a conversation.

    `columns` are the names that are recognised, the first one that a row has; a recipe may name another.
    """

    name: str
    form: Form
    columns: tuple[str, ...]
    required: bool = True


TEXT = (Role("text", "text", ("text",)),)
