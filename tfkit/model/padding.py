"""Padding of rows of unequal lengths to one tensor, and the mask of their real tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TokenRows = Sequence[Sequence[int] | NDArray[Any]]


def pad(rows: TokenRows, value: int, *, left: bool = False) -> Tensor:
    """Return the rows as (B, T), padded with `value` at the end of each row or, if `left`, at its beginning."""
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    for i, row in enumerate(rows):
        begin = width - len(row) if left else 0
        padded[i, begin : begin + len(row)] = torch.from_numpy(np.asarray(row, np.int64))
    return padded


def real_tokens(rows: TokenRows, *, left: bool = False) -> Tensor:
    """Return the mask (B, T) of the rows that `pad` returns: True = real token."""
    lengths = torch.tensor([len(row) for row in rows])
    columns = torch.arange(int(lengths.max()))
    return (columns.flip(0) if left else columns) < lengths[:, None]


def padding_mask(rows: TokenRows) -> Tensor | None:
    """Return the mask (B, T), True = real token; None if nothing is padded, so that attention needs no mask."""
    real = real_tokens(rows)
    return None if bool(real.all()) else real
