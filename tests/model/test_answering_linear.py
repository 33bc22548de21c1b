"""Linear layers of models that only answer: with weights of 8 bits, and laid out for oneDNN, whatever the number of rows."""

import pytest
import torch
import torch.nn.functional as F
from tiny_writers import PROMPTS, START, WRITERS, tiny_model

from tfkit.model.answering_linear import Int8Linear, PackedLinear, can_pack, pack, to_int8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 32, 33, 200])
@pytest.mark.parametrize("columns", [96, 16, 40, 3])
def test_the_product_is_that_of_the_stored_weights(columns: int, rows: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, x = torch.randn(70, columns, generator=generator), torch.randn(rows, columns, generator=generator).bfloat16()
    added = torch.randn(70, generator=generator) if bias else None
    layer = Int8Linear(weight, added)
    stored = layer.integers.double() * layer.scales.double()[:, None]
    expected = F.linear(x.double(), stored, None if added is None else added.bfloat16().double())
    made = layer(x.view(rows, 1, columns))
    assert made.shape == (rows, 1, 70)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made[:, 0].double(), expected, rtol=0.01, atol=0.12)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_each_weight_is_the_nearest_of_its_row(size: float) -> None:
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * size
    weight[7] = 0  # a row of zeros
    layer = Int8Linear(weight, None)
    error = (layer.integers.float() * layer.scales.float()[:, None] - weight).abs()
    assert layer.integers.abs().max() == 127
    # The scale is rounded to 8 bits, so the largest weight of a row may be clamped by as much as one in 256.
    assert bool((error <= torch.maximum(layer.scales.float()[:, None] * 0.501, weight.abs() / 250)).all())
    assert not layer.integers[7].any()


@pytest.mark.parametrize("family", WRITERS)
def test_a_model_keeps_its_predictions(family: str) -> None:
    model, quantized = tiny_model(family).eval(), tiny_model(family).eval()
    to_int8(quantized)
    ids = torch.tensor([PROMPTS[2]])
    arguments = {"decoder_input_ids": torch.tensor([[START, 5, 9]])} if model.encoder is not None else {}
    with torch.no_grad():
        exact, rounded = model(ids, **arguments).logits.double(), quantized(ids, **arguments).logits.double()
    assert not [name for name, layer in quantized.named_modules() if isinstance(layer, torch.nn.Linear)]
    assert quantized.head.product is not None
    exact, rounded = exact - exact.mean(-1, keepdim=True), rounded - rounded.mean(-1, keepdim=True)
    assert F.cosine_similarity(exact, rounded, dim=-1).min() > 0.98
    assert (exact != rounded).any()


packs = pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="this PyTorch has no oneDNN")


@packs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_a_packed_product_is_the_product(rows: int, bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    layer = torch.nn.Linear(40, 70, bias=bias, dtype=dtype)
    x = torch.randn(rows, 3, 80, generator=generator).to(dtype)[:, 1, ::2]  # a view with strides
    packed = PackedLinear(layer.weight, layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(
            packed(x), layer(x), rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-5 if dtype == torch.float32 else 0.02
        )


@packs
@pytest.mark.parametrize("family", WRITERS)
def test_a_packed_model_has_the_same_predictions(family: str) -> None:
    model, packed = tiny_model(family).eval(), tiny_model(family).eval()
    pack(packed)
    ids = torch.tensor([PROMPTS[2]])
    arguments = {"decoder_input_ids": torch.tensor([[START, 5, 9]])} if model.encoder is not None else {}
    assert not [name for name, layer in packed.named_modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        torch.testing.assert_close(packed(ids, **arguments).logits, model(ids, **arguments).logits, rtol=1e-4, atol=1e-4)
