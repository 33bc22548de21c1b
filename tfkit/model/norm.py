"""LayerNorm (arXiv 1607.06450) and RMSNorm (arXiv 1910.07467), by the config's kind."""

import torch.nn as nn

from tfkit.model.config import NormConfig


def build_norm(dim: int, config: NormConfig) -> nn.Module:
    """A norm over the last dimension (..., D) -> (..., D)."""
    match config.kind:
        case "layer":
            return nn.LayerNorm(dim, eps=config.eps)
        case "rms":
            return nn.RMSNorm(dim, eps=config.eps)
