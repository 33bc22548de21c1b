"""Model folders with a tokenizer whose attention can be looked at."""

from collections.abc import Callable
from pathlib import Path

import torch
from tiny_writers import START, tiny_model

from tfkit.hub import save_model
from tfkit.model.transformer import Transformer
from tfkit.tokenizer import train_byte_bpe

CORPUS = ["the cat sat on the mat and the dog ran to the cat", "a dog sat on a mat", "the mat is on the dog"] * 4
TEXT = "the cat sat on the mat and the dog"


def write_attended(
    folder: Path, family: str, change: Callable[[Transformer], object] = lambda model: None, context_length: int = 40
) -> Path:
    """Save a tiny random model of a family in tiny_writers, changed by `change`, with a tokenizer of its own; return the folder."""
    tokenizer = train_byte_bpe(CORPUS, 300, add_bos=False)
    model = tiny_model(family, context_length, vocab_size=tokenizer.size)
    with torch.no_grad():
        change(model)
    folder.mkdir(parents=True, exist_ok=True)
    name = {"t5": "t5", "gemma2": "gemma2", "gpt2": "gpt2"}.get(family)
    ids = {"decoder_start_token_id": START, "eos_token_id": tokenizer.eos_id}
    save_model(folder, model.config, model.state_dict(), tokenizer, family=name, special_ids=ids if model.encoder is not None else {})
    return folder


def aim_heads(model: Transformer) -> None:
    """Make heads of a tiny T5 by its position bias: in the encoder head 0 attends to the token before, 1 to the one after, 2 to itself; in
    the decoder head 1 to the token before.
    """
    encoder, decoder = model.stacks
    for stack, head, bucket in ((encoder, 0, 1), (encoder, 1, 4 + 1), (encoder, 2, 0), (decoder, 1, 1)):
        stack.position_bias.weight[bucket, head] = 1000.0
