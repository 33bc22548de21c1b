"""Embeddings of texts: the mean of the last hidden states over a text's tokens, the default pooling of sentence-transformers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tfkit.errors import DataError
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Transformer
from tfkit.objectives.text_pairs import encode_texts
from tfkit.tokenizer import Tokenizer


def embed(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int) -> Tensor:
    """Return the embeddings of texts, (N, D), in float32 on the CPU; not normalised.

    The states are those after the last norm, of an encoder-decoder those of its encoder, and include the special tokens of the template.
    Texts are truncated to the context. Raises DataError for a text without tokens.
    """
    encoded = encode_texts(tokenizer, [(text, None) for text in texts], model.config.context_length)
    ids = [text.ids for text in encoded]
    if (empty := next((number for number, row in enumerate(ids, 1) if not row), None)) is not None:
        raise DataError(f"text {empty}: gives no token, and has no vector; leave it out")
    check_vocabulary(ids, model.config.vocab_size)
    both = model.encoder is not None and model.decoder is not None
    device, embeddings = next(model.parameters()).device, torch.empty(len(ids), model.config.dim)
    order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    with inference(model):
        for first in range(0, len(order), batch_size):
            numbers = order[first : first + batch_size]
            batch = [ids[number] for number in numbers]
            input_ids, mask = pad(batch, tokenizer.pad_id or 0).to(device), real_tokens(batch).to(device)  # (B, T)
            hidden = model(input_ids, padding_mask=mask).hidden if not both else model.encode(input_ids, mask)  # (B, T, D)
            sums = (hidden.float() * mask[:, :, None]).sum(1)  # (B, D)
            embeddings[numbers] = (sums / mask.sum(1, keepdim=True)).cpu()
    return embeddings
