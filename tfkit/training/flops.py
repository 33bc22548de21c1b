"""The FLOPs of a model, one matrix product after the other, computed from its shapes: it may be on the meta device.

A product of (n, k) and (k, m) takes 2 n k m; look-ups, norms and activations are not counted (arXiv 2001.08361, section 2.1). Of attention
the visible pairs of positions count, whatever the kernel computes beside them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from tfkit.adapters import LORA_PARAMETERS
from tfkit.model.attention import Attention
from tfkit.model.config import ModelConfig
from tfkit.model.head import ClassesHead, Head, SpansHead, TagsHead, VocabularyHead
from tfkit.model.stack import Block, Stack, Sublayer
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective

Part = Literal["blocks", "attention", "head"]


class Product(NamedTuple):
    """A matrix product of a forward, and how many of the same size the backward pass needs for the gradients of its two factors."""

    part: Part
    flops: float
    gradients: int
    width: int  # the smallest of its three sizes that are no number of positions: its speed depends on it
    length: int = 0  # of attention: the keys of a row, and whether a query sees those before it alone: its speed depends on both
    causal: bool = False


@dataclass(frozen=True)
class Flops:
    """FLOPs by part of the model. `head`: the vocabulary's matrix, or whatever else the task reads."""

    blocks: float = 0.0
    attention: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.blocks + self.attention + self.head

    def __add__(self, other: "Flops") -> "Flops":
        """Both together."""
        return Flops(self.blocks + other.blocks, self.attention + other.attention, self.head + other.head)

    def __mul__(self, factor: float) -> "Flops":
        """As often as `factor` says."""
        return Flops(self.blocks * factor, self.attention * factor, self.head * factor)


@dataclass(frozen=True)
class ForwardShape:
    """The sizes of a forward, padding included, since it is computed, too."""

    rows: int
    length: int  # positions of a row, of an encoder-decoder those of the encoder
    decoder_length: int  # of an encoder-decoder; else 0
    states: int  # hidden states that the head's matrix multiplies
    pooled: int = 0  # rows whose second output is read: the next sentence's, a choice's

    @classmethod
    def of(cls, batch: Batch, config: ModelConfig, states: int, *, reads_second_output: bool = False) -> "ForwardShape":
        """Return the shape of a model's forward of a batch; `states`: of a head over the vocabulary, as the objective says."""
        rows, length = batch.input_ids.shape
        decoder = 0 if batch.decoder_input_ids is None else batch.decoder_input_ids.shape[1]
        if config.head.kind in ("tags", "spans"):
            states = rows * (decoder or length)
        elif config.head.kind == "classes":
            states = rows
        return cls(rows, length, decoder, states, rows if reads_second_output else 0)


def trained_shape(objective: Objective, batch: Batch, config: ModelConfig) -> ForwardShape:
    """Return the shape of the forward of the trained model in a step."""
    return ForwardShape.of(batch, config, objective.vocabulary_states(batch), reads_second_output=objective.reads_second_output)


def forward_flops(model: Transformer, shape: ForwardShape) -> Flops:
    """Return the FLOPs of a forward."""
    return _sum((one.part, one.flops) for one in products(model, shape))


def backward_flops(model: Transformer, shape: ForwardShape) -> Flops:
    """Return the FLOPs of the backward pass: a frozen matrix has no gradient of its own, and below the lowest trained one there is none."""
    return _sum((one.part, one.flops * one.gradients) for one in products(model, shape))


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """Return the FLOPs of forward and backward of each token of a language model, in rows of `length` that all have a loss."""
    with torch.device("meta"):
        model = Transformer(config)
    shape = ForwardShape(1, length, length if config.encoder_layers and config.decoder_layers else 0, length)
    return sum(one.flops * (1 + one.gradients) for one in products(model, shape)) / length


def products(model: Transformer, shape: ForwardShape) -> list[Product]:
    """Return the matrix products of a forward of this shape, in their order."""
    walk = _Walk()
    stream = walk.trained(model.embedding)
    if model.encoder is not None and model.decoder is not None:
        encoded = walk.stack(model.encoder, shape.rows, shape.length, stream)
        stream = walk.stack(model.decoder, shape.rows, shape.decoder_length, stream, source=shape.length, encoded=encoded)
    else:
        for stack in model.stacks:
            stream = walk.stack(stack, shape.rows, shape.length, stream)
    walk.head(model.head, shape, stream)
    return walk.found


