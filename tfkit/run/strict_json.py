"""Strict JSON. `loads` refuses NaN and Infinity, as the standard requires, and duplicate keys, which the standard only discourages.

A number that is not finite is written as null and, to differ from a missing value, listed in the top-level object `nonfinite` by its dotted
path, as nan, inf or -inf: `{"step": 7, "loss": null, "evaluation": {"f1": null}, "nonfinite": {"loss": "nan", "evaluation.f1": "inf"}}`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(document: Mapping[str, Any], indent: int | None = None) -> str:
    """Return the text of `document`, on one line unless `indent` is given. Raises TypeError for a value that JSON cannot represent."""
    # json.dumps escapes all but ASCII: also U+2028, at which some readers split lines, and lone surrogates, which UTF-8 cannot encode.
    return json.dumps(finite(document), indent=indent, allow_nan=False)


def finite(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return `document` with None in place of each number that is not finite, and with the object `nonfinite` that lists them, if any."""
    nonfinite: dict[str, str] = {}
    plain = {name: _finite(value, name, nonfinite) for name, value in document.items()}
    return plain | ({"nonfinite": nonfinite} if nonfinite else {})


def loads(text: str | bytes) -> Any:
    """Return the value of `text`. Raises ValueError for anything but strict JSON: also for bad UTF-8, duplicate keys and NaN."""
    if isinstance(text, bytes):
        text = text.decode()  # given bytes, json.loads would also accept UTF-16 and a byte order mark
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_number(value: object) -> bool:
    """Return whether a value from JSON is a number or None, since a number that is missing or not finite is written as null."""
    return value is None or type(value) in (int, float)


def _finite(value: Any, name: str, nonfinite: dict[str, str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite[name] = str(float(value))
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{name}.{key}", nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{name}.{index}", nonfinite) for index, item in enumerate(value)]
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    return document
