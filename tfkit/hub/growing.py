"""Copies of a trained model with more entries in the vocabulary, or with fewer learned positions."""

import torch

from tfkit.model.transformer import Transformer, build, on_meta

_ROWS = ("embedding.tokens.weight", "head.output.weight", "head.bias")  # tensors with one row for each entry of the vocabulary
_POSITIONS = {"embedding.positions.weight", "embedding.decoder.positions.weight"}


def with_more_entries(model: Transformer, vocab_size: int, seed: int) -> Transformer:
    """Return the same model with a vocabulary of `vocab_size` entries. The vectors of the new entries, which come last, are drawn at random
    with `seed`, as in pretraining. GPT's fine-tuning, for example, adds three entries (Radford et al. 2018, section 3.2).
    """
    config, tensors = model.config, model.state_dict()
    # `new`, which gives the added rows, needs only one layer in each stack, since only its tensors in _ROWS are used.
    few = {name: min(1, getattr(config, name)) for name in ("encoder_layers", "decoder_layers")}
    new = build(config.model_copy(update={"vocab_size": vocab_size - config.vocab_size, **few}), seed).state_dict()
    tensors |= {name: torch.cat([tensors[name], new[name].to(tensors[name])]) for name in _ROWS if name in tensors}
    larger = on_meta(config.model_copy(update={"vocab_size": vocab_size}))
    larger.load_state_dict(tensors, assign=True)
    larger.fill_block = model.fill_block
    return larger.requires_grad_().train(model.training)


def with_fewer_positions(model: Transformer, context_length: int) -> Transformer:
    """Return the same model with positions for `context_length` tokens only. For texts of at most this length, its output is the same."""
    shorter = on_meta(model.config.model_copy(update={"context_length": context_length}))
    tensors = model.state_dict()
    for name in tensors.keys() & _POSITIONS:
        tensors[name] = tensors[name][: shorter.config.position_rows].clone()
    shorter.load_state_dict(tensors, assign=True)
    shorter.fill_block = model.fill_block
    return shorter.requires_grad_().train(model.training)