class _Walk:
    """Collects the products of a forward. Each step takes and returns whether its input, and its output, needs a gradient."""

    def __init__(self) -> None:
        self.found: list[Product] = []

    @staticmethod
    def trained(module: nn.Module | None) -> bool:
        return module is not None and any(parameter.requires_grad for parameter in module.parameters())

    def linear(self, module: nn.Linear, states: int, stream: bool, part: Part = "blocks") -> bool:
        size = 2.0 * states * module.in_features
        width = min(module.in_features, module.out_features)
        self.found.append(Product(part, size * module.out_features, module.weight.requires_grad + stream, width))
        first, second = (getattr(module, name, None) for name in LORA_PARAMETERS)
        if first is not None and second is not None:
            rank = first.shape[0]
            self.found.append(Product(part, size * rank, first.requires_grad + stream, rank))
            below = first.requires_grad or stream
            self.found.append(Product(part, 2.0 * states * rank * module.out_features, second.requires_grad + below, rank))
        return stream or self.trained(module)

    def stack(self, stack: Stack, rows: int, length: int, stream: bool, *, source: int = 0, encoded: bool = False) -> bool:
        bias = self.trained(stack.position_bias)
        for block in stack.blocks:
            assert isinstance(block, Block)
            stream = self._attention(block.self_attention, rows, length, length, stream, stream, causal=stack.causal, bias=bias)
            if block.cross_attention is not None:
                stream = self._attention(block.cross_attention, rows, length, source, stream, encoded, causal=False, bias=False)
            stream = self._mlp(block.mlp, rows * length, stream)
        return stream or self.trained(stack.norm)

    def _attention(
        self, sublayer: Sublayer, rows: int, length: int, keys: int, stream: bool, of_keys: bool, *, causal: bool, bias: bool
    ) -> bool:
        op = sublayer.op
        assert isinstance(op, Attention)
        own = stream or (sublayer.placement != "post" and self.trained(sublayer.norm))
        queries = self.linear(op.q_proj, rows * length, own)
        beside = of_keys if op.cross else own
        key, value = (self.linear(one, rows * keys, beside) for one in (op.k_proj, op.v_proj))
        size = 2.0 * rows * op.q_proj.out_features * visible_pairs(length, keys, causal=causal, window=op.window)
        self.found.append(Product("attention", size, queries + key, op.head_dim, keys, causal))
        scores = queries or key or bias
        self.found.append(Product("attention", size, scores + value, op.head_dim, keys, causal))
        self.linear(op.o_proj, rows * length, scores or value)
        return stream or self.trained(sublayer) or (op.cross and of_keys)

    def _mlp(self, sublayer: Sublayer, states: int, stream: bool) -> bool:
        op, own = sublayer.op, stream or (sublayer.placement != "post" and self.trained(sublayer.norm))
        gates = [one for one in (op.gate_proj, op.up_proj) if isinstance(one, nn.Linear)]
        inner = [self.linear(one, states, own) for one in gates]
        assert isinstance(op.down_proj, nn.Linear)
        self.linear(op.down_proj, states, any(inner))
        return stream or self.trained(sublayer)

    def head(self, head: Head, shape: ForwardShape, stream: bool) -> None:
        """The head's matrices, among them those of a second output."""
        if isinstance(head, VocabularyHead):
            self._vocabulary(head, shape, stream)
        elif isinstance(head, ClassesHead):
            if head.pooler is not None:
                stream = self.linear(head.pooler, shape.states, stream, "head")
            self.linear(head.classes, shape.states, stream, "head")
        elif isinstance(head, TagsHead | SpansHead):
            self.linear(head.tags if isinstance(head, TagsHead) else head.spans, shape.states, stream, "head")

    def _vocabulary(self, head: VocabularyHead, shape: ForwardShape, stream: bool) -> None:
        for module in (getattr(head, name, None) for name in ("pooler", "next_sentence", "choice")):
            if isinstance(module, nn.Linear):
                self.linear(module, shape.pooled, stream, "head")
        transform = getattr(head, "transform", None)
        if isinstance(transform, nn.Linear):
            stream = self.linear(transform, shape.states, stream, "head") or self.trained(getattr(head, "norm", None))
        entries, dim = head.weight.shape
        learns = stream or head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
        gradients = head.weight.requires_grad + learns  # vocabulary_loss.py computes that of its input also where nothing below is trained
        self.found.append(Product("head", 2.0 * shape.states * entries * dim, gradients, min(entries, dim)))


def visible_pairs(queries: int, keys: int, *, causal: bool, window: int | None) -> float:
    """Return how many pairs of a query and a key see each other in a row; a causal query sees itself and what is before it."""
    if causal:
        reach = min(queries, window or queries)
        return reach * (reach + 1) / 2 + (queries - reach) * reach
    if window is None or window >= queries:
        return float(queries * keys)
    return queries + 2.0 * (window - 1) * queries - window * (window - 1)  # each key less than a window away, on both sides


def _sum(parts: Iterable[tuple[Part, float]]) -> Flops:
    found: dict[Part, float] = {"blocks": 0.0, "attention": 0.0, "head": 0.0}
    for part, flops in parts:
        found[part] += flops
    return Flops(**found)
