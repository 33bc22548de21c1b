"""Mistral, Gemma 2, SmolLM2 and Llama 3.1 beyond a single forward: windows with a cache, spellings of config.json, caps in a loss."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_files import edit_config
from tiny_references import CASES, IDS, LONG, TOLERANCE, Pair, difference, of_each, save_reference
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from tfkit.families import PRESETS
from tfkit.generation.decoding import generate
from tfkit.hub import describe, load
from tfkit.hub.config_json import TRAINING_ONLY_FIELDS, family_of, to_config_json
from tfkit.model.config import ModelConfig, Rotary
from tfkit.model.embedding import Embedding
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.relative_position import rotation_at
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.schema.output_sections import GenerationSection

WINDOWED = ["mistral", "mistral with a window of one", "gemma2", "gemma2 with other layers"]
WINDOWED += ["qwen2", "qwen3", "gemma3", "gemma3 with longer wavelengths", "smollm3 with windows", "olmo3", "phi3"]
WINDOWED += ["mixtral", "qwen3_moe with windows, not normalized"]


def model_of(folder: Path, case: str) -> Transformer:
    save_reference(folder, case)
    return load(folder).model


@torch.no_grad()
def both(folder: Path, ids: Tensor = LONG) -> tuple[Tensor, Tensor]:
    """Our logits of a folder, and transformers'."""
    return load(folder).model(ids).logits, AutoModelForCausalLM.from_pretrained(folder)(ids).logits


# The cache


@pytest.mark.sampled(5)
@of_each(WINDOWED)
@torch.no_grad()
def test_steps_of_any_width_past_the_window_are_the_full_forward(pair: Pair) -> None:
    expected = pair.theirs(LONG).logits
    for steps in ([1] * 60, [5, 3, 7, 1, 1, 4, 19, 1, 6, 12, 1], [59, 1]):
        cache = KeyValueCache(pair.ours.config, 2, 60, torch.float32)
        size = cache.size
        parts = [pair.ours(ids, cache=cache).logits for ids in LONG.split(steps, dim=1)]
        assert difference(torch.cat(parts, dim=1), expected) < TOLERANCE, steps
        assert cache.size == size


@pytest.mark.parametrize(("case", "windowed", "full"), [("mistral", 2, 0), ("gemma2", 2, 1), ("mistral without a window", 0, 2)])
def test_a_windowed_layer_keeps_what_its_next_token_sees(tmp_path: Path, case: str, windowed: int, full: int) -> None:
    config = model_of(tmp_path, case).config
    position = 2 * 7 * 3 * 16  # keys and values, rows, heads, width
    for length in (10, 60):
        assert KeyValueCache(config, 7, length, torch.float32).size == position * (windowed * 4 + full * length)
    assert KeyValueCache(config, 7, 3, torch.float32).size == position * 3 * (windowed + full)


@pytest.mark.sampled(5)
@of_each(WINDOWED)
@pytest.mark.parametrize("prompt", [1, 23])
@torch.no_grad()
def test_rows_that_leave_and_columns_of_padding(pair: Pair, prompt: int) -> None:
    """Rows with 7, 2 and 5 columns of padding; the second leaves and the third continues twice; then no row needs the first 5 columns."""
    model = pair.ours
    padding = torch.tensor([7, 2, 5])
    width = 7 + prompt
    ids = LONG[:1, : width + 20].repeat(3, 1) + torch.arange(3)[:, None]
    real = torch.arange(width + 20) >= padding[:, None]
    cache = KeyValueCache(model.config, 3, width + 20, torch.float32)
    model(ids[:, :width], padding_mask=real[:, :width], cache=cache)
    rows = torch.tensor([2, 0, 2])
    kept = KeyValueCache(model.config, 3, width + 15, torch.float32)
    kept.take([(cache, rows)], width - 5)
    parts = [
        model(new, padding_mask=real[rows, 5 : width + end], cache=kept).logits
        for new, end in zip(ids[rows, width:].split([1, 1, 6, 12], dim=1), [1, 2, 8, 20], strict=True)
    ]
    for row, made in zip(rows, torch.cat(parts, dim=1), strict=True):
        alone = model(ids[row, padding[row] :][None]).logits[0]
        assert difference(made, alone[-20:]) < TOLERANCE


