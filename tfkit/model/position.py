"""Where a token stands: position numbers, and the rotation that rotary positions make of them."""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cos and sin, each (T, E / 2) or (B, 1, T, E / 2)


def count_positions(length: int, device: torch.device, *, offset: int, padding_mask: Tensor | None, document_ids: Tensor | None) -> Tensor:
    """The position number of each of `length` new tokens: (T,) when all rows agree, else (B, T).

    Each document of a packed row counts from 0, and padding is not counted, so that a left-padded prompt stands where it would alone.
    """
    if document_ids is not None:
        index = torch.arange(length, device=device)
        begins = torch.zeros_like(document_ids)
        begins[:, 1:] = torch.where(document_ids[:, 1:] != document_ids[:, :-1], index[1:], 0)
        return index - begins.cummax(dim=1).values  # (B, T)
    if padding_mask is not None:
        return (padding_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]  # (B, T)
    return torch.arange(offset, offset + length, device=device)  # (T,)


def rotation_at(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of position * theta^(-2j / E), computed in float32 and then rounded, as Hugging Face does."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)  # (E / 2,)
    angles = positions[..., None].float() * theta ** (-pairs / head_dim)  # (..., T, E / 2)
    if positions.dim() == 2:
        angles = angles[:, None]  # (B, 1, T, E / 2): the same for every head
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (j, j + E / 2) of x (B, H, T, E): the half-split form, in which Hugging Face stores Llama's projections."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
