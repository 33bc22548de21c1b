"""The FLOPs of a model's matrix products, computed from shapes alone, so that the model may be on the meta device.

A product of (n, k) and (k, m) takes 2 n k m; look-ups, norms and activations are not counted (arXiv 2001.08361, section 2.1). In attention
only pairs of a query and a key that a causal or sliding-window mask allows count, even if a kernel computes more; padding counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from tfkit.adapters import LORA_PARAMETERS
from tfkit.model.attention import Attention
from tfkit.model.config import ModelConfig
from tfkit.model.experts import Experts
from tfkit.model.head import Head, VocabularyHead
from tfkit.model.relative_position import DistanceVectors
from tfkit.model.stack import Block, Stack, Sublayer
from tfkit.model.task_heads import ClassesHead, SpansHead, TagsHead
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch

Part = Literal["blocks", "attention", "head"]


class Product(NamedTuple):
    """A matrix product of a forward pass."""

    part: Part
    flops: float
    gradients: int  # how many of the two factors need a gradient; each gradient takes a product of the same size in the backward pass
    width: int  # the smallest of n, k and m, apart from numbers of positions; the speed of the product depends on it
    length: int = 0  # in attention, the number of keys per row, or of DeBERTa's distance vectors, on which the speed depends; else 0
    causal: bool = False


@dataclass(frozen=True)
class Flops:
    """FLOPs by part of the model: linear layers of embedding and blocks; attention's scores and weighted sums; the head."""

    blocks: float = 0.0
    attention: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        """The sum over all parts."""
        return self.blocks + self.attention + self.head

    def __add__(self, other: "Flops") -> "Flops":
        """Add the FLOPs of each part."""
        return Flops(self.blocks + other.blocks, self.attention + other.attention, self.head + other.head)

    def __mul__(self, factor: float) -> "Flops":
        """Multiply the FLOPs of each part by `factor`."""
        return Flops(self.blocks * factor, self.attention * factor, self.head * factor)


@dataclass(frozen=True)
class ForwardShape:
    """The sizes of a forward pass, including padding, which is computed, too."""

    rows: int
    length: int  # positions of a row; in an encoder-decoder, of the encoder
    decoder_length: int  # positions of a row in the decoder of an encoder-decoder; else 0
    states: int  # the number of hidden states that the head's matrix multiplies
    pooled: int = 0  # the number of rows if the head's second output (next sentence, choice) is read; else 0

    @classmethod
    def of(cls, batch: Batch, config: ModelConfig, states: int, *, reads_second_output: bool = False) -> "ForwardShape":
        """Return the shape of the forward pass of a batch; `states`: the number of hidden states that a head over the vocabulary reads."""
        rows, length = batch.input_ids.shape
        decoder = 0 if batch.decoder_input_ids is None else batch.decoder_input_ids.shape[1]
        if config.head.kind in ("tags", "spans"):
            states = rows * (decoder or length)
        elif config.head.kind == "classes":
            states = rows
        return cls(rows, length, decoder, states, rows if reads_second_output else 0)


def forward_flops(model: Transformer, shape: ForwardShape) -> Flops:
    """Return the FLOPs of a forward pass."""
    return _sum((product.part, product.flops) for product in products(model, shape))


def backward_flops(model: Transformer, shape: ForwardShape) -> Flops:
    """Return the FLOPs of the backward pass: frozen matrices have no gradient, and the pass ends at the lowest trained parameter."""
    return _sum((product.part, product.flops * product.gradients) for product in products(model, shape))


def products(model: Transformer, shape: ForwardShape) -> list[Product]:
    """Return the matrix products of a forward pass of this shape."""
    collector = _Collector()
    stream = collector.is_trained(model.embedding)
    if model.embedding.projection is not None:
        parts = model.embedding.tokens, model.embedding.positions, model.embedding.segments, model.embedding.norm
        below = any(map(collector.is_trained, parts))
        collector.linear(model.embedding.projection, shape.rows * shape.length, below)
    if model.encoder is not None and model.decoder is not None:
        encoded = collector.stack(model.encoder, shape.rows, shape.length, stream)
        stream = collector.stack(model.decoder, shape.rows, shape.decoder_length, stream, source=shape.length, encoded=encoded)
    else:
        for stack in model.stacks:
            stream = collector.stack(stack, shape.rows, shape.length, stream)
    collector.head(model.head, shape, stream)
    return collector.products


