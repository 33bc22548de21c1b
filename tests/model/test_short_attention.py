"""Short rows in bf16 on a CPU: their attention is trained in float32, which torch's kernels do in less time, and more exactly."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.attention import attend


def drawn(length: int, seed: int = 1) -> list[Tensor]:
    """Queries, keys and values in bf16, (2, 4, T, 8) and twice (2, 2, T, 8), and what comes back to their output."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(2, heads, length, 8) for heads in (4, 2, 2, 4)]
    return [torch.randn(shape, generator=draw).mul(2).to(torch.bfloat16) for shape in shapes]


@pytest.mark.parametrize("case", ["causal", "masked", "biased"])
def test_value_and_gradients_are_those_of_float32_rounded_once(case: str) -> None:
    *inputs, back = drawn(40)
    mask = None if case == "causal" else torch.arange(40).expand(2, 1, 1, 40) < torch.tensor([40, 23]).view(2, 1, 1, 1)
    bias = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(2)) if case == "biased" else None
    found, expected = ([tensor.detach().to(dtype).requires_grad_() for tensor in inputs] for dtype in (torch.bfloat16, torch.float32))
    outs = [attend(q, k, v, mask, 0.0, bias=bias, causal=case == "causal") for q, k, v in (found, expected)]
    assert torch.equal(outs[0], outs[1].to(torch.bfloat16))
    outs[0].backward(back)
    outs[1].backward(back.float())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad.to(torch.bfloat16))


@pytest.mark.parametrize("length", [40, 129])
def test_mere_forwards_stay_in_bf16(length: int) -> None:
    queries, keys, values, _ = drawn(length)
    with torch.no_grad():
        found = attend(queries, keys, values, None, 0.0)
    theirs = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    assert torch.equal(found, theirs)
    assert not torch.equal(found, attend(queries.float(), keys.float(), values.float(), None, 0.0).to(torch.bfloat16))
