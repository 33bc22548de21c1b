"""Attention in blocks of queries, and of short rows in bf16 on a CPU: values and gradients of the plain formula, and where each is used."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.model import attention, query_blocks
from tfkit.model.attention import attend
from tfkit.model.config import ModelConfig
from tfkit.model.query_blocks import ScoreRule, attend_query_blocks
from tfkit.model.transformer import build

CASES = ["both ways", "causal", "masked", "causal masked", "causal biased", "masked biased", "causal capped", "masked capped"]
CASES += ["causal masked biased capped"]


def drawn(heads: int, groups: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries (2, H, T, 8), keys and values (2, K, T, 8), the gradient of the output, and a bias (1, H, T, T)."""
    draw = torch.Generator().manual_seed(1)
    parts = [torch.randn(2, length, count, 8, generator=draw).transpose(1, 2) for count in (heads, heads // groups, heads // groups, heads)]
    return [part.to(dtype) for part in [*parts, torch.randn(1, heads, length, length, generator=draw)]]


def visible(length: int, *, causal: bool, masked: bool) -> Tensor:
    """A mask (2, 1, T, T), other for each row; every query sees itself."""
    mask = torch.rand(2, 1, length, length, generator=torch.Generator().manual_seed(2)) > (0.4 if masked else -1.0)
    mask |= torch.eye(length, dtype=torch.bool)
    return mask.tril() if causal else mask


def formula(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, mask: Tensor, softcap: float | None) -> Tensor:
    """softmax(cap(0.3 q k) + bias) v, written out."""
    keys, values = (part.repeat_interleave(queries.shape[1] // part.shape[1], dim=1) for part in (keys, values))
    scores = 0.3 * queries @ keys.transpose(2, 3)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores if bias is None else scores + bias
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("heads", "groups", "length"), [(4, 1, 21), (6, 3, 20), (2, 2, 5)])
def test_values_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, case: str, heads: int, groups: int, length: int
) -> None:
    monkeypatch.setattr(query_blocks, "QUERY_BLOCK", 7)
    *inputs, above, bias = drawn(heads, groups, length, torch.float64)
    causal, masked, biased, capped = (word in case for word in ("causal", "masked", "biased", "capped"))
    softcap, inputs = 2.0 if capped else None, inputs + [bias] * biased
    for one in inputs:
        one.requires_grad_()
    used, mask = inputs[3] if biased else None, visible(length, causal=causal, masked=masked)
    outs = [
        attend_query_blocks(*inputs[:3], used, ScoreRule(mask if masked else None, causal, 0.3, softcap)),
        formula(*inputs[:3], used, mask, softcap),
    ]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(out, inputs, above) for out in outs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)  # sums of blocks are in float32


def test_in_bf16_the_error_is_that_of_torchs_kernel_at_most_doubled() -> None:
    *inputs, above, _ = drawn(4, 2, 300, torch.bfloat16)
    results = []
    for dtype, function in (
        (torch.float64, lambda *parts: F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)),
        (torch.bfloat16, lambda *parts: F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)),
        (torch.bfloat16, lambda *parts: attend_query_blocks(*parts, None, ScoreRule(None, True, 8**-0.5, None))),
    ):
        parts = [one.detach().to(dtype).requires_grad_() for one in inputs]
        out = function(*parts)
        results.append([out.detach(), *torch.autograd.grad(out, parts, above.to(dtype))])
    for exact, theirs, ours in zip(*results, strict=True):
        errors = [float((one.double() - exact).norm() / exact.norm()) for one in (theirs, ours)]
        assert errors[1] < 2.2 * errors[0] < 0.03


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, True), ({"length": 64}, False), ({"dtype": torch.float32}, False), ({"dropout": 0.1}, False), ({"gradient": False}, False)],
)
def test_where_they_are_used(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], expected: bool) -> None:
    asked = {"length": 65, "dtype": torch.bfloat16, "dropout": 0.0, "gradient": True, **change}
    calls = []
    monkeypatch.setattr(attention, "attend_query_blocks", lambda *words: calls.append(1) or attend_query_blocks(*words))
    queries, keys, values, *_ = drawn(2, 1, asked["length"], asked["dtype"])
    with torch.set_grad_enabled(asked["gradient"]):
        attend(queries, keys, values, None, asked["dropout"])
    assert bool(calls) is expected


