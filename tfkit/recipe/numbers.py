"""Numbers in data, as people write them."""

import re

_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*", re.IGNORECASE)


def read_number(text: str) -> float | None:
    """Parse a number in decimal digits, with or without an exponent; None for any other text, or if no float can hold it.

    Python's float() also reads 1_5, infinity, nan and the digits of other scripts.
    """
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) < float("inf") else None
