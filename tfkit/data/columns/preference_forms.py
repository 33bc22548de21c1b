"""Readers of preference data: turns (a text, or messages), completions (a list of turns), and numbers, one for each completion.

A text may be a whole dialogue in the format of Anthropic's HH-RLHF, whose turns begin with an empty line and "Human:" or "Assistant:".
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
_COMPLETIONS = "a list of completions, each a text or messages"


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
        return Unfit("null" if value is None else type(value).__name__, _COMPLETIONS)
    completions: list[str | list[dict[str, Any]]] = []
    for completion in map(read_turns, value):
        if isinstance(completion, Unfit):
            return Unfit(f"a list with {completion.found}", _COMPLETIONS)
        completions.append(completion)
    return completions


def read_numbers(value: Any) -> list[float] | Unfit:
    """Read a list of numbers, or of texts that are numbers. Infinity and NaN do not fit."""
    if not isinstance(value, list):
        return Unfit("null" if value is None else type(value).__name__, "a list of numbers")
    numbers: list[float] = []
    for item in value:
        number = read_number(item) if isinstance(item, str) else float(item) if isinstance(item, int | float) else None
        if number is None or not math.isfinite(number):
            return Unfit(f"a list with {item!r}"[:80], "a list of numbers")
        numbers.append(number)
    return numbers


READERS: Mapping[Form, Callable[[Any], Any]] = {"turns": read_turns, "completions": read_completions, "numbers": read_numbers}


def read_flag(label: str) -> bool | None:
    """Return whether a label marks a completion as good (True) or bad (False); None for any other label."""
    return _FLAGS.get(label.strip().lower())


def is_dialogue(text: str) -> bool:
    """Whether a text is a dialogue in the format of HH-RLHF."""
    return text.startswith(HUMAN) and ASSISTANT in text


def is_whole(messages: Sequence[Mapping[str, object]]) -> bool:
    """Whether messages are a whole conversation: several, which begin with the prompt and not with the assistant."""
    return len(messages) > 1 and messages[0].get("role", messages[0].get("from")) not in ("assistant", "gpt")


def opening(turns: str | list[dict[str, Any]]) -> Any:
    """Return the opening of a conversation, up to the first user turn, by which rows are held out; all of a text that is no dialogue."""
    if isinstance(turns, list):
        return first_turn(turns)
    return turns.partition(ASSISTANT)[0] if turns.startswith(HUMAN) else turns
