"""The token limit of an evaluation, which is shared by all its sets; the last sets may be skipped."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Set = TypeVar("Set")


class TokenBudget:
    """The number of tokens that may still be scored; None: unlimited."""

    def __init__(self, max_tokens: int | None):
        self.left = max_tokens

    def until_spent(self, sets: Iterable[Set]) -> Iterator[Set]:
        """Yield sets while tokens are left; the caller calls `spend` after each."""
        for each in sets:
            if self.left is not None and self.left <= 0:
                return
            yield each

    def spend(self, tokens: int) -> None:
        """Subtract the tokens of a set."""
        if self.left is not None:
            self.left -= tokens
