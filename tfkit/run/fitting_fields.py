"""Tolerant reading of a JSON object as a dataclass: a field whose value is of a wrong type, as in a damaged file, gets its default."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tfkit.carbon.footprint import Intensity

LARGEST = 1e30  # a float of this magnitude or a larger one counts as damaged
_T = TypeVar("_T")


def fitting(kind: Callable[..., _T], document: Any, **others: Any) -> _T:
    """Return an instance of the dataclass `kind`, with the fields in `others`, and all other fields from the JSON object `document`.

    A field gets its default if its value is missing, of another type than the field, not finite, or a float of magnitude LARGEST or more.
    """
    values: dict[str, Any] = {}
    for name, hint in _hints(kind).items() if isinstance(document, dict) else ():
        with suppress(ValidationError):
            if name in document and name not in others:
                value = _adapter(hint).validate_python(document[name])
                values |= {} if isinstance(value, float) and abs(value) >= LARGEST else {name: value}
    return kind(**others, **values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    is_strict = Intensity not in get_args(hint)  # strict validation accepts no JSON object for a dataclass such as Intensity
    return TypeAdapter(hint, config=ConfigDict(strict=is_strict, allow_inf_nan=False))
