"""Random initialization of the weights for pretraining."""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig

BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.")  # prefix of a block's parameter names; groups: the block's stack and index
_WRITES_TO_RESIDUAL = ("o_proj.weight", "down_proj.weight")


def allocate(module: nn.Module) -> None:
    """Replace a module's tensors by uninitialized ones on the CPU, as `Module.to_empty` does, but without importing torch's compiler."""
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"))


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Initialize every parameter in place, in `named_parameters`' order: matrices by init.scheme, norms to the identity, biases to 0."""
    for name, parameter in model.named_parameters():
        _initialize_parameter(name, parameter, config, generator)


class RandomBlocks:
    """Draws the random weights of a model's blocks, one block per call, with the same bits as `initialize`."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, config: ModelConfig, generator: torch.Generator):
        """Initialize a model on the meta device except its blocks; for each block, keep the generator's state to draw it with later."""
        self._config = config
        self._states: dict[str, Tensor] = {}  # by prefix of a block's parameter names: the generator's state before drawing the block
        self._shapes: dict[str, dict[str, torch.Size]] = {}  # by the same prefix: the shapes of the block's parameters
        for name, parameter in list(model.named_parameters()):
            if block := BLOCK.match(name):
                self._states.setdefault(block[0], generator.get_state())
                self._shapes.setdefault(block[0], {})[name.removeprefix(block[0])] = parameter.shape
            tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
            _initialize_parameter(name, tensor, config, generator)
            if not block:
                put_weights(model, {name: tensor})

    @torch.no_grad()
    def __call__(self, prefix: str, block: nn.Module) -> None:
        """Initialize a block; the names of its parameters in the model begin with `prefix`."""
        generator = torch.Generator()
        generator.set_state(self._states[prefix])
        tensors = {name: torch.empty(shape) for name, shape in self._shapes[prefix].items()}
        for name, tensor in tensors.items():
            _initialize_parameter(prefix + name, tensor, self._config, generator)
        put_weights(block, tensors)


def put_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace the parameters that `tensors` names, which may be on the meta device, by new ones of their old type with the given values."""
    for name, tensor in tensors.items():
        old = module.get_parameter(name)
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, nn.Parameter(tensor.to(old.dtype), old.requires_grad))


def _initialize_parameter(name: str, parameter: Tensor, config: ModelConfig, generator: torch.Generator) -> None:
    if parameter.dim() <= 1:
        neutral = 0.0 if config.norm.kind == "rms" and config.norm.unit_offset else 1.0
        parameter.fill_(neutral if name.endswith("norm.weight") else 0.0)
        return
    match config.init.scheme:
        case "normal":
            std = config.init.std
            if config.init.residual_scaling and name.endswith(_WRITES_TO_RESIDUAL):
                layers = config.encoder_layers if name.startswith("encoder.") else config.decoder_layers
                std /= math.sqrt(2 * layers)  # two sublayers of each layer add to the residual stream (GPT-2, section 2.3)
            parameter.normal_(0.0, std, generator=generator)
        case "fan_in" if name.startswith("embedding."):
            parameter.normal_(0.0, config.dim**-0.5, generator=generator)
        case "fan_in":  # tensor2tensor's uniform unit scaling
            limit = math.sqrt(3 / parameter.shape[1])
            parameter.uniform_(-limit, limit, generator=generator)
        case "by_width":  # Mesh TensorFlow's, for T5: query projections start smaller, since T5 does not scale attention scores
            of_dim = ("k_proj", "v_proj", "gate_proj", "up_proj", "router", "position_bias", "pooler", "classes", "spans")
            widths = dict.fromkeys(of_dim, config.dim) | {
                "q_proj": config.dim * config.head_dim,
                "o_proj": config.num_heads * config.head_dim,
                "down_proj": parameter.shape[1],
            }
            parameter.normal_(0.0, widths.get(name.split(".")[-2], 1) ** -0.5, generator=generator)
