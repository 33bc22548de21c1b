"""A subset of the rows of a run, such as the rows on which a trial of a learning rate trains, and those on which it is scored."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.loader import Rows


class RowSubset:
    """A subset of rows, renumbered from 0, in the order in which the full set is read."""

    def __init__(self, rows: Rows, numbers: NDArray[np.int64]):
        """`numbers`: the numbers of the rows to keep, ascending."""
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def mean_tokens(self) -> float:
        """The mean number of tokens in a row of the full set, approximately that of the subset."""
        return self._rows.mean_tokens

    @property
    def longest(self) -> int:
        """The number of tokens in the longest row of the full set."""
        return self._rows.longest

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the row numbers of an epoch, in reading order: (len(self),)."""
        order = self._rows.order(epoch)
        return np.searchsorted(self._numbers, order[np.isin(order, self._numbers)])

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the rows with these numbers."""
        return self._rows.gather(epochs, self._numbers[numbers])