SHAPE = {"vocab_size": 11, "context_length": 300, "dim": 32, "num_heads": 2, "head_dim": 16, "decoder_layers": 2, "init": {"std": 0.3}}
KINDS = {"norm": {"kind": "rms"}, "mlp": {"activation": "silu", "gated": True}, "head": {"tied": True}}
ROTARY = {"position": {"kind": "rotary"}}
MODELS = {
    "windows": {**ROTARY, "attention": {"windows": [None, 37]}},
    "capped": {**ROTARY, "attention": {"softcap": 5.0, "windows": [19]}},
    "biased": {"position": {"kind": "relative"}, "encoder_layers": 2, "decoder_layers": 0},
}


def in_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, *, bias: Tensor | None, causal: bool, **rule: Any
) -> Tensor:
    """`attend`, always in blocks."""
    rule["scale"] = queries.shape[-1] ** -0.5 if rule["scale"] is None else rule["scale"]
    return attend_query_blocks(queries, keys, values, bias, ScoreRule(mask, causal, **rule))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", ["whole", "padded", "packed"])
def test_a_model_in_blocks_is_the_model(monkeypatch: pytest.MonkeyPatch, model: str, rows: str) -> None:
    """Also the gradient of every parameter; in float32."""
    network = build(ModelConfig.model_validate({**SHAPE, **KINDS, **MODELS[model]}), 1)
    ids = torch.randint(11, (2, 300), generator=torch.Generator().manual_seed(1))
    given = {
        "whole": {},
        "padded": {"padding_mask": torch.arange(300).expand(2, 300) < torch.tensor([[300], [171]])},
        "packed": {"document_ids": (torch.arange(300).expand(2, 300) > torch.tensor([[140], [77]])).long()},
    }[rows]
    grads = []
    for function in (attend, in_blocks):
        monkeypatch.setattr(attention, "attend", function)
        network.zero_grad()
        hidden = network(ids, **given).hidden
        above = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
        hidden.backward(above)
        grads.append([hidden.detach(), *(one.grad for one in network.parameters() if one.grad is not None)])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# -- short rows are trained in float32, which torch's kernels do in less time, and more exactly


@pytest.mark.parametrize("case", ["causal", "masked", "biased"])
def test_value_and_gradients_are_those_of_float32_rounded_once(case: str) -> None:
    *inputs, back, _ = drawn(4, 2, 40, torch.bfloat16)
    mask = None if case == "causal" else torch.arange(40).expand(2, 1, 1, 40) < torch.tensor([40, 23]).view(2, 1, 1, 1)
    bias = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(2)) if case == "biased" else None
    found, expected = ([tensor.detach().to(dtype).requires_grad_() for tensor in inputs] for dtype in (torch.bfloat16, torch.float32))
    outs = [attend(q, k, v, mask, 0.0, bias=bias, causal=case == "causal") for q, k, v in (found, expected)]
    assert torch.equal(outs[0], outs[1].to(torch.bfloat16))
    outs[0].backward(back)
    outs[1].backward(back.float())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.grad, theirs.grad.to(torch.bfloat16))


@pytest.mark.parametrize("length", [40, 129])
def test_mere_forwards_stay_in_bf16(length: int) -> None:
    queries, keys, values, *_ = drawn(4, 2, length, torch.bfloat16)
    with torch.no_grad():
        found = attend(queries, keys, values, None, 0.0)
    theirs = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    assert torch.equal(found, theirs)
    assert not torch.equal(found, attend(queries.float(), keys.float(), values.float(), None, 0.0).to(torch.bfloat16))
