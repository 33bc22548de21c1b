"""Guards against a damaged or hostile tokenizer.json: errors of the `tokenizers` library, and replacements that would fill the memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tfkit.errors import ModelError


@contextmanager
def broken_tokenizer(place: str = "tokenizer.json") -> Iterator[None]:
    """Convert errors of the library (a bare Exception, a ValueError or a Rust panic) into ModelErrors."""
    try:
        yield
    except BaseException as error:
        if type(error) not in (Exception, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{place}: not a usable tokenizer ({error}); copy the folder again or take the original tokenizer") from error


def expansion(tokenizer_json: Any) -> int:
    """Return the largest number of characters into which replacements can expand one. If they fill the memory, Rust aborts the process."""
    steps = (tokenizer_json.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")) if isinstance(tokenizer_json, dict) else ()
    return max([1, *map(_expansion_factor, steps)])


def _expansion_factor(step: Any) -> int:
    """Return the expansion factor of a step or a sequence of steps."""
    if isinstance(step, list):
        return math.prod(map(_expansion_factor, step))
    if not isinstance(step, dict):
        return 1
    text = step.get("content") if step.get("type") == "Replace" else step.get("prepend")
    inner = (value for value in step.values() if isinstance(value, list | dict))
    return math.prod(map(_expansion_factor, inner)) * (len(text) + 1 if isinstance(text, str) and len(text) > 1 else 1)
