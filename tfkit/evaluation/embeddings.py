"""Embeddings of texts: the mean of the last hidden states over a text's tokens, the default pooling of sentence-transformers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.errors import DataError
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Transformer
from tfkit.objectives.text_pairs import encode_texts
from tfkit.parallel.rank_map import RankMap, serial_map
from tfkit.tokenizer import Tokenizer


def embed(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int) -> Tensor:
    """Return the embeddings of texts (see `embed_ids`) as a tensor (N, D), float32. Texts are truncated to the model's context.

    Raises DataError for a text without tokens.
    """
    ids = [text.ids for text in encode_texts(tokenizer, [(text, None) for text in texts], model.config.context_length)]
    if (empty := next((number for number, row in enumerate(ids, 1) if not row), None)) is not None:
        raise DataError(f"text {empty} gives no token, so it has no vector; leave it out")
    return torch.from_numpy(embed_ids(model, tokenizer, ids, batch_size))


def embed_ids(
    model: Transformer, tokenizer: Tokenizer, rows: Sequence[Sequence[int]], batch_size: int, deal: RankMap = serial_map
) -> NDArray[np.float32]:
    """Return the embeddings of texts that are given as token ids: (N, D), float32, not normalised. `deal` distributes the batches over the
    ranks.

    An embedding is the mean of the hidden states after the last norm (of the encoder, if there is one) over all tokens of the text,
    including the special tokens that the tokenizer adds.
    """
    check_vocabulary(rows, model.config.vocab_size)
    both = model.encoder is not None and model.decoder is not None
    device, embeddings = next(model.parameters()).device, np.empty((len(rows), model.config.dim), np.float32)
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]

    def mean_states(numbers: Sequence[int]) -> str:
        """Return the vectors of a batch as hexadecimal digits of their float32 values, since ranks exchange JSON values."""
        batch = [rows[number] for number in numbers]
        input_ids, mask = pad(batch, tokenizer.pad_id or 0).to(device), real_tokens(batch).to(device)  # (B, T)
        hidden = model(input_ids, padding_mask=mask).hidden if not both else model.encode(input_ids, mask)  # (B, T, D)
        sums = (hidden.float() * mask[:, :, None]).sum(1)  # (B, D)
        return (sums / mask.sum(1, keepdim=True)).cpu().numpy().tobytes().hex()

    with inference(model):
        for numbers, vectors in zip(batches, deal(mean_states, batches), strict=True):
            embeddings[numbers] = np.frombuffer(bytes.fromhex(vectors), np.float32).reshape(len(numbers), -1)
    return embeddings
