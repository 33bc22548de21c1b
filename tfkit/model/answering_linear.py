"""Linear layers of models that only answer, on a CPU: a decoded token takes the time of reading all weights once."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.head import VocabularyHead
from tfkit.model.transformer import Transformer

_LARGEST = 127  # of the integers, on both sides of 0
_MOST_ROWS = 32  # of torch's kernel, which is made for few; for more it takes less time to convert the weights and multiply in bf16
_STRIDE = 16  # the kernel reads so many columns at once, also beyond the end


class PackedLinear(nn.Module):
    """x W^T + b with the weights laid out as oneDNN's kernels read them, once and not at every call; they cannot be read back."""

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product


class Int8Linear(nn.Module):
    """x W^T + b in bf16, where row i of W is `integers[i]` times `scales[i]`: symmetric, with a scale for each output."""

    integers: Tensor  # (out, in), int8
    scales: Tensor  # (out,), bf16
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        scales = (weight.detach().float().abs().amax(dim=1).clamp(min=1e-20) / _LARGEST).to(torch.bfloat16)
        # Each integer is the nearest for the scale as it is stored, so that rounding the scale costs nothing but a clamp at the largest.
        integers = (weight.detach().float() / scales.float()[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        self.register_buffer("integers", integers)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > _MOST_ROWS or x.shape[-1] % _STRIDE:
            return F.linear(x, self.integers.to(x.dtype) * self.scales[:, None], self.bias)
        product: Tensor = torch._weight_int8pack_mm(rows, self.integers, self.scales)
        return (product if self.bias is None else product + self.bias).view(*x.shape[:-1], -1)


def can_pack(device: torch.device) -> bool:
    """Whether PyTorch has oneDNN for this device."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available()


def pack(model: Transformer) -> None:
    """Lay out the weights of every linear layer, and the output matrix of a language model, for its products. It can then only answer.

    A tied embedding keeps its own table, of which only the rows of a text are read.
    """
    _replace(model, PackedLinear)


def to_int8(model: Transformer) -> None:
    """Give every linear layer, and the output matrix of a language model, weights of 8 bits; the rest becomes bf16.

    The model can then only answer. A tied embedding keeps its own table, in bf16.
    """
    _replace(model, Int8Linear)
    model.to(torch.bfloat16)


def _replace(model: Transformer, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    if isinstance(model.head, VocabularyHead):
        model.head.product = make(model.head.weight, model.head.bias)
        model.head.output = None  # a matrix of its own is now in the product
    for owner in [*model.modules()]:
        for name, child in [*owner.named_children()]:
            if isinstance(child, nn.Linear):
                setattr(owner, name, make(child.weight, child.bias))
