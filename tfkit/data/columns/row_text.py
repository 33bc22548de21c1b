"""The text of a row, by which rows are compared: all of it, or the model's input alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfkit.data.columns.forms import first_turn, texts_of
from tfkit.data.columns.preference_forms import is_dialogue, opening
from tfkit.recipe.schema.roles import LABELS, Role


def row_text(roles: Sequence[Role], values: Mapping[str, Any], bare: bool = False) -> str:
    """Return all texts of a row, one a line, the words of a sentence joined by spaces; `bare`: each text stripped of white space.

    Labels are excluded, so rows that differ only in their labels have equal texts.
    """
    read = [(role.form, values[role.name]) for role in roles if role.name in values and role.form not in LABELS]
    texts = ((form, map(str.strip, texts_of(value)) if bare else texts_of(value)) for form, value in read)
    return "\n".join((" " if form == "texts" else "\n").join(parts) for form, parts in texts)


def input_key(roles: Sequence[Role], values: Mapping[str, Any]) -> str | None:
    """Return the stripped text of a row's input, for a conversation up to the first user turn; None if the input is the whole row."""
    inputs = {role.name: values[role.name] for role in roles if role.is_input and role.name in values}
    if "messages" in inputs:
        inputs["messages"] = first_turn(inputs["messages"])
    elif turns := next((value for role in roles if role.form == "turns" and (value := values.get(role.name))), None):
        return _opening_key(turns, has_prompt=any(inputs.values()))
    elif all(role.is_input or role.form in LABELS for role in roles if role.name in values):
        return None
    return row_text(roles, inputs, bare=True)


def _opening_key(turns: Any, *, has_prompt: bool) -> str | None:
    """Return the stripped text of a conversation's opening; None if the row is a completion without a prompt."""
    if not has_prompt and isinstance(turns, str) and not is_dialogue(turns):
        return None
    return "\n".join(map(str.strip, texts_of(opening(turns))))
