"""Padding of rows, on both sides, with the mask of what is real."""

import numpy as np
import torch

from tfkit.model.padding import pad, padding_mask, real_tokens

ROWS = [[5, 6, 7], np.array([8], np.int32), [9, 4]]


def test_rows_are_padded_on_the_right_or_on_the_left() -> None:
    assert pad(ROWS, -100).tolist() == [[5, 6, 7], [8, -100, -100], [9, 4, -100]]
    assert pad(ROWS, 0, left=True).tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 4]]
    assert pad(ROWS, 0).dtype == torch.int64


def test_the_mask_is_true_for_real_tokens() -> None:
    assert real_tokens(ROWS).tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert real_tokens(ROWS, left=True).tolist() == [[True, True, True], [False, False, True], [False, True, True]]
    mask = padding_mask(ROWS)
    assert mask is not None
    assert torch.equal(mask, real_tokens(ROWS))


def test_rows_of_one_length_need_no_mask() -> None:
    assert padding_mask([[1, 2], [3, 4]]) is None
