"""Attention weights of each head at each token of a text, and the probabilities of the next token at each position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data.columns.forms import find_surrogate
from tfkit.engine.inference.head_patterns import HeadPattern, head_patterns
from tfkit.errors import DataError, ModelError, UsageError, argument
from tfkit.generation.complete import check_vocabulary, encode_prompts
from tfkit.generation.inference import inference
from tfkit.hub import Loaded
from tfkit.model.attention import Attention
from tfkit.model.head import VocabularyHead
from tfkit.model.transformer import Transformer
from tfkit.tokenizer.tokenizer import readable_entry

_MOST_WEIGHTS = 1 << 28  # the largest number of attention weights of all layers and heads: 1 GiB in float32
_DIGITS = 6  # decimal places of a weight in JSON


@dataclass(frozen=True)
class NextTokens:
    """The likeliest tokens after a position of a text, and the token that follows in the text, with their probabilities."""

    likeliest: list[tuple[str, float]]
    actual: str | None  #: the token that follows; None: the text ends here
    probability: float | None  #: the probability of `actual`


@dataclass(frozen=True)
class AttendedText:
    """The attention weights of all heads for one text.

    `tokens`: the tokens that the encoder reads or, without an encoder, the decoder. `target_tokens`: the tokens that the decoder of an
    encoder-decoder reads, its start token first. `maps`: for each of "encoder", "decoder" and "cross" (to the target from the text) that
    the model has, the weights (layers, heads, to, from), float32: how much the token `to` takes from the token `from`. `visible`: for the
    same names, whether `to` may attend to `from`, (layers, to, from); the weight of a masked token is exactly 0. `next_tokens`: an entry
    for each token that the decoder reads; None if this was not requested.
    """

    tokens: list[str]
    target_tokens: list[str] | None
    maps: dict[str, NDArray[np.float32]]
    visible: dict[str, NDArray[np.bool_]]
    next_tokens: list[NextTokens] | None = None

    def axes(self, name: str) -> tuple[list[str], list[str]]:
        """Return the tokens of the last two axes, `to` and `from`, of the map `name` ("encoder", "decoder" or "cross")."""
        target = self.tokens if self.target_tokens is None else self.target_tokens
        return (self.tokens if name == "encoder" else target), (target if name == "decoder" else self.tokens)

    def patterns(self, name: str) -> list[HeadPattern]:
        """Return what each head of the map `name` attends to, by the rules of head_patterns.py."""
        return head_patterns(self.maps[name], self.visible[name], *self.axes(name), cross=name == "cross")

    def require_head(self, layer: int | None, head: int | None) -> None:
        """Raise UsageError if no map of attention weights has this layer or head; both count from 0, and None is valid."""
        layers, heads = max(len(map_) for map_ in self.maps.values()), next(iter(self.maps.values())).shape[1]
        if not (0 <= (layer or 0) < layers and 0 <= (head or 0) < heads):
            given = " ".join(f"{argument(name)} {number}" for name, number in (("layer", layer), ("head", head)) if number is not None)
            raise UsageError(
                f"{given}: the model has {layers} layers, 0 to {layers - 1}, of {heads} heads, 0 to {heads - 1}; take one of these"
            )

    def to_dict(self, layer: int | None = None, head: int | None = None) -> dict[str, Any]:
        """Return the document of --json. `layer`, `head`: include only the weights of this layer, or head; None: of all. Raises
        UsageError if the model has no such layer or head.
        """
        self.require_head(layer, head)
        chosen = slice(layer, None if layer is None else layer + 1), slice(head, None if head is None else head + 1)
        maps = {name: np.round(map_[chosen].astype(np.float64), _DIGITS).tolist() for name, map_ in self.maps.items()}
        return {
            "schema_version": 1,
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
            "layer": layer,
            "head": head,
            "heads": {name: [asdict(pattern) for pattern in self.patterns(name)] for name in self.maps},
            "maps": maps,
            "visible": {name: seen[chosen[0]].astype(int).tolist() for name, seen in self.visible.items()},
            "next_tokens": None if self.next_tokens is None else [asdict(one) for one in self.next_tokens],
        }


def attend_text(loaded: Loaded, text: str, target: str | None, next_tokens: int = 0) -> AttendedText:
    """Run a model on a text, and record its attention weights. `target`: the text that the decoder of an encoder-decoder reads; None: the
    decoder reads only its start token and the tokens that it is forced to generate first.

    `next_tokens`: how many of the likeliest next tokens are returned for each position. Raises DataError for a text without tokens, with
    half a character (a surrogate), or too long for the context or _MOST_WEIGHTS; UsageError for negative `next_tokens`, or a target if the
    model is no encoder-decoder; ModelError for next tokens if the model predicts none.
    """
    model, codec = loaded.model, loaded.require_tokenizer()
    both = model.encoder is not None and model.decoder is not None
    if target is not None and not both:
        raise UsageError(f"{argument('target')}: only an encoder-decoder reads a second text; leave it out, or append it to the first text")
    if next_tokens < 0:
        raise UsageError(f"{argument('next_tokens', next_tokens)}: a number of tokens is not negative; give 0 for none")
    if next_tokens and (model.decoder is None or not isinstance(model.head, VocabularyHead)):
        raise ModelError(f"{loaded.folder}: the model predicts no next token; only a language model with a decoder does")
    for name, given in (("text", text), ("target", target or "")):
        if position := find_surrogate([given]):
            raise DataError(f"the {name} holds half a surrogate pair at {position}; write the whole character")
    ids = encode_prompts(model, codec, [text])[0]
    target_ids = _target_ids(loaded, target or "") if both else None
    _require_room(loaded, ids, target_ids or [])
    device = next(model.parameters()).device
    further = {} if target_ids is None else {"decoder_input_ids": torch.tensor([target_ids], device=device)}
    with inference(model), record_weights(model) as layers:
        output = model(torch.tensor([ids], device=device), **further)
        read = ids if target_ids is None else target_ids
        expected = None if not next_tokens else _next_tokens(loaded, output.logits[0].float().softmax(-1), read, next_tokens)
    return AttendedText(
        _entries(loaded, ids),
        None if target_ids is None else _entries(loaded, target_ids),
        {name: torch.stack([weights[0] for weights, _ in maps]).float().cpu().numpy() for name, maps in layers.items()},
        {name: torch.stack([visible[0, 0] for _, visible in maps]).cpu().numpy() for name, maps in layers.items()},
        expected,
    )


@contextmanager
def record_weights(model: Transformer) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Record the attention weights of forward passes in the with block; the outputs stay the same. The yielded dict gets, for "encoder",
    "decoder" and "cross", a list with an item per layer: the weights and which keys are visible, both (batch, heads, queries, keys).
    """
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def recorder(kind: str) -> Any:
        return lambda attention, inputs: layers.setdefault(kind, []).append(attention.weights(*inputs))

    hooks = [
        module.register_forward_pre_hook(recorder("cross" if module.cross else name))
        for name, stack in (("encoder", model.encoder), ("decoder", model.decoder))
        if stack is not None
        for module in stack.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def _target_ids(loaded: Loaded, target: str) -> list[int]:
    """Return the ids that a decoder reads: its start token, the tokens it must generate first, and the target without an end token."""
    if loaded.start_id is None:
        raise ModelError(
            f"{loaded.folder}: config.json does not name the token that starts the texts of this encoder-decoder: give it a "
            "decoder_start_token_id, or a pad_token_id"
        )
    codec = loaded.require_tokenizer()
    return [loaded.start_id, *codec.forced_ids, *codec.encode_bare([target])[0].tolist()]


def _require_room(loaded: Loaded, ids: Sequence[int], target_ids: Sequence[int]) -> None:
    """Raise DataError if the text has no token, if the text or the target does not fit the context (relative positions have no limit), or
    if text and target would give more than _MOST_WEIGHTS attention weights.
    """
    config = loaded.config
    if not ids:
        raise DataError("the text gives no token, and so there is nothing to attend to; give a longer one")
    check_vocabulary([ids, target_ids], config.vocab_size)
    for name, row in (("text", ids), ("target", target_ids)):
        if len(row) > config.context_length and config.position.kind != "relative":
            raise DataError(f"the {name} has {len(row):,} tokens, but the model's context holds {config.context_length:,}: shorten it")
    of_encoder = config.encoder_layers * len(ids) ** 2
    own = target_ids or ids
    of_decoder = config.decoder_layers * (len(own) ** 2 + len(target_ids) * len(ids))
    weights = config.num_heads * (of_encoder + of_decoder)
    if weights > _MOST_WEIGHTS:
        raise DataError(
            f"the text has {max(len(ids), len(target_ids)):,} tokens, for which all heads give {weights:,} weights, more than the "
            f"{_MOST_WEIGHTS:,} that are kept: shorten it"
        )


def _entries(loaded: Loaded, ids: Sequence[int]) -> list[str]:
    return [readable_entry(loaded.require_tokenizer(), token_id) for token_id in ids]


def _next_tokens(loaded: Loaded, probabilities: Tensor, ids: Sequence[int], count: int) -> list[NextTokens]:
    """Return the `count` likeliest tokens after each id, and the actual one. `probabilities`: of tokens after an id, (ids, vocabulary)."""
    best = probabilities.topk(min(count, probabilities.shape[1]))
    tokens = _entries(loaded, ids)
    following = [*ids[1:], None]
    return [
        NextTokens(
            list(zip(_entries(loaded, likeliest), values, strict=True)),
            None if actual is None else tokens[place + 1],
            None if actual is None else float(probabilities[place, actual]),
        )
        for place, (likeliest, values, actual) in enumerate(zip(best.indices.tolist(), best.values.tolist(), following, strict=True))
    ]
