"""Chains of elementwise kernels that run over pieces in bf16 on a CPU: the values and gradients of the formula, whatever the pieces."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfkit.model import mlp, norm
from tfkit.model.mlp import gelu_tanh
from tfkit.model.norm import RMSNorm

PIECES = pytest.mark.parametrize("piece", [1, 100, 2**18])
Function = Callable[[Tensor], Tensor]


def value_and_gradient(function: Function, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    out = function(x)
    return out.detach(), torch.autograd.grad(out, x, above.to(x.dtype))[0]


@PIECES
def test_the_tanh_form_of_gelu(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """As exact as torch's own kernel up to one step of bf16, also where its slope is nearly 0 or 1."""
    monkeypatch.setattr(mlp, "PIECE", piece)
    random = torch.Generator().manual_seed(1)
    x = torch.cat(
        [3 * torch.randn(7, 31, generator=random), torch.tensor([[0.0, -0.0, 20.0, -20.0, 1e18, -1e18, 1e-30] + [1.0] * 24])]
    ).bfloat16()
    above = torch.randn(x.shape, generator=random).bfloat16()
    exact = value_and_gradient(lambda one: F.gelu(one, approximate="tanh"), x.double(), above.double())
    for ours, theirs in zip(value_and_gradient(gelu_tanh, x, above), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=1e-4)
    transposed = value_and_gradient(lambda one: gelu_tanh(one.t()).t(), x, above)
    assert all(map(torch.equal, transposed, value_and_gradient(gelu_tanh, x, above)))


def test_the_tanh_form_of_gelu_elsewhere_is_that_of_torch() -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gelu_tanh(x.requires_grad_()), F.gelu(x, approximate="tanh"))
    with torch.no_grad():
        assert torch.equal(gelu_tanh(x.bfloat16()), F.gelu(x.bfloat16(), approximate="tanh"))


@PIECES
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_the_rms_norm(monkeypatch: pytest.MonkeyPatch, piece: int, dtype: torch.dtype, tolerance: float) -> None:
    """Relative errors of the value and both gradients, of a tensor that is not laid out in order."""
    monkeypatch.setattr(norm, "PIECE", piece)
    random = torch.Generator().manual_seed(2)
    x, above = (torch.randn(4, 24, 9, generator=random).transpose(1, 2).to(dtype) for _ in range(2))
    layer = RMSNorm(24, 1e-3).to(dtype)
    nn.init.normal_(layer.weight, generator=random)
    weight = layer.weight.detach().double().requires_grad_()
    inputs = x.detach().requires_grad_(), x.double().requires_grad_()
    outs = layer(inputs[0]), F.rms_norm(inputs[1], (24,), weight, 1e-3)
    ours = outs[0], *torch.autograd.grad(outs[0], [inputs[0], layer.weight], above)
    theirs = outs[1], *torch.autograd.grad(outs[1], [inputs[1], weight], above.double())
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        assert float((one.detach().double() - other.detach()).norm() / other.detach().norm()) < tolerance
