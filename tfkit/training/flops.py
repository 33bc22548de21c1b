"""The arithmetic of a training step, counted from the description alone."""

from collections.abc import Mapping

from torch import nn

from tfkit.adapters import LORA_PARAMETERS
from tfkit.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Parameters that multiply every token: all matrices of the blocks, and the output matrix. Look-ups cost nothing."""
    query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.dim * (2 * query_dim + 2 * kv_dim)
    mlp = config.dim * config.hidden_dim * (3 if config.mlp.gated else 2)
    crossed = config.decoder_layers * attention if config.encoder_layers else 0
    return (config.encoder_layers + config.decoder_layers) * (attention + mlp) + crossed + config.vocab_size * config.dim


def training_flops_per_token(config: ModelConfig, length: int, written: float = 0.0) -> float:
    """FLOPs of forward and backward a token, in rows of `length`: 6 a parameter (arXiv 2001.08361), and the visible attention.

    `written` is the share of the tokens that are the decoder's, of an encoder-decoder; each stack works on its own.
    """
    width = 6 * config.num_heads * config.head_dim
    if config.encoder_layers and config.decoder_layers:
        return _flops_of_both(config, length * (1 - written), length * written, width) / length
    attention = width * length * 2 * config.encoder_layers
    for layer in range(config.decoder_layers):
        window = config.window(layer)
        attention += width * (length if window is None else min(length, 2 * window))  # half of 2 x length, or all of a window
    return 6.0 * matmul_parameters(config) + attention


def _flops_of_both(config: ModelConfig, source: float, target: float, width: int) -> float:
    """Of a row with so many tokens on each side. In cross-attention keys and values are the source's, and all of it is visible."""
    query, keys = config.dim * config.num_heads * config.head_dim, config.dim * config.num_kv_heads * config.head_dim
    block = 2 * query + 2 * keys + config.dim * config.hidden_dim * (3 if config.mlp.gated else 2)
    encoder = config.encoder_layers * source * (6 * block + width * 2 * source)
    decoder = config.decoder_layers * target * (6 * (block + 2 * query) + width * (target + 2 * source))
    return encoder + decoder + config.decoder_layers * source * 6 * 2 * keys + 6 * target * config.vocab_size * config.dim


def adapted_flops_per_token(parameters: Mapping[str, nn.Parameter], config: ModelConfig, written: float = 0.0) -> float:
    """What to add to these FLOPs a token for a model whose `parameters`, by name, are frozen or have thin ones beside them.

    A frozen matrix has no gradient of its own: 2 less. That of what it reads is counted always, though it is not needed below the lowest
    parameter that is trained. The two matrices of an update are multiplied, and trained, as any other: 6.
    """
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    output = "head.output.weight" if "head.output.weight" in parameters else "embedding.tokens.weight"
    total = 0.0
    for name, parameter in parameters.items():
        if not (name == output or (".blocks." in name and parameter.dim() > 1)):
            continue
        of_source = name.startswith("encoder.") or ".cross_attention.op.k_" in name or ".cross_attention.op.v_" in name
        share = (1 - written if of_source else written) if both else 1.0
        if name.endswith(LORA_PARAMETERS):
            total += 6 * parameter.numel() * share
        elif not parameter.requires_grad:
            total -= 2 * parameter.numel() * share
    return total
