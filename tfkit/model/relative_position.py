"""Scores of the distance between a query and a key: T5's bias and DeBERTa's vectors."""

import math

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.config.position_config import Disentangled, Relative
from tfkit.model.masks import Positions
from tfkit.model.norm import build_norm


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
        """Return the vectors (2 R, D), R for each sign of a distance, and the index (T, T) of the vector for each query and key."""
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
