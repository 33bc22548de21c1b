"""Random initialization of the weights for pretraining."""

import math

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig

_WRITES_TO_RESIDUAL = ("o_proj.weight", "down_proj.weight")


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Initialize every parameter in place, in the module's order: matrices by the config's scheme, norms to the identity, biases to 0."""
    neutral = 0.0 if config.norm.kind == "rms" and config.norm.unit_offset else 1.0
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            _draw(name, parameter, config, generator)
        else:
            parameter.fill_(neutral if name.endswith("norm.weight") else 0.0)


def _draw(name: str, matrix: Tensor, config: ModelConfig, generator: torch.Generator) -> None:
    match config.init.scheme:
        case "normal":
            std = config.init.std
            if config.init.residual_scaling and name.endswith(_WRITES_TO_RESIDUAL):
                layers = config.encoder_layers if name.startswith("encoder.") else config.decoder_layers
                std /= math.sqrt(2 * layers)  # two sublayers of each layer add to the residual stream
            matrix.normal_(0.0, std, generator=generator)
        case "fan_in" if name.startswith("embedding."):
            matrix.normal_(0.0, config.dim**-0.5, generator=generator)
        case "fan_in":  # tensor2tensor's uniform unit scaling
            limit = math.sqrt(3 / matrix.shape[1])
            matrix.uniform_(-limit, limit, generator=generator)
        case "by_width":  # Mesh TensorFlow's: the scores are not scaled, so the queries start smaller
            widths = {
                "q_proj": config.dim * config.head_dim,
                "k_proj": config.dim,
                "v_proj": config.dim,
                "o_proj": config.num_heads * config.head_dim,
                "gate_proj": config.dim,
                "up_proj": config.dim,
                "down_proj": config.hidden_dim,
                "position_bias": config.dim,
                "pooler": config.dim,
                "classes": config.dim,
            }
            matrix.normal_(0.0, widths.get(name.split(".")[-2], 1) ** -0.5, generator=generator)
