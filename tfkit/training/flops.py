"""The arithmetic of a training step, counted from the description alone."""

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
