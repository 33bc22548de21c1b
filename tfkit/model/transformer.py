"""The Transformer (arXiv 1706.03762) of every model family: Embedding -> encoder Stack? -> decoder Stack? -> Head (?: optional)."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.attention import AttentionContext, supports_blocks
from tfkit.model.config import ModelConfig
from tfkit.model.config.position_config import Rotary
from tfkit.model.embedding import Embedding
from tfkit.model.head import Head, LanguageModelHead, MaskedLanguageModelHead, VocabularyHead
from tfkit.model.init import BLOCK, RandomBlocks, allocate, initialize
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.masks import Mask, Positions, count_positions
from tfkit.model.relative_position import rotations_at
from tfkit.model.stack import Stack
from tfkit.model.task_heads import ClassesHead, NoHead, SpansHead, TagsHead

_ROWS = ("embedding.tokens.weight", "head.output.weight", "head.bias")  # tensors with one row for each entry of the vocabulary
_POSITIONS = {"embedding.positions.weight", "embedding.decoder.positions.weight"}


@dataclass
class Output:
    """The result of a forward pass. Losses work on `hidden`; the logits, which can be huge, are computed when they are first read."""

    hidden: Tensor  # (B, T, D), after the last norm
    head: Head
    padding_mask: Tensor | None  # (B, T), the mask of `hidden`: True = real token; None: all are real
    routed: list[Tensor]  # the logits (B, T, N) of each router of a mixture of experts

    @cached_property
    def logits(self) -> Tensor:
        """The logits of a language model (B, T, V), of tags (B, T, tags), of a span's ends (B, T, 2), or of classes (B, classes)."""
        return self.head(self.hidden, self.padding_mask)

    @cached_property
    def extra_logits(self) -> Tensor:
        """The head's second output: (B, 2) of next-sentence prediction, (B, 1) of a choice, or (B, D) of a pooler."""
        return self.head.extra(self.hidden, self.padding_mask)


