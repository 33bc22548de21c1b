"""Mask filling by a masked language model: each mask is replaced by the likeliest token at its position."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from tfkit.errors import DataError, ModelError
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.generation.partial_text import complete_text_after, context_of
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Transformer
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.template import encode_rendered
from tfkit.tokenizer.tokenizer import token_text

_AT_ONCE = 16  # the largest number of texts in a forward pass


@dataclass(frozen=True)
class Candidate:
    """A token for a mask, as it would appear in the text, and its probability."""

    token: str
    probability: float


@dataclass(frozen=True)
class Filling:
    """A text with its masks filled, and the candidates for each mask, likeliest first."""

    text: str
    candidates: list[list[Candidate]]


def fill(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], *, top: int = 5, first_row: int = 0) -> list[Filling]:
    """Fill each mask of each text, independently of the text's other masks; the rest of the text is unchanged.

    A mask is the mask token that the tokenizer names, or [MASK] if it names none. `top`: the number of candidates per mask. `first_row`:
    the first text's index, for errors. Raises DataError for a text without a mask or beyond the context, ModelError without a mask token.
    """
    mask = token_text(tokenizer.settings.get("mask_token")) or "[MASK]"
    mask_id = tokenizer.backend.token_to_id(mask)
    if mask_id is None:
        raise ModelError(f"the tokenizer has no mask token: {mask!r} is not in its vocabulary, so there is nothing to fill")
    rows = _encode(tokenizer, texts, mask, mask_id)
    for number, ids in enumerate(rows, first_row + 1):
        if mask_id not in ids:
            raise DataError(f"prompt {number} has no {mask}: this model fills masks, so write {mask} in the place of a word")
        if len(ids) > (context := model.config.context_length):
            raise DataError(f"prompt {number} has {len(ids):,} tokens, but the model's context holds {context:,}: shorten it")
    check_vocabulary(rows, model.config.vocab_size)
    with inference(model):
        read = [_mask_probabilities(model, rows[first : first + _AT_ONCE], mask_id) for first in range(0, len(rows), _AT_ONCE)]
        probabilities = torch.cat(read).split([ids.count(mask_id) for ids in rows])
    return [
        _filling(tokenizer, text.split(mask), ids, mask_id, *scores.topk(min(top, scores.shape[-1])))
        for text, ids, scores in zip(texts, rows, probabilities, strict=True)
    ]


def _encode(tokenizer: Tokenizer, texts: Sequence[str], mask: str, mask_id: int) -> list[list[int]]:
    """Return the ids of each text. If the tokenizer reads masks as plain text, encode the parts between them on their own."""
    rows = tokenizer.encode_texts(texts)
    for i, text in enumerate(texts):
        if rows[i].count(mask_id) != text.count(mask):
            first, *others = encode_rendered(tokenizer, text.split(mask))
            rows[i] = [*tokenizer.prefix, *first, *(token for ids in others for token in (mask_id, *ids)), *tokenizer.suffix]
    return rows


def _mask_probabilities(model: Transformer, rows: Sequence[Sequence[int]], mask_id: int) -> Tensor:
    """Return the probabilities of the tokens at each of the N masks of all rows, row by row: (N, V) in float32, on the CPU."""
    ids, real = pad(rows, 0), real_tokens(rows)  # (B, T), padded on the right
    device = model.embedding.tokens.weight.device
    hidden = model(ids.to(device), padding_mask=None if real.all() else real.to(device)).hidden
    logits: Tensor = model.head(hidden[((ids == mask_id) & real).to(device)]).float().cpu()
    if not torch.isfinite(logits).all():
        raise ModelError("the model's logits are not finite (NaN or infinity): its weights are damaged or its training diverged")
    return logits.softmax(dim=-1)


def _filling(tokenizer: Tokenizer, parts: Sequence[str], ids: list[int], mask_id: int, probabilities: Tensor, tokens: Tensor) -> Filling:
    """Join the `parts` of a text, split at its masks, by the likeliest token for each mask. `probabilities` and `tokens`, (N, top) each:
    the candidates for the N masks, likeliest first.
    """
    positions = [position for position, token in enumerate(ids) if token == mask_id]
    filled, text = list(ids), ""
    candidates = []
    for part, position, row, row_probabilities in zip_longest(parts, positions, tokens.tolist(), probabilities.tolist()):
        text += part
        if position is None:  # after the last mask
            break
        pieces = [_token_text(tokenizer, filled[:position], token, text) for token in row]
        candidates.append([Candidate(piece, probability) for piece, probability in zip(pieces, row_probabilities, strict=True)])
        filled[position], text = row[0], text + pieces[0]
    return Filling(text, candidates)


def _token_text(tokenizer: Tokenizer, before: Sequence[int], token: int, text: str) -> str:
    """Return a token's text as it appears after `text`, whose ids are `before`: ##s becomes s, and a space is not doubled."""
    piece = complete_text_after(tokenizer.decode, context_of(tokenizer.decode, before), [token])
    return piece.lstrip(" ") if not text or text[-1].isspace() else piece
