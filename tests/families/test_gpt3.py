"""GPT-3's banded layers: beside GPT-2 where the band is wide enough, beside masks written out by hand where it is not."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_files import read_by, read_json
from tiny_references import IDS, LARGE, TOLERANCE, difference
from torch import Tensor
from transformers import AutoModelForCausalLM

from tfkit.families import PRESETS
from tfkit.generation.decoding import generate
from tfkit.hub import OWN_TYPE, load, save_model
from tfkit.hub.config_json import family_of
from tfkit.model.config import ModelConfig
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.schema.output_sections import GenerationSection

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


@torch.no_grad()
def test_step_by_step_past_the_band_and_padded_on_the_left() -> None:
    model = tiny(None, 5)
    expected = model(IDS).logits
    cache = KeyValueCache(model.config, 2, 23, torch.float32)
    parts = [model(ids, cache=cache).logits for ids in IDS.split([2, 7, *[1] * 14], dim=1)]
    assert difference(torch.cat(parts, dim=1), expected) < TOLERANCE
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[0, :7] = False
    assert difference(model(IDS, padding_mask=mask).logits[0, 7:], model(IDS[:1, 7:]).logits[0]) < TOLERANCE


def test_a_batch_generates_what_each_prompt_does_alone_past_the_band() -> None:
    model, settings = tiny(None, 5), GenerationSection(temperature=0, max_new_tokens=25)
    prompts = [IDS[0, :9].tolist(), IDS[1, :2].tolist(), IDS[0, 3:16].tolist()]
    alone = [generate(model, [prompt], settings)[0] for prompt in prompts]
    assert generate(model, prompts, settings) == alone
    for prompt, completion in zip(prompts, alone, strict=True):
        ids = list(prompt)
        for token in completion.ids:
            assert token == int(by_hand(model, torch.tensor([ids]), [None, 5, None])[0, -1].argmax())
            ids.append(token)


@torch.no_grad()
def test_it_is_saved_as_what_transformers_refuses(tmp_path: Path) -> None:
    model = tiny(None, 5)
    (tmp_path / "a").mkdir()
    save_model(tmp_path / "a", model.config, model.state_dict(), None, family="gpt3")
    assert read_json(tmp_path / "a" / "config.json")["model_type"] == OWN_TYPE
    with pytest.raises(ValueError, match=f"model type `?{OWN_TYPE}"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    loaded = load(tmp_path / "a")
    assert loaded.config == model.config
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    loaded.save(tmp_path / "b")
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())


@torch.no_grad()
def test_without_bands_it_is_saved_as_gpt2(tmp_path: Path) -> None:
    model = tiny(None)
    save_model(tmp_path, model.config, model.state_dict(), None, family="gpt3")
    theirs = read_by(AutoModelForCausalLM, tmp_path)
    assert theirs.config.model_type == "gpt2"
    assert difference(model(IDS).logits, theirs(IDS).logits) < TOLERANCE
    assert load(tmp_path).config == model.config


@pytest.mark.parametrize("size", SIZES)
def test_no_family_of_transformers_expresses_a_size_until_its_bands_are_gone(size: str) -> None:
    values: dict[str, Any] = SIZES[size]
    assert family_of(ModelConfig.model_validate(values), prefer="gpt3") is None
    dense = family_of(ModelConfig.model_validate(values | {"attention": values["attention"] | {"windows": [None]}}), prefer="gpt3")
    assert dense.name == "gpt2"