class _Collector:
    """Collects the products of a forward pass. `linear`, `stack`, `_attention` and `_mlp` return whether the layer's output needs a
    gradient; `stream` is whether its input needs one.
    """

    def __init__(self) -> None:
        self.products: list[Product] = []

    @staticmethod
    def is_trained(module: nn.Module | None) -> bool:
        return module is not None and any(parameter.requires_grad for parameter in module.parameters())

    def linear(self, module: nn.Linear, states: int, stream: bool, part: Part = "blocks") -> bool:
        size = 2.0 * states * module.in_features
        width = min(module.in_features, module.out_features)
        self.products.append(Product(part, size * module.out_features, module.weight.requires_grad + stream, width))
        a, b = (getattr(module, name, None) for name in LORA_PARAMETERS)
        if a is not None and b is not None:
            rank = a.shape[0]
            self.products.append(Product(part, size * rank, a.requires_grad + stream, rank))
            a_output = a.requires_grad or stream
            self.products.append(Product(part, 2.0 * states * rank * module.out_features, b.requires_grad + a_output, rank))
        return stream or self.is_trained(module)

    def stack(self, stack: Stack, rows: int, length: int, stream: bool, *, source: int = 0, encoded: bool = False) -> bool:
        """Collect the products of a stack. For cross-attention, `source`: the number of the encoder's positions; `encoded`: whether the
        encoder's output needs a gradient.
        """
        bias = self.is_trained(stack.position_bias)
        vectors = stack.position_bias if isinstance(stack.position_bias, DistanceVectors) else None
        for block in stack.blocks:
            assert isinstance(block, Block)
            entering = stream
            stream = self._attention(
                block.self_attention, rows, length, length, entering, entering, causal=stack.causal, bias=bias, vectors=vectors
            )
            if block.cross_attention is not None:
                stream |= self._attention(
                    block.cross_attention, rows, length, source, entering if block.parallel else stream, encoded, causal=False, bias=False
                )
            stream |= self._mlp(block.mlp, rows * length, entering if block.parallel else stream)
        return stream or self.is_trained(stack.norm)

    def _attention(
        self,
        sublayer: Sublayer,
        rows: int,
        length: int,
        keys: int,
        stream: bool,
        source: bool,
        *,
        causal: bool,
        bias: bool,
        vectors: DistanceVectors | None = None,
    ) -> bool:
        """Collect the products of attention. `source`, `bias`: whether the encoder's output and the position bias need a gradient."""
        op = sublayer.op
        assert isinstance(op, Attention)
        normed = stream or (sublayer.norms_input and self.is_trained(sublayer.norm))
        queries = self.linear(op.q_proj, rows * length, normed) or self.is_trained(op.q_norm)
        key, value = (self.linear(projection, rows * keys, source if op.cross else normed) for projection in (op.k_proj, op.v_proj))
        key |= self.is_trained(op.k_norm)
        size = 2.0 * rows * op.q_proj.out_features * visible_pairs(length, keys, causal=causal, window=op.window)
        self.products.append(Product("attention", size, queries + key, op.head_dim, keys, causal))
        scores = queries or key or bias
        self.products.append(Product("attention", size, scores + value, op.head_dim, keys, causal))
        if vectors is not None:
            self._distances(op, vectors, rows * length, queries, key)
        self.linear(op.o_proj, rows * length, scores or value)
        return stream or self.is_trained(sublayer) or (op.cross and source)

    def _distances(self, op: Attention, vectors: DistanceVectors, states: int, queries: bool, keys: bool) -> None:
        """Collect the products for the vectors of distances (DeBERTa): their projections, and their scores with all queries and keys."""
        count = 2 * vectors.buckets
        trained = self.is_trained(vectors)
        of_queries, of_keys = (self.linear(projection, count, trained) for projection in (op.q_proj, op.k_proj))
        size = 2.0 * states * op.q_proj.out_features * count
        for gradients in (queries + of_keys, keys + of_queries):
            self.products.append(Product("attention", size, gradients, op.head_dim, count))

    def _mlp(self, sublayer: Sublayer, states: int, stream: bool) -> bool:
        op, normed = sublayer.op, stream or (sublayer.norms_input and self.is_trained(sublayer.norm))
        weighted = isinstance(op, Experts) and self.linear(op.router, states, normed)
        if isinstance(op, Experts):
            states, op = states * op.active, op.experts[0]  # all experts have the same shapes
        projections = [module for module in (op.gate_proj, op.up_proj) if isinstance(module, nn.Linear)]
        hidden = [self.linear(module, states, normed) for module in projections]
        assert isinstance(op.down_proj, nn.Linear)
        self.linear(op.down_proj, states, any(hidden))
        return stream or weighted or self.is_trained(sublayer)

    def head(self, head: Head, shape: ForwardShape, stream: bool) -> None:
        """Collect the products of the head, including its second output (next sentence or choice)."""
        for module in (getattr(head, name, None) for name in ("pooler", "next_sentence", "choice") if isinstance(head, VocabularyHead)):
            if isinstance(module, nn.Linear):
                self.linear(module, shape.pooled, stream, "head")
        for module in (head.transform, head.pooler if isinstance(head, ClassesHead) else None):
            if isinstance(module, nn.Linear):
                stream = self.linear(module, shape.states, stream, "head")
        stream = stream or self.is_trained(getattr(head, "norm", None))
        if isinstance(head, ClassesHead):
            self.linear(head.classes, shape.states, stream, "head")
        elif isinstance(head, TagsHead | SpansHead):
            self.linear(head.tags if isinstance(head, TagsHead) else head.spans, shape.states, stream, "head")
        elif isinstance(head, VocabularyHead):
            entries, dim = head.weight.shape
            learns = stream or head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
            gradients = head.weight.requires_grad + learns  # the loss computes the gradient of hidden states even if they need none
            self.products.append(Product("head", 2.0 * shape.states * entries * dim, gradients, min(entries, dim)))


def visible_pairs(queries: int, keys: int, *, causal: bool, window: int | None) -> float:
    """Return the number of pairs of a query and a key that it sees, in one row; if `causal`, its own and earlier keys, at most `window`."""
    if causal:
        reach = min(queries, window or queries)
        return reach * (reach + 1) / 2 + (queries - reach) * reach
    if window is None or window >= queries:
        return float(queries * keys)
    return queries + 2.0 * (window - 1) * queries - window * (window - 1)  # visible: keys at a distance below `window` on both sides


def _sum(parts: Iterable[tuple[Part, float]]) -> Flops:
    totals: dict[Part, float] = {"blocks": 0.0, "attention": 0.0, "head": 0.0}
    for part, flops in parts:
        totals[part] += flops
    return Flops(**totals)
