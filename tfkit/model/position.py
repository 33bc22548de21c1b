"""Where a token stands: position numbers, and the rotation that rotary positions make of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cos and sin, each (T, E / 2) or (B, 1, T, E / 2)


@dataclass(frozen=True)
class Where:
    """The new tokens of one forward: how many, after how many cached ones, and which belong together."""

    length: int  # T new tokens
    offset: int  # S - T tokens before them, in the cache
    device: torch.device
    padding_mask: Tensor | None  # (B, S), True = real token
    document_ids: Tensor | None  # (B, T)


def count_positions(where: Where) -> Tensor:
    """The position number of each new token: (T,) when all rows agree, else (B, T).

    Each document of a packed row counts from 0, and padding is not counted, so that a left-padded prompt stands where it would alone.
    """
    documents, padding = where.document_ids, where.padding_mask
    if documents is not None:
        index = torch.arange(where.length, device=where.device)
        begins = torch.zeros_like(documents)
        begins[:, 1:] = torch.where(documents[:, 1:] != documents[:, :-1], index[1:], 0)
        return index - begins.cummax(dim=1).values  # (B, T)
    if padding is not None:
        return (padding.long().cumsum(dim=1) - 1).clamp(min=0)[:, -where.length :]  # (B, T)
    return torch.arange(where.offset, where.offset + where.length, device=where.device)  # (T,)


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
