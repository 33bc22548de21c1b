"""The limit of an evaluation, which holds for all of its sets together: the last ones may be left out."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Set = TypeVar("Set")


class TokenBudget:
    """How many tokens may still be scored; None: all."""

    def __init__(self, max_tokens: int | None):
        self.left = max_tokens

    def until_spent(self, sets: Iterable[Set]) -> Iterator[Set]:
        """The sets one after the other, while something is left; `spend` comes between them."""
        for one in sets:
            if self.left is not None and self.left <= 0:
                return
            yield one

    def spend(self, tokens: int) -> None:
        """Take the tokens of a set away."""
        if self.left is not None:
            self.left -= tokens
