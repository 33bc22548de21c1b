"""The weights that the heads of a model give to each other's positions, recorded while it computes; nothing else changes in the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tfkit.model.attention import Attention
from tfkit.model.transformer import Transformer

Layers = dict[str, list[tuple[Tensor, Tensor]]]  # by kind of attention, for each layer: weights and visibility, (B, H, T, S)


@contextmanager
def record_weights(model: Transformer) -> Iterator[Layers]:
    """Record the forward pass in the block: for "encoder", "decoder" and "cross", as the model has them, a pair for each layer."""
    layers: Layers = {}

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
