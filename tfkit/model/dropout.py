"""Dropout (arXiv 1207.0580)."""

import torch.nn as nn


def build_dropout(probability: float) -> nn.Module:
    """Build dropout, or the identity for probability 0, where nn.Dropout would still copy its input."""
    return nn.Dropout(probability) if probability else nn.Identity()
