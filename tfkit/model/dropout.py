"""Dropout (arXiv 1207.0580)."""

import torch.nn as nn


def build_dropout(probability: float) -> nn.Module:
    """Dropout, or the identity: dropout with probability 0 would still copy its input."""
    return nn.Dropout(probability) if probability else nn.Identity()
