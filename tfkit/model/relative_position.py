"""Positions in attention: rotary embeddings (arXiv 2104.09864), which rotate queries and keys by angles that grow with the position; and
scores of the distance between a query and a key, T5's bias and DeBERTa's vectors.
"""

import math

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.config.position_config import Disentangled, LongRopeScaling, Relative, Rotary, WavelengthScaling, YarnScaling
from tfkit.model.masks import Positions
from tfkit.model.norm import build_norm

Rotation = tuple[Tensor, Tensor]  # cos and sin, each (T, R / 2) or (B, 1, T, R / 2), where the first R <= E elements of a head rotate


def rotations_at(position_ids: Tensor, head_dim: int, rotary: Rotary, dtype: torch.dtype) -> dict[str, Rotation]:
    """Return the rotations by the names that `ModelConfig.rotation` returns: global and, if there is a local_theta, local."""
    kinds = {"global": rotary}
    if rotary.local_theta is not None:
        kinds["local"] = rotary.model_copy(update={"theta": rotary.local_theta, "scaling": None})
    return {name: rotation_at(position_ids, head_dim, kind, dtype) for name, kind in kinds.items()}


def rotation_at(position_ids: Tensor, head_dim: int, rotary: Rotary, dtype: torch.dtype) -> Rotation:
    """Return cosine and sine of position times frequency, times the attention factor if any; float32, then rounded, as in Hugging Face."""
    scaling = rotary.scaling
    frequencies = rotary_frequencies(head_dim, rotary, position_ids.device)  # (R / 2,)
    if isinstance(scaling, LongRopeScaling):
        short, long = (frequencies / frequencies.new_tensor(factors) for factors in (scaling.short_factors, scaling.long_factors))
        is_long = text_lengths(position_ids) > scaling.original_context_length
        frequencies = torch.where(is_long[..., None], long, short)  # (..., T, R / 2)
    angles = position_ids[..., None].float() * frequencies  # (..., T, R / 2)
    if position_ids.dim() == 2:
        angles = angles[:, None]  # (B, 1, T, R / 2): the same for every head
    cos, sin = angles.cos(), angles.sin()
    if isinstance(scaling, YarnScaling | LongRopeScaling):
        factor = attention_factor(scaling)
        cos, sin = cos * factor, sin * factor
    return cos.to(dtype), sin.to(dtype)


def text_lengths(position_ids: Tensor) -> Tensor:
    """Return, for each new token, the length of its text so far, new tokens included: (..., T) -> (..., T). A text begins at position 0."""
    text = (position_ids == 0).long().cumsum(dim=-1)  # the index, from 1, of each token's text in its row
    last = position_ids.new_zeros(*text.shape[:-1], text.shape[-1] + 1).scatter_reduce(-1, text, position_ids, "amax")
    return last.gather(-1, text) + 1


def rotary_frequencies(head_dim: int, rotary: Rotary, device: torch.device | None = None) -> Tensor:
    """Return the angle per position of each pair j, theta^(-2j / R), scaled as configured, except by longrope, which varies by text."""
    rotated, scaling = rotary.rotated(head_dim), rotary.scaling
    pairs = torch.arange(0, rotated, 2, dtype=torch.float32, device=device)  # (R / 2,)
    frequencies = rotary.theta ** (-pairs / rotated)
    if scaling is None or scaling.kind == "longrope":
        return frequencies
    match scaling.kind:
        case "linear":
            return frequencies / scaling.factor
        case "yarn":
            return _scale_by_turns(frequencies, scaling, rotated, rotary.theta)
        case "llama3":
            return _scale_wavelengths(frequencies, scaling)


def attention_factor(scaling: YarnScaling | LongRopeScaling) -> float:
    """Return the factor that scales rotated queries and keys; if the config has none, YaRN's default (arXiv 2309.00071, equation 22)."""
    if isinstance(scaling, LongRopeScaling):
        return scaling.attention_factor
    return scaling.attention_factor or 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0


