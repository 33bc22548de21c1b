"""A part of the rows of a run, as rows of their own: what a trial trains on, and what it is scored on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.loader import Rows


class PartOfRows:
    """The rows with some of the numbers, which are counted again from 0, in the order of all."""

    def __init__(self, rows: Rows, numbers: NDArray[np.int64]):
        """`numbers`: of the rows that are kept, ascending."""
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def mean_tokens(self) -> float:
        """Tokens a row, about: those of all rows."""
        return self._rows.mean_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest row of all."""
        return self._rows.longest

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of an epoch's rows, in the order in which all are read."""
        order = self._rows.order(epoch)
        return np.searchsorted(self._numbers, order[np.isin(order, self._numbers)])

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the rows of these numbers."""
        return self._rows.gather(epochs, self._numbers[numbers])
