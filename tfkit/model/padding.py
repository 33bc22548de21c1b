"""Rows of unequal lengths as one tensor, and the mask of their real tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TokenRows = Sequence[Sequence[int] | NDArray[Any]]


def pad(rows: TokenRows, value: int, *, left: bool = False) -> Tensor:
    """Return the rows as (B, T), filled up with `value` behind the end of each; `left`: before its beginning."""
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    for i, row in enumerate(rows):
        begin = width - len(row) if left else 0
        padded[i, begin : begin + len(row)] = torch.from_numpy(np.asarray(row, np.int64))
    return padded


def real_tokens(rows: TokenRows, *, left: bool = False) -> Tensor:
    """Return (B, T), True where `pad` puts no padding."""
    lengths = torch.tensor([len(row) for row in rows])
    columns = torch.arange(int(lengths.max()))
    return (columns.flip(0) if left else columns) < lengths[:, None]


def padding_mask(rows: TokenRows) -> Tensor | None:
    """Return the mask of the real tokens; None if nothing is padded, so that attention needs no mask."""
    real = real_tokens(rows)
    return None if bool(real.all()) else real