def _scale_by_turns(frequencies: Tensor, scaling: YarnScaling, rotated: int, theta: float) -> Tensor:
    """Keep the frequencies of pairs that turn often in the original context, divide those of pairs that turn seldom by the factor, and
    interpolate between the two (YaRN, arXiv 2309.00071, section 3.2). The interpolation begins and ends at whole pairs, as in YaRN's code.
    """

    def pair(turns: float) -> float:
        return rotated * math.log(scaling.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = max(math.floor(pair(scaling.beta_fast)), 0), min(math.ceil(pair(scaling.beta_slow)), rotated - 1)
    pairs = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    divided = ((pairs - first) / (last - first or 0.001)).clamp(0, 1)  # 0: kept, 1: divided
    return frequencies / scaling.factor * divided + frequencies * (1 - divided)


def _scale_wavelengths(frequencies: Tensor, scaling: WavelengthScaling) -> Tensor:
    """Keep short wavelengths, multiply long ones by the factor, and interpolate between the two (Llama 3.1, arXiv 2407.21783)."""
    wavelengths = 2 * math.pi / frequencies
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context_length
    kept = ((original / wavelengths - low) / (high - low)).clamp(0, 1)  # 1: kept, 0: multiplied
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (j, j + R / 2) of x (B, H, T, E), as needed for the order in which Hugging Face stores rows of projections."""
    cos, sin = rotation
    half, width = cos.shape[-1], x.shape[-1]
    first, second, *rest = x.split([half, half, *([width - 2 * half] if width > 2 * half else [])], dim=-1)  # (B, H, T, R / 2) twice
    return torch.cat((first * cos - second * sin, second * cos + first * sin, *rest), dim=-1)  # (B, H, T, E)


class RelativeBias(nn.Module):
    """T5's position bias (arXiv 1910.10683): a learned number for each head and bucket of distances, shared by all layers of a stack."""

    def __init__(self, config: Relative, num_heads: int, bidirectional: bool):
        super().__init__()
        self.buckets, self.max_distance, self.bidirectional = config.buckets, config.max_distance, bidirectional
        self.weight = nn.Parameter(torch.empty(config.buckets, num_heads))

    def forward(self, positions: Positions) -> Tensor:
        """Return the bias of the scores: (1, H, T, S)."""
        queries = torch.arange(positions.offset, positions.offset + positions.length, device=positions.device)
        keys = torch.arange(positions.offset + positions.length, device=positions.device)
        bias = self.weight[self.bucket(keys[None, :] - queries[:, None])]  # (T, S, H)
        return bias.permute(2, 0, 1)[None].contiguous()  # (1, H, T, S), in the memory layout of the scores

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the index of the bucket of `distance`, key - query position; long distances share increasingly wide buckets."""
        buckets = self.buckets // 2 if self.bidirectional else self.buckets
        side = (distance > 0).long() * buckets if self.bidirectional else torch.zeros_like(distance)
        steps = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        near = buckets // 2
        ratio = torch.log(steps.clamp(min=1).float() / near) / math.log(self.max_distance / near)
        far = (near + (ratio * (buckets - near)).long()).clamp(max=buckets - 1)
        return side + torch.where(steps < near, steps, far)


class DistanceVectors(nn.Module):
    """DeBERTa's vectors of distances (arXiv 2006.03654, section 3.1), with the buckets and the norm of its version 3 (arXiv 2111.09543)."""

    def __init__(self, position: Disentangled, config: ModelConfig):
        super().__init__()
        self.buckets, self.max_distance = position.buckets, position.max_distance
        self.weight = nn.Parameter(torch.empty(2 * position.buckets, config.dim))
        self.norm = build_norm(config.dim, config.norm)

    def forward(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """Return the vectors (2 R, D), R buckets for each sign of a distance, and the index (T, T) of the vector for each query and key."""
        index = torch.arange(positions.length, device=positions.device)
        distance = self.bucket(index[:, None] - index[None, :]) + self.buckets
        return self.norm(self.weight), distance.clamp(0, 2 * self.buckets - 1)

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the signed bucket of `distance`, query - key position; long distances share increasingly wide buckets."""
        near = self.buckets // 2
        steps = distance.abs()
        ratio = torch.log(steps.clamp(min=near) / near) / torch.log(torch.tensor((self.max_distance - 1) / near))
        far = torch.ceil(ratio * (near - 1)).long() + near
        return torch.where(steps <= near, distance, far * distance.sign())