@pytest.mark.sampled(4)
@of_each([*WINDOWED, "llama 3.1"])
@torch.no_grad()
def test_greedy_past_the_window_is_transformers(pair: Pair) -> None:
    theirs, model, case = pair
    theirs.generation_config.eos_token_id = None
    prompts = [LONG[0, :17].tolist(), [5], LONG[1, :6].tolist(), LONG[1, 9:20].tolist()]
    ids = torch.tensor([[0] * (17 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (17 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 0}
    settings["use_cache"] = case != "mistral with a window of one"  # of which their cache forgets nothing
    expected = theirs.generate(ids, attention_mask=mask, **settings)[:, 17:].tolist()
    made = generate(model, prompts, GenerationSection(temperature=0, max_new_tokens=40))
    assert [completion.ids for completion in made] == expected
    assert len({tuple(row) for row in expected}) == len(prompts)


# Configurations


def test_the_wavelengths_of_llama_3_1() -> None:
    rotary = PRESETS["llama3.1-8b"][1]["position"]
    cos, sin = rotation_at(torch.tensor([1]), 16, Rotary.model_validate(rotary), torch.float32)
    expected = [1.0, 0.1939228, 0.0376060, 0.00729267, 0.000524846, 3.428102e-5, 6.647870e-6, 1.289173e-6]
    assert torch.atan2(sin, cos)[0].tolist() == pytest.approx(expected, rel=2e-6)


def test_an_old_config_of_gemma2(tmp_path: Path) -> None:
    """No word of which layers are local, the activation under Gemma 1's name too, which is not read."""
    theirs = save_reference(tmp_path, "gemma2")
    old = {"hidden_act": "gelu", "rope_theta": 10000.0, "cache_implementation": "hybrid", "torch_dtype": "float32"}
    edit_config(tmp_path, remove=("layer_types", "rope_parameters", "hidden_activation", "dtype", "tie_word_embeddings"), **old)
    for logits in both(tmp_path):
        assert difference(logits, theirs(LONG).logits) < TOLERANCE


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
@torch.no_grad()
def test_the_text_part_of_a_folder_with_images(tmp_path: Path, prefix: str) -> None:
    text = CASES["gemma3"].config.to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    vision["num_hidden_layers"] = 1
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=96, boi_token_index=94, eoi_token_index=95
    )
    theirs = Gemma3ForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(5))
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    named = {re.sub(r"^language_model\.model\.", prefix, name): tensor for name, tensor in tensors.items()}
    save_file(named, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load(tmp_path)
    assert difference(loaded.model(IDS).logits, theirs(IDS).logits) < TOLERANCE
    assert set(loaded.left_out) == set(describe(tmp_path).left_out) == {"vision_tower", "multi_modal_projector"}
    assert loaded.notes() == describe(tmp_path).notes() != []
    loaded.save(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(again) is Gemma3ForCausalLM
    assert difference(again(IDS).logits, theirs(IDS).logits) < TOLERANCE
    assert load(tmp_path / "ours").notes() == []


@pytest.mark.parametrize(
    "preset",
    [name for name, (family, _) in PRESETS.items() if family.stacks == (False, True) and family.name not in ("gpt", "gpt2", "gpt3")],
)
def test_transformers_understands_every_preset(preset: str) -> None:
    family, values = PRESETS[preset]
    config = ModelConfig.model_validate(values)
    assert family_of(config, prefer=family.name) is family
    hf = AutoConfig.for_model(**to_config_json(family, config)).to_dict()
    again = ModelConfig.model_validate(family.from_hf(hf))
    assert again.model_dump(exclude=TRAINING_ONLY_FIELDS) == config.model_dump(exclude=TRAINING_ONLY_FIELDS)


@pytest.mark.parametrize(("windows", "expected"), [([None], "llama"), ([5], "mistral"), ([5, None], "smollm3"), ([5, 3], None)])
def test_windows_go_only_where_they_are_understood(windows: list[int | None], expected: str | None) -> None:
    values = PRESETS["mistral-7b-v0.1"][1] | {"attention": {"windows": windows}}
    family = family_of(ModelConfig.model_validate(values))
    assert (family and family.name) == expected


# Formulas


def test_the_scale_of_the_embeddings_is_rounded_to_their_type() -> None:
    """The root of 3,584 is 59.867, times 1.5 nearest to 90; in bfloat16 the root is 59.75, times 1.5 nearest to 89.5."""
    config = ModelConfig.model_validate(PRESETS["gemma2-9b"][1] | {"vocab_size": 3})
    embedding = Embedding(config).to(torch.bfloat16)
    torch.nn.init.constant_(embedding.tokens.weight, 1.5)
    assert set(embedding(torch.tensor([[1]]), torch.tensor([0])).flatten().tolist()) == {89.5}


def test_smollm2_starts_by_width_and_depth() -> None:
    preset = PRESETS["smollm2-135m"][1] | {"vocab_size": 500, "decoder_layers": 8}
    parameters = dict(build(ModelConfig.model_validate(preset), seed=1).named_parameters())
    for name, factor in {"q_proj": 1.0, "k_proj": 1.0, "o_proj": 0.25}.items():
        std = float(parameters[f"decoder.blocks.3.self_attention.op.{name}.weight"].detach().std())
        assert std == pytest.approx(factor / 24, rel=0.02)
    assert float(parameters["embedding.tokens.weight"].detach().std()) == pytest.approx(1 / 24, rel=0.02)
