"""Readers of the forms of preferences: turns (a text, or messages), completions (several of them), and numbers for these.

And the opening of a conversation, by which whole prompts are held out. A text may be a whole dialogue in the form of Anthropic's HH-RLHF:
turns that begin with an empty line and "Human:" or "Assistant:".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfkit.data.columns.forms import Unfit, first_turn
from tfkit.recipe.numbers import read_number
from tfkit.recipe.schema.roles import Form

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_FLAGS = dict.fromkeys(("true", "1", "yes", "good", "positive", "desirable", "chosen"), True)
_FLAGS |= dict.fromkeys(("false", "0", "no", "bad", "negative", "undesirable", "rejected"), False)
_SEVERAL = "a list of completions, each a text or messages"


def read_turns(value: Any) -> str | list[dict[str, Any]] | Unfit:
    """Read a text, a message, or a list of messages, as mappings."""
    match value:
        case str():
            return value
        case Mapping():
            return [dict(value)]
        case list() if value and all(isinstance(part, Mapping) for part in value):
            return [dict(part) for part in value]
    return Unfit("null" if value is None else type(value).__name__, "text or messages")


def read_completions(value: Any) -> list[str | list[dict[str, Any]]] | Unfit:
    """Read a list of texts, of messages, or of lists of messages."""
    if not isinstance(value, list):
        return Unfit("null" if value is None else type(value).__name__, _SEVERAL)
    found: list[str | list[dict[str, Any]]] = []
    for part in map(read_turns, value):
        if isinstance(part, Unfit):
            return Unfit(f"a list with {part.found}", _SEVERAL)
        found.append(part)
    return found


def read_numbers(value: Any) -> list[float] | Unfit:
    """Read a list of numbers, or of texts that are numbers."""
    if not isinstance(value, list):
        return Unfit("null" if value is None else type(value).__name__, "a list of numbers")
    found: list[float] = []
    for part in value:
        number = read_number(part) if isinstance(part, str) else float(part) if isinstance(part, int | float) else None
        if number is None or not math.isfinite(number):
            return Unfit(f"a list with {part!r}"[:80], "a list of numbers")
        found.append(number)
    return found


READERS: Mapping[Form, Callable[[Any], Any]] = {"turns": read_turns, "completions": read_completions, "numbers": read_numbers}


def read_flag(label: str) -> bool | None:
    """Return whether a label says that a completion is good; None if it says nothing of that."""
    return _FLAGS.get(label.strip().lower())


def is_dialogue(text: str) -> bool:
    """Whether a text is a dialogue in the form of HH-RLHF."""
    return text.startswith(HUMAN) and ASSISTANT in text


def is_whole(messages: Sequence[Mapping[str, object]]) -> bool:
    """Whether messages begin with the prompt: not with the assistant."""
    return len(messages) > 1 and messages[0].get("role", messages[0].get("from")) not in ("assistant", "gpt")


def opening(turns: str | list[dict[str, Any]]) -> Any:
    """Return what a conversation begins with, up to the first turn of the user; a text that is no dialogue is whole."""
    if isinstance(turns, list):
        return first_turn(turns)
    return turns.partition(ASSISTANT)[0] if turns.startswith(HUMAN) else turns
