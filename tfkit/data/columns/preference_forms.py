"""Readers of preference data: turns (a text, or messages), completions (a list of such turns), the scores of completions, and votes.

A text may be a whole dialogue in the format of Anthropic's HH-RLHF, whose turns begin with an empty line and "Human:" or "Assistant:".
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfkit.data.columns.forms import Unfit, kind_of, list_of
from tfkit.data.columns.structured_forms import first_turn
from tfkit.recipe.column_forms import read_number
from tfkit.recipe.schema.roles import Form

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_FLAGS = dict.fromkeys(("true", "1", "yes", "good", "positive", "desirable", "chosen"), True)
_FLAGS |= dict.fromkeys(("false", "0", "no", "bad", "negative", "undesirable", "rejected"), False)
_TIES = {"tie", "ties", "both", "bothbad", "neither", "equal", "same", "draw"}
# The words that vote for the first and those that vote for the second of two completions; a tie votes for both.
_SIDES = ({"a", "1", "first", "left", *_TIES}, {"b", "2", "second", "right", *_TIES})


def read_turns(value: Any) -> str | list[dict[str, Any]] | Unfit:
    """Read a text, which is returned unchanged, or one or more messages, which are returned as a list of mappings."""
    match value:
        case str():
            return value
        case Mapping():
            return [dict(value)]
        case list() if value and all(isinstance(part, Mapping) for part in value):
            return [dict(part) for part in value]
    return Unfit(kind_of(value), "text or messages")


def _read_finite(value: Any) -> float | Unfit:
    """Read a number, or a text that is a number. Infinity and NaN are Unfit."""
    try:
        number = read_number(value) if isinstance(value, str) else float(value) if isinstance(value, int | float) else None
    except OverflowError:  # an integer of hundreds of digits is beyond the largest float
        number = None
    return number if number is not None and math.isfinite(number) else Unfit(f"{value!r}"[:68], "a number")


def read_votes(value: Any) -> list[float] | Unfit:
    """Count the votes for the first and the second of two completions. `value`: a vote, a list of votes, or a mapping from votes to counts.

    A vote is `a`, `1`, `first` or `left`; `b`, `2`, `second` or `right`; a name whose last word is one of these (model_a); or a tie, which
    is half a vote for each completion. Other values are Unfit.
    """
    votes = [0.0, 0.0]
    pairs = value.items() if isinstance(value, Mapping) else [(vote, 1) for vote in (value if isinstance(value, list) else [value])]
    for vote, count in pairs:
        number = _read_finite(count)
        sides = _sides_of(vote)
        if not sides or isinstance(number, Unfit):
            zero = "; if the votes are numbers from 0, name them with class_names: [a, b]" if str(vote) == "0" else ""
            return Unfit(f"{vote if not sides else count!r}"[:80], f"a vote for one of two responses: a or b, 1 or 2, or tie{zero}")
        for side in sides:
            votes[side] += number / len(sides)
    return votes


def _sides_of(vote: object) -> list[int]:
    """Return the indices of the completions that a vote is for, by its last word: [0], [1], or for a tie [0, 1]; empty for other texts.

    A comparison such as A>B is no vote: its last word may be the side that lost.
    """
    text = str(vote).strip().lower().partition("(")[0].strip()
    name = "" if re.search("[<>=]", text) else re.split(r"[\W_]+", text)[-1]
    return [side for side, names in enumerate(_SIDES) if name in names]


def vote_columns(held: Mapping[str, Sequence[object]]) -> list[str]:
    """Return the columns of zeros and ones that are named like votes (`winner_a`, `winner_tie`); empty unless both completions have one.

    `held`: the values of each column, row by row.
    """
    sides = {name: _sides_of(name) for name, values in held.items() if {*map(str, values)} == {"0", "1"}}
    return [name for name in sides if sides[name]] if {0, 1} <= {side for found in sides.values() for side in found} else []


READERS: Mapping[Form, Callable[[Any], Any]] = {
    "turns": read_turns,
    "completions": list_of(read_turns, "completions, each a text or messages"),
    "numbers": list_of(_read_finite, "numbers"),
    "votes": read_votes,
}


def read_flag(label: str) -> bool | None:
    """Return whether a label marks a completion as good (True) or bad (False); None for any other label."""
    return _FLAGS.get(label.strip().lower())


def is_dialogue(text: str) -> bool:
    """Whether a text is a dialogue in the format of HH-RLHF."""
    return text.startswith(HUMAN) and ASSISTANT in text


def is_whole(messages: Sequence[Mapping[str, object]]) -> bool:
    """Whether messages are a whole conversation: more than one, and the first is not the assistant's."""
    return len(messages) > 1 and messages[0].get("role", messages[0].get("from")) not in ("assistant", "gpt")


def opening(turns: str | list[dict[str, Any]]) -> Any:
    """Return the part of a conversation whose hash decides whether its row is held out: the turns up to and including the user's first.
    A text that is no dialogue is returned whole.
    """
    if isinstance(turns, list):
        return first_turn(turns)
    return turns.partition(ASSISTANT)[0] if turns.startswith(HUMAN) else turns
