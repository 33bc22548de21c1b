"""A damaged or hostile tokenizer.json: what the `tokenizers` library raises, and what would fill the memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tfkit.errors import ModelError


@contextmanager
def broken_tokenizer(place: str = "tokenizer.json") -> Iterator[None]:
    """Raise ModelError for the Exception itself that the library raises, for ValueError, and for a panic of its rust."""
    try:
        yield
    except BaseException as error:
        if type(error) not in (Exception, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{place}: not a usable tokenizer ({error}); copy the folder again or take the tokenizer of its origin") from error


def expansion(tokenizer_json: Any) -> int:
    """At most how many characters its replacements, one after the other, can make of one. Rust ends the process if they fill the memory."""
    steps = (tokenizer_json.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")) if isinstance(tokenizer_json, dict) else ()
    return max([1, *map(_growth, steps)])


def _growth(step: Any) -> int:
    """Of one step, or of a sequence of steps."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1
    text = step.get("content") if step.get("type") == "Replace" else step.get("prepend")
    inner = (value for value in step.values() if isinstance(value, list | dict))
    return math.prod(map(_growth, inner)) * (len(text) + 1 if isinstance(text, str) and len(text) > 1 else 1)
