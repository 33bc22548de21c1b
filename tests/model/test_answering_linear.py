"""Linear layers of models that only answer: with weights of 8 bits, and laid out for oneDNN, whatever the number of rows."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_writers import PROMPTS, START, WRITERS, tiny_model

from tfkit.model.answering_linear import Int8Linear, PackedLinear, can_pack, has_int8, pack, to_int8
from tfkit.model.transformer import Transformer, build
from tfkit.recipe import model_config
from tfkit.recipe.schema.sections import ModelSection

packs = pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="this PyTorch has no oneDNN")
packs_bf16 = pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.bfloat16), reason="oneDNN has no bf16 for this processor")
int8 = pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="this processor has no products of 8 bits")


@pytest.mark.sampled(6)
@int8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize(("columns", "size"), [*itertools.product([96, 16, 40, 3], [1e-3, 1.0, 1e4]), (60_000, 1.0)])
def test_the_product_is_that_of_the_nearest_weights_of_8_bits(columns: int, rows: int, bias: bool, size: float) -> None:
    """Rows of x have 16 bits, each its own scale, so that a row of large numbers takes nothing from the others; a few have bf16's 8, unless
    the matrix is large.
    """
    generator = torch.Generator().manual_seed(rows)
    weight, x = torch.randn(70, columns, generator=generator) * size, torch.randn(rows, columns, generator=generator)
    weight[7], x[0] = 0, x[0] * 1e4
    added = torch.randn(70, generator=generator) * size if bias else None
    scales = (weight.abs().amax(1, keepdim=True).clamp(min=1e-20) / 127).bfloat16().double()
    integers = (weight.double() / scales).round().clamp(-127, 127)  # the scale has 8 bits, so the largest may be cut by one in 256
    expected = F.linear(x.double(), integers * scales, None if added is None else added.double())
    made = Int8Linear(weight, added)(x.view(rows, 1, columns))
    assert (made.shape, made.dtype) == ((rows, 1, 70), torch.float32)
    largest = x.abs().amax(1, keepdim=True) * weight.abs().amax(1) * columns
    assert bool(((made[:, 0] - expected).abs() <= (3e-5 if rows > 4 or columns > 10_000 else 4e-3) * largest + 1e-6 * size).all())


@packs
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=packs_bf16)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_a_packed_product_is_the_product(rows: int, bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    layer = torch.nn.Linear(40, 70, bias=bias, dtype=dtype)
    x = torch.randn(rows, 3, 80, generator=generator).to(dtype)[:, 1, ::2]  # a view with strides
    packed = PackedLinear(layer.weight, layer.bias)
    with torch.no_grad():
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(packed(x), layer(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", [pytest.param(pack, marks=packs), pytest.param(to_int8, marks=int8)])
@pytest.mark.parametrize("family", WRITERS)
def test_a_model_keeps_its_predictions(family: str, layout: Callable[[Transformer], None]) -> None:
    model, laid_out = tiny_model(family).eval(), tiny_model(family).eval()
    layout(laid_out)
    ids = torch.tensor([PROMPTS[2]])
    arguments = {"decoder_input_ids": torch.tensor([[START, 5, 9]])} if model.encoder is not None else {}
    assert not [name for name, layer in laid_out.named_modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        exact, found = (one(ids, **arguments).logits for one in (model, laid_out))
    if layout is pack:
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    else:
        assert laid_out.head.product is not None
        centred = [(logits - logits.mean(-1, keepdim=True)).double() for logits in (exact, found)]
        assert F.cosine_similarity(*centred, dim=-1).min() > 0.98
        assert (exact != found).any()


@packs
@pytest.mark.parametrize("head", [None, {"kind": "classes", "count": 3, "pool": "first", "dense": "tanh"}, {"kind": "tags", "count": 5}])
@pytest.mark.parametrize("make", [pack, pytest.param(to_int8, marks=int8)])
def test_an_encoder_keeps_its_answers(make, head) -> None:
    section = ModelSection(preset="bert-tiny", dim=32, num_heads=2, hidden_dim=48, context_length=16)
    exact, made = (build(model_config(section, 53, head), seed=1).eval() for _ in range(2))
    make(made)
    ids = torch.tensor([PROMPTS[2], [*PROMPTS[3], *PROMPTS[3][:5]]])
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, exact(ids).logits, rtol=0.05, atol=1e-4 if make is pack else 0.02)
