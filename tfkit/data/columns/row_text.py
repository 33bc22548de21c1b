"""The text of a row, by which rows are compared: all of it, or what the model is given of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfkit.data.columns.forms import first_turn, texts_of
from tfkit.data.columns.preference_forms import is_dialogue, opening
from tfkit.recipe.schema.roles import LABELS, Role


def row_text(roles: Sequence[Role], values: Mapping[str, Any], bare: bool = False) -> str:
    """Return all texts of a row, a line each, words of a sentence joined by spaces; `bare`: each without white space at its ends.

    Labels are excluded: rows with equal texts are equal.
    """
    found = [(role.form, values[role.name]) for role in roles if role.name in values and role.form not in LABELS]
    texts = ((form, map(str.strip, texts_of(value)) if bare else texts_of(value)) for form, value in found)
    return "\n".join((" " if form == "texts" else "\n").join(parts) for form, parts in texts)


def input_key(roles: Sequence[Role], values: Mapping[str, Any]) -> str | None:
    """Return the bare text of what the model is given of a row, of a conversation up to the first turn of the user; None: of all."""
    given = {role.name: values[role.name] for role in roles if role.is_input and role.name in values}
    if "messages" in given:
        given["messages"] = first_turn(given["messages"])
    elif turns := next((value for role in roles if role.form == "turns" and (value := values.get(role.name))), None):
        return _opening_key(turns, is_prompt=any(given.values()))
    elif all(role.is_input or role.form in LABELS for role in roles if role.name in values):
        return None
    return row_text(roles, given, bare=True)


def _opening_key(turns: Any, *, is_prompt: bool) -> str | None:
    """Return the bare text of the opening of a conversation; None where the whole row is a completion without a prompt."""
    if not is_prompt and isinstance(turns, str) and not is_dialogue(turns):
        return None
    return "\n".join(map(str.strip, texts_of(opening(turns))))
