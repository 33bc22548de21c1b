"""GPT-3's banded layers: beside GPT-2 where the band is wide enough, beside masks written out by hand where it is not."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_references import IDS, LARGE, TOLERANCE, difference
from torch import Tensor

from tfkit.families import PRESETS
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build

TINY = {"vocab_size": 97, "decoder_layers": 3, "dim": 24, "num_heads": 3, "context_length": 40, "init": {"std": LARGE}}
SIZES = {name: values for name, (family, values) in PRESETS.items() if family.name == "gpt3"}


def tiny(*windows: int | None) -> Transformer:
    """A GPT-3 with random biases too, whose layers have these windows in turns."""
    attention = {"qkv_bias": True, "out_bias": True, "windows": list(windows)}
    model = build(ModelConfig.model_validate(PRESETS["gpt3-125m"][1] | TINY | {"attention": attention}), seed=3).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(float(name.endswith("norm.weight")), LARGE, generator=torch.Generator().manual_seed(len(name)))
    return model


def by_hand(model: Transformer, ids: Tensor, windows: list[int | None]) -> Tensor:
    """Logits (B, T, V) by the equations, with each layer's mask as a dense matrix; of tfkit's code only the weights."""
    weights, steps, heads = model.state_dict(), range(ids.shape[1]), model.config.num_heads

    def affine(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embedding.tokens.weight"][ids] + weights["embedding.positions.weight"][: ids.shape[1]]
    for layer in range(model.config.decoder_layers):
        window = windows[layer]
        hidden = torch.tensor([[key > query or (window is not None and key <= query - window) for key in steps] for query in steps])
        block = f"decoder.blocks.{layer}"
        normed, mixed = norm(x, f"{block}.self_attention.norm"), []
        projected = (affine(normed, f"{block}.self_attention.op.{name}_proj").chunk(heads, dim=-1) for name in "qkv")
        for q, k, v in zip(*projected, strict=True):
            scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(hidden, -math.inf)
            mixed.append(scores.softmax(-1) @ v)
        x = x + affine(torch.cat(mixed, dim=-1), f"{block}.self_attention.op.o_proj")
        up = affine(norm(x, f"{block}.mlp.norm"), f"{block}.mlp.op.up_proj")
        x = x + affine(F.gelu(up, approximate="tanh"), f"{block}.mlp.op.down_proj")
    return norm(x, "decoder.norm") @ weights["embedding.tokens.weight"].T


@pytest.mark.parametrize("window", [23, 40, 256])
@torch.no_grad()
def test_a_band_as_wide_as_the_text_is_gpt2(window: int) -> None:
    assert torch.equal(tiny(None, window)(IDS).logits, tiny(None)(IDS).logits)


@pytest.mark.parametrize("windows", [(None, 5, None), (5, None, 5), (None, 1, None), (4, 4, 4), (None, 22, None)])
@torch.no_grad()
def test_a_narrow_band_is_a_dense_mask_written_out(windows: tuple[int | None, ...]) -> None:
    model = tiny(*windows)
    logits = model(IDS).logits
    assert difference(logits, by_hand(model, IDS, list(windows))) < TOLERANCE
    assert difference(logits, by_hand(model, IDS, [None, None, None])) > 100 * TOLERANCE
    wider = [window if window is None else window + 1 for window in windows]
    assert difference(logits, by_hand(model, IDS, wider)) > 10 * TOLERANCE


@torch.no_grad()
def test_the_odd_layers_counted_from_0_are_local() -> None:
    model = tiny(None, 5)
    assert [model.config.window(layer) for layer in range(4)] == [None, 5, None, 5]
    assert difference(model(IDS).logits, by_hand(model, IDS, [None, 5, None])) < TOLERANCE
    for values in SIZES.values():
        config = ModelConfig.model_validate(values)
        assert [config.window(0), config.window(1)] == [None, 256]
        assert config.decoder_layers % 2 == 0
