"""The random weights that pretraining starts from."""

import math

import torch
import torch.nn as nn

from tfkit.model.config import ModelConfig

_WRITES_TO_RESIDUAL = ("o_proj.weight", "down_proj.weight")


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Draw every parameter in place, in the order of their names in the module: matrices normal, norms 1, biases 0."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            std = config.init.std
            if config.init.residual_scaling and name.endswith(_WRITES_TO_RESIDUAL):
                std /= math.sqrt(2 * config.decoder_layers)  # two sublayers a layer add to the stream
            parameter.normal_(0.0, std, generator=generator)
        else:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
