"""The arithmetic of a training step, counted from the description alone."""

from tfkit.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Parameters that multiply every token: all matrices of the blocks, and the output matrix. Look-ups cost nothing."""
    query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.dim * (2 * query_dim + 2 * kv_dim)
    mlp = config.dim * config.hidden_dim * (3 if config.mlp.gated else 2)
    crossed = config.decoder_layers * attention if config.encoder_layers else 0
    return (config.encoder_layers + config.decoder_layers) * (attention + mlp) + crossed + config.vocab_size * config.dim


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """FLOPs of forward and backward a token, in rows of `length`: 6 a parameter (arXiv 2001.08361), and the visible attention."""
    width = 6 * config.num_heads * config.head_dim
    attention = width * length * 2 * config.encoder_layers
    for layer in range(config.decoder_layers):
        window = config.window(layer)
        attention += width * (length if window is None else min(length, 2 * window))  # half of 2 x length, or all of a window
    return 6.0 * matmul_parameters(config) + attention