class Transformer(nn.Module):
    """An encoder, a decoder, or both. Its parameters are uninitialized: use `build`, or load them."""

    # Given the prefix of a block's parameter names and the block, loads or draws its weights; None: no block is on the meta device.
    fill_block: Callable[[str, nn.Module], None] | None = None
    # A context in which each rank holds all weights and may run forward passes alone; ranks with sharded weights enter it together.
    unsharded: Callable[[], AbstractContextManager[None]] = nullcontext

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        both = config.encoder_layers > 0 and config.decoder_layers > 0
        self.embedding = Embedding(config)
        self.encoder = Stack(config, config.encoder_layers, causal=False) if config.encoder_layers else None
        self.decoder = Stack(config, config.decoder_layers, causal=True, cross=both) if config.decoder_layers else None
        self.head = _build_head(config, self.embedding.tokens)

    @property
    def only_answers(self) -> bool:
        """Whether answering_linear.py has converted the weights of this language model, so that it supports inference alone."""
        return isinstance(self.head, VocabularyHead) and self.head.product is not None

    @property
    def stacks(self) -> Iterable[Stack]:
        """The encoder and the decoder, if present."""
        return (stack for stack in (self.encoder, self.decoder) if stack is not None)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        padding_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_padding_mask: Tensor | None = None,
        encoder_output: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Output:
        """Map ids (B, T) to hidden states (B, T, D).

        `padding_mask`: True = real token, (B, T), or (B, cache.length + T) with a cache. `document_ids` (B, T): tokens see only
        tokens with the same id. `segment_ids` (B, T): in which text of a pair a token is, 0 or 1.
        An encoder-decoder encodes `input_ids` (B, S), unless `encoder_output` (from `encode`) or the cache of an earlier forward pass is
        given; `padding_mask` is always that of the source. The result has the hidden states of `decoder_input_ids`
        (B, T), whose mask is `decoder_padding_mask`.
        Raises ValueError if a sequence is longer than the context, unless positions are relative (T5), which have no limit.
        """
        if self.encoder is None or self.decoder is None:
            assert input_ids is not None
            stack = self.encoder or self.decoder
            assert stack is not None
            return self._output(self._run(stack, input_ids, padding_mask, document_ids, segment_ids, cache), padding_mask)
        if decoder_input_ids is None:
            raise ValueError("an encoder-decoder needs decoder_input_ids: the target, shifted right by one")
        if encoder_output is None and (cache is None or not cache.cross):
            assert input_ids is not None
            encoder_output = self.encode(input_ids, padding_mask)
        ran = self._run(self.decoder, decoder_input_ids, decoder_padding_mask, None, None, cache, encoder_output, padding_mask)
        return self._output(ran, decoder_padding_mask)

    def _output(self, ran: tuple[Tensor, list[Tensor]], padding_mask: Tensor | None) -> Output:
        """Return the output with the mask of the new positions: `padding_mask` may also cover cached positions before them."""
        hidden, routed = ran
        return Output(hidden, self.head, None if padding_mask is None else padding_mask[:, -hidden.shape[1] :], routed)

    def encode(self, input_ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Run the encoder of an encoder-decoder: (B, S) -> (B, S, D)."""
        assert self.encoder is not None
        return self._run(self.encoder, input_ids, padding_mask)[0]

    def _run(
        self,
        stack: Stack,
        input_ids: Tensor,
        padding_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
        encoder_output: Tensor | None = None,
        encoder_padding: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Embed the ids and run a stack: (B, T) -> (B, T, D), and the logits of its routers."""
        length, offset = input_ids.shape[1], cache.length if cache else 0
        if offset + length > self.config.context_length and self.config.position.kind != "relative":
            raise ValueError(f"{offset + length} tokens do not fit into the model's context of {self.config.context_length}")
        positions = Positions(length, offset, input_ids.device, padding_mask, document_ids)
        position_ids = count_positions(positions)
        embedding = self.embedding.decoder if stack is self.decoder and self.embedding.decoder is not None else self.embedding
        x = embedding(input_ids, position_ids, segment_ids)  # (B, T, D)
        rotary = self.config.position
        rotations = rotations_at(position_ids, self.config.head_dim, rotary, x.dtype) if isinstance(rotary, Rotary) else {}
        context = AttentionContext(
            [Mask(positions, stack.causal, window) for window in {*self.config.attention.windows}],
            rotations,
            None if stack.position_bias is None else stack.position_bias(positions),
            cache,
            encoder_output,
            encoder_padding,
            use_blocks=lambda mask: supports_blocks(
                mask,
                x.device.type,
                x.dtype,
                self.config.dropout.attention if self.training else 0.0,
                plain_scores=self.config.attention.softcap is None and not self.config.adds_to_scores,
            ),
        )
        ran: tuple[Tensor, list[Tensor]] = stack(x, context)
        if cache:
            cache.advance(length)
        return ran


def _build_head(config: ModelConfig, tokens: nn.Embedding) -> Head:
    head = config.head
    match head.kind:
        case "lm":
            return LanguageModelHead(config, head, tokens)
        case "masked_lm":
            return MaskedLanguageModelHead(config, head, tokens)
        case "classes":
            return ClassesHead(config, head)
        case "tags":
            return TagsHead(config, head)
        case "spans":
            return SpansHead(config, head)
        case "none":
            return NoHead(config, head)


def build(config: ModelConfig, seed: int, *, defer_blocks: bool = False) -> Transformer:
    """Build a Transformer with random float32 weights, on the CPU.

    `defer_blocks`: the blocks stay on the meta device, and the model's `fill_block` draws the same weights for one block at a time.
    """
    model = on_meta(config)  # no parameter is allocated or initialized twice
    generator = torch.Generator().manual_seed(seed)
    if defer_blocks:
        model.fill_block = RandomBlocks(model, config, generator)
        return model
    allocate(model)
    initialize(model, config, generator)
    return model


def on_meta(config: ModelConfig) -> Transformer:
    """Build the model on the meta device, without memory for its parameters."""
    with torch.device("meta"):
        return Transformer(config)


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


def parameter_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of all parameters. At most three blocks of a stack are built, however many layers the config claims: the first, and
    one of each later kind, with experts and without.
    """
    return _parameter_shapes(config.model_dump_json())


@lru_cache(maxsize=4)
def _parameter_shapes(document: str) -> Mapping[str, tuple[int, ...]]:
    config = ModelConfig.model_validate_json(document)
    few: dict[str, Any] = {}
    layers: dict[str, list[int]] = {}  # by the prefix of a built block's parameters: the layers whose parameters have the same shapes
    alike: dict[str, dict[tuple[bool, bool], list[int]]] = {"encoder": {}, "decoder": {}}  # (is first, has experts) -> layers
    for stack, blocks in alike.items():
        for layer in range(getattr(config, f"{stack}_layers")):
            blocks.setdefault((layer == 0, config.has_experts(layer)), []).append(layer)
        few[f"{stack}_layers"] = len(blocks)
        layers |= {f"{stack}.blocks.{number}.": of for number, of in enumerate(blocks.values())}
    if config.mlp.experts is not None:  # only a decoder's experts are supported
        experts = config.mlp.experts.model_copy(update={"layers": [has_experts for _, has_experts in alike["decoder"]]})
        few["mlp"] = config.mlp.model_copy(update={"experts": experts})
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in on_meta(config.model_copy(update=few)).state_dict().items():
        if block := BLOCK.match(name):
            names = [f"{block[1]}.blocks.{layer}.{name.removeprefix(block[0])}" for layer in layers[block[0]]]
        else:
            names = [name]
        shapes |= dict.fromkeys(names, tuple(parameter.shape))
    return MappingProxyType(shapes)
