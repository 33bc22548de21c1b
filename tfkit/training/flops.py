"""The FLOPs of a training step, computed from the model's config alone."""

from collections.abc import Mapping

from torch import nn

from tfkit.adapters import LORA_PARAMETERS
from tfkit.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Return the number of parameters that multiply every token: those of the blocks' matrices and the output matrix, not of look-ups."""
    query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.dim * (2 * query_dim + 2 * kv_dim)
    mlp = config.dim * config.hidden_dim * (3 if config.mlp.gated else 2)
    cross_attention = config.decoder_layers * attention if config.encoder_layers else 0
    return (config.encoder_layers + config.decoder_layers) * (attention + mlp) + cross_attention + config.vocab_size * config.dim


def training_flops_per_token(config: ModelConfig, length: int, decoder_fraction: float = 0.0) -> float:
    """Return the FLOPs of forward and backward per token, in rows of `length`: 6 per parameter (arXiv 2001.08361), and visible attention.

    `decoder_fraction`: of an encoder-decoder, the fraction of the tokens that are the decoder's; each stack computes only its own.
    """
    width = 6 * config.num_heads * config.head_dim
    if config.encoder_layers and config.decoder_layers:
        return _flops_of_both(config, length * (1 - decoder_fraction), length * decoder_fraction, width) / length
    attention = width * length * 2 * config.encoder_layers
    for layer in range(config.decoder_layers):
        window = config.window(layer)
        attention += width * (length if window is None else min(length, 2 * window))  # half of 2 x length, or all of a window
    return 6.0 * matmul_parameters(config) + attention


def _flops_of_both(config: ModelConfig, source: float, target: float, width: int) -> float:
    """Return the FLOPs of a row with these numbers of tokens. In cross-attention keys and values are the source's, all of it visible."""
    query, keys = config.dim * config.num_heads * config.head_dim, config.dim * config.num_kv_heads * config.head_dim
    block = 2 * query + 2 * keys + config.dim * config.hidden_dim * (3 if config.mlp.gated else 2)
    encoder = config.encoder_layers * source * (6 * block + width * 2 * source)
    decoder = config.decoder_layers * target * (6 * (block + 2 * query) + width * (target + 2 * source))
    return encoder + decoder + config.decoder_layers * source * 6 * 2 * keys + 6 * target * config.vocab_size * config.dim


def adapted_flops_per_token(parameters: Mapping[str, nn.Parameter], config: ModelConfig, decoder_fraction: float = 0.0) -> float:
    """Return the correction of these FLOPs per token for a model whose `parameters`, by name, are frozen or have LoRA matrices.

    A frozen matrix has no gradient: 2 less. The gradient of its input is always counted, though it is not needed below the lowest trained
    parameter. The two LoRA matrices of an update are multiplied and trained as any other: 6.
    """
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    output = "head.output.weight" if "head.output.weight" in parameters else "embedding.tokens.weight"
    total = 0.0
    for name, parameter in parameters.items():
        if not (name == output or (".blocks." in name and parameter.dim() > 1)):
            continue
        of_source = name.startswith("encoder.") or ".cross_attention.op.k_" in name or ".cross_attention.op.v_" in name
        fraction = (1 - decoder_fraction if of_source else decoder_fraction) if both else 1.0
        if name.endswith(LORA_PARAMETERS):
            total += 6 * parameter.numel() * fraction
        elif not parameter.requires_grad:
            total -= 2 * parameter.numel() * fraction
    return total
