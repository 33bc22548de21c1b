"""Examples of unequal lengths to tensors: padded on the right, with a mask of what is real."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Example, ExampleBatch


def single(rows: ExampleBatch) -> list[Example]:
    """The examples of rows that hold one each."""
    return [row[0] for row in rows.rows]


def pad(arrays: Sequence[NDArray[np.int32]], value: int) -> Tensor:
    """(B, T) with `value` behind the end of each."""
    padded = torch.full((len(arrays), max(len(array) for array in arrays)), value, dtype=torch.long)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = torch.from_numpy(array.astype(np.int64))
    return padded


def real(arrays: Sequence[NDArray[np.int32]]) -> Tensor | None:
    """(B, T), True where `pad` puts no padding; None where it puts none at all, so that attention needs no mask."""
    lengths = torch.tensor([len(array) for array in arrays])
    longest = int(lengths.max())
    return None if int(lengths.min()) == longest else torch.arange(longest) < lengths[:, None]
