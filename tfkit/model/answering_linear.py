"""Linear layers for inference alone on a CPU: their weights are packed or have 8 bits, since decoding mostly reads weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.attention import Attention
from tfkit.model.experts import Experts
from tfkit.model.head import VocabularyHead
from tfkit.model.mlp import Mlp
from tfkit.model.transformer import Transformer

Make = Callable[[Tensor, Tensor | None], nn.Module]  # builds a layer from a weight and a bias
_LARGEST = 127  # the largest absolute value of an 8-bit weight
_ZERO = 128  # the unsigned 8-bit integer that represents 0 in oneDNN's inputs
_LARGEST_16 = 127 * 257  # the largest 256 h + l for signed 8-bit integers h and l (Int8Linear)
_TINY = 1e-20  # lower bound of a row's largest absolute value, so that the scale of a row of zeros is not 0
_FEW_ROWS, _STRIDE = 4, 16  # torch's 8-bit kernel is fast for up to 4 rows of inputs; it reads 16 columns of weights at a time
_SMALL = 2**22  # for a matrix with fewer weights, oneDNN's faster product saves less time than preparing its inputs takes


class PackedLinear(nn.Module):
    """x W^T + b, with weights that are converted to the layout of oneDNN's kernels once, not at every call, and cannot be read back."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product


class Int8Linear(nn.Module):
    """x W^T + b, where row i of W is stored as integers of 8 bits, which are multiplied by `scales[i]`.

    Each row of x is rounded to s (256 h + l), with a scale s and, per element, integers h and l from -128 to 127 (16 bits). oneDNN
    multiplies h and l by the weights in one product: the weights are read once, sums are exact, and x keeps 16 bits. A small matrix is also
    kept as plain integers: torch's kernel multiplies them by up to four rows of x, both converted to bf16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        weight = weight.detach().float()
        scales = (weight.abs().amax(dim=1).clamp(min=_TINY) / _LARGEST).bfloat16().float()
        integers = (weight / scales[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(integers, [2, weight.shape[1]])
        is_small = weight.numel() < _SMALL and not weight.shape[1] % _STRIDE
        # Plain tensors, since buffers take longer to look up, and a model for inference alone is neither moved nor saved.
        self.integers = integers if is_small else None  # (out, in)
        self.scales, self.scales_16 = scales, scales.bfloat16()  # (out,): the same numbers in two types
        self.zeros = torch.zeros(len(scales), dtype=torch.int32)  # the zero points of the weights
        self.offset = torch.tensor(257 * _ZERO + 0.5)  # added to x / s: shifts h and l by _ZERO, and makes truncation round to nearest
        self.bias = None if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), float32."""
        rows = x.reshape(-1, x.shape[-1])
        if self.integers is None or rows.shape[0] > _FEW_ROWS:
            return self._many(rows).view(*x.shape[:-1], -1)
        product = torch._weight_int8pack_mm(rows.bfloat16(), self.integers, self.scales_16).view(*x.shape[:-1], -1)
        return product.float() if self.bias is None else product + self.bias

    def _many(self, rows: Tensor) -> Tensor:
        count, columns = rows.shape
        scale = torch.linalg.vector_norm(rows, float("inf"), dim=1, keepdim=True).clamp_(min=_TINY).mul_(1 / _LARGEST_16)  # (N, 1)
        integers = torch.addcdiv(self.offset, rows, scale).to(torch.int32)
        bytes_ = integers.view(torch.uint8).as_strided((2, count, columns), (1, 4 * columns, 4)).reshape(-1, columns)  # (2 N, in): l then h
        given: tuple[Any, ...] = (self.packed, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], "")
        low, high = torch.ops.onednn.qlinear_pointwise(bytes_, 1.0, _ZERO, *given).split(count)  # (N, out) each
        product = torch.add(low, high, alpha=256)
        return product.mul_(scale) if self.bias is None else torch.addcmul(self.bias, product, scale)


def can_pack(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether this device is a CPU and PyTorch's oneDNN supports weights of type `dtype` on it (bf16: not on every processor)."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_int8(device: torch.device) -> bool:
    """Whether `device` is a CPU that multiplies and sums integers of 8 bits exactly; on older ones, intermediate sums may overflow."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return can_pack(device) and any(capabilities.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def pack(model: Transformer) -> None:
    """Convert the weights of every linear layer but routers, and the output matrix of a language model, to oneDNN's layout, for inference.

    The table of a tied embedding stays beside its converted copy, because the embedding reads single rows of it.
    """
    _replace(model, PackedLinear)


def to_int8(model: Transformer) -> None:
    """Convert the weights of every linear layer but routers, and the output matrix of a language model, to 8 bits, for inference alone.

    The routers of a mixture of experts stay as they are: they are small, and rounding could change which experts they choose.
    """
    _replace(model, Int8Linear)


def _replace(model: Transformer, make: Make) -> None:
    if isinstance(model.head, VocabularyHead):
        model.head.product = make(model.head.weight, model.head.bias)
        model.head.output = None  # the product now holds this matrix
    for owner in [*model.modules()]:
        if isinstance(owner, Attention) and not owner.cross:
            owner.qkv = _joined(owner, ("q_proj", "k_proj", "v_proj"), make)
        if isinstance(owner, Mlp) and owner.gate_proj is not None:
            owner.gate_up = _joined(owner, ("gate_proj", "up_proj"), make)
        for name, child in [*owner.named_children()]:
            if isinstance(child, nn.Linear) and not isinstance(owner, Experts):
                setattr(owner, name, make(child.weight, child.bias))


def _joined(owner: nn.Module, names: Sequence[str], make: Make) -> nn.Module:
    """Return one layer whose output concatenates those of the layers `names` of `owner`, which share an input; delete these layers."""
    layers: list[nn.Linear] = [getattr(owner, name) for name in names]
    joined = make(
        torch.cat([layer.weight for layer in layers]), None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    )
    for name in names:
        delattr(owner, name)
    return joined
