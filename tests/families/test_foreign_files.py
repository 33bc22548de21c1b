"""Model folders as they lie about: shards, half precision, bare names, masks among the weights, old and new spellings."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_files import edit_config, read_json
from tiny_references import CASES, IDS, LONG, TOLERANCE, difference, logits_of, real, reference, run, save_reference
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from tfkit.errors import ModelError
from tfkit.hub import describe, load
from tfkit.hub.ids import SPECIAL_IDS


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return load(folder).model(IDS).logits


Tensors = dict[str, torch.Tensor]


def with_masks(tensors: Tensors, last: int = 2) -> Tensors:
    """Return the tensors of GPT-2, or of GPT with `last` 0, as in old files: with masks of attention and bare names."""
    masks = {f"h.{layer}.attn.bias": torch.ones(40, 40).tril()[None, None].contiguous() for layer in range(2)}
    return without("transformer.")(tensors) | masks | {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(last)}


def with_tensorflow_s_names(tensors: Tensors) -> Tensors:
    """Return the tensors of a family of BERT's as in the oldest files: with gamma, beta and a buffer."""
    gamma = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in tensors.items()}
    beta = {name.replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in gamma.items()}
    assert not beta.keys() & {name for name in tensors if "LayerNorm" in name}
    return beta | {f"{next(iter(tensors)).partition('.')[0]}.embeddings.position_ids": torch.arange(40)[None]}


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    """Return a function that removes the prefix of the bare model from names."""
    return lambda tensors: {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


OLD: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    **{f"{case} without prefix": (case, without(f"{case}.")) for case in ("bert", "distilbert", "roberta")},
    "llama without prefix": ("llama", without("model.")),
    "gpt2 with masks and without prefix": ("gpt2", with_masks),
    "gpt with masks and without prefix": ("gpt", partial(with_masks, last=0)),
    "llama with frequencies": ("llama", lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    **{f"{case} of TensorFlow": (case, with_tensorflow_s_names) for case in ("bert", "distilbert", "roberta")},
}


@pytest.mark.parametrize(("case", "change"), OLD.values(), ids=OLD)
@torch.no_grad()
def test_old_files_have_other_names_and_hold_buffers(tmp_path: Path, case: str, change: Callable[[Tensors], Tensors]) -> None:
    theirs = save_reference(tmp_path, case)
    path = tmp_path / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    ours, expected = run(load(tmp_path).model, case).logits, logits_of(theirs(**CASES[case].inputs))
    assert difference(real(case, ours), real(case, expected)) < TOLERANCE


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", ["gpt2", "llama", *(name for name, case in CASES.items() if case.config.is_encoder_decoder)])
@torch.no_grad()
def test_shards_and_their_index(tmp_path: Path, case: str) -> None:
    theirs = save_reference(tmp_path / "whole", case)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    shards, whole = (run(load(tmp_path / name).model, case).logits for name in ("shards", "whole"))
    assert torch.equal(shards, whole)
    load(tmp_path / "shards").save(tmp_path / "again")
    load(tmp_path / "whole").save(tmp_path / "direct")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "direct" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    reference("llama").to(dtype).save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    model = load(tmp_path).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)  # casting a model rounds its rotary frequencies too
    assert difference(model(IDS).logits, theirs(IDS).logits) < TOLERANCE


_FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 = _FACTORS | {"original_max_position_embeddings": 16}
SPELLINGS: list[tuple[str, dict[str, Any]]] = [
    *(("other theta, as smollm2", {"rope_theta": 1e5} | scaling) for scaling in ({}, {"rope_scaling": None})),
    *(("other theta, as smollm2", {"rope_theta": 1e5, "rope_scaling": {name: "default"}}) for name in ("type", "rope_type")),
    ("other theta, as smollm2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
    *(("3.1", {"rope_theta": 1e4, "rope_scaling": {name: "llama3", **_LLAMA3}}) for name in ("type", "rope_type")),
    ("3.1", {"rope_scaling": {"rope_type": "llama3", **_LLAMA3}}),
    ("3.1", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **_LLAMA3}}),
]


@pytest.mark.parametrize(("model", "spelling"), SPELLINGS)
@torch.no_grad()
def test_every_spelling_of_rotary_positions(tmp_path: Path, model: str, spelling: dict[str, Any]) -> None:
    theirs = save_reference(tmp_path, "llama 3.1" if model == "3.1" else f"llama tied, {model}")
    edit_config(tmp_path, remove=("rope_parameters",))
    edit_config(tmp_path, **spelling)
    expected = theirs(LONG).logits
    assert difference(load(tmp_path).model(LONG).logits, expected) < TOLERANCE
    assert difference(AutoModelForCausalLM.from_pretrained(tmp_path)(LONG).logits, expected) < TOLERANCE


@pytest.mark.parametrize("case", ["mixtral", "olmoe without a head", "qwen3_moe", "qwen3_moe for classes", "qwen3_moe for spans"])
def test_experts_of_a_layer_in_one_tensor(tmp_path: Path, case: str) -> None:
    """transformers saves a model so that was loaded from such files."""
    theirs = save_reference(tmp_path / "each", case)
    theirs.save_pretrained(tmp_path / "stacked", save_original_format=False)
    stacked = load_file(tmp_path / "stacked" / "model.safetensors")
    assert any(name.endswith("experts.gate_up_proj") for name in stacked)
    load(tmp_path / "stacked").save(tmp_path / "a")
    load(tmp_path / "each").save(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    for change in (lambda one: one[1:], lambda one: one[:, 1:], lambda one: one[0]):
        cut = {name: change(one).contiguous() if name.endswith("gate_up_proj") else one for name, one in stacked.items()}
        save_file(cut, tmp_path / "stacked" / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"do not fit config\.json"):
            load(tmp_path / "stacked")


def test_widths_that_are_null_follow_from_the_others(tmp_path: Path) -> None:
    theirs = save_reference(tmp_path, "llama with all key and value heads")
    edit_config(tmp_path, num_key_value_heads=None, head_dim=None)
    assert difference(logits(tmp_path), theirs(IDS).logits) < TOLERANCE


@pytest.mark.parametrize(
    ("config", "generation", "eos_ids", "start_id"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": [7, 2]}, [2, 7], None),
        ({"eos_token_id": [2, 5]}, {"eos_token_id": 9}, [2, 5, 9], None),
        ({"eos_token_id": None}, {"eos_token_id": 9, "decoder_start_token_id": 4}, [9], 4),
        ({"eos_token_id": 2, "pad_token_id": 3}, {"pad_token_id": 4}, [2], 3),
        ({"eos_token_id": 2, "pad_token_id": 3, "decoder_start_token_id": 0}, {}, [2], 0),
        ({"eos_token_id": 2}, {"eos_token_id": [True, "7"], "pad_token_id": 1.5}, [2], None),
        ({"eos_token_id": 2}, ["eos_token_id"], [2], None),
        ({"eos_token_id": 2}, None, [2], None),
    ],
)
def test_the_ids_of_generation_may_be_in_either_file(
    tmp_path: Path, config: dict[str, Any], generation: Any, eos_ids: list[int], start_id: int | None
) -> None:
    save_reference(tmp_path / "theirs", "llama")
    edit_config(tmp_path / "theirs", remove=("pad_token_id",))
    edit_config(tmp_path / "theirs", **config)
    text = "{" if generation is None else json.dumps(generation)  # a damaged file says nothing: it is optional
    (tmp_path / "theirs" / "generation_config.json").write_text(text, encoding="utf-8")
    loaded = load(tmp_path / "theirs")
    assert (loaded.eos_ids, loaded.start_id) == (eos_ids, start_id)
    loaded.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert GenerationConfig.from_pretrained(tmp_path / "ours").eos_token_id in (eos_ids, *eos_ids)
    assert (again.eos_ids, again.start_id) == (eos_ids, start_id)


BEYOND: list[tuple[str, str, Any, int]] = [  # file, key, value, the id in it that is no entry of 97
    *(("config.json", "decoder_start_token_id", value, value) for value in (97, 300, 10**9, -1)),
    ("config.json", "pad_token_id", -1, -1),
    ("config.json", "eos_token_id", [1, 98], 98),
    ("generation_config.json", "decoder_start_token_id", 97, 97),
    ("generation_config.json", "forced_bos_token_id", 200, 200),
    ("generation_config.json", "bad_words_ids", [[3, 4], [5, 120]], 120),
    ("generation_config.json", "suppress_tokens", [1, -1], -1),
]


@pytest.mark.parametrize(("file", "key", "value", "wrong"), BEYOND)
def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path, file: str, key: str, value: Any, wrong: int) -> None:
    save_reference(tmp_path, "t5 1.0")
    path = tmp_path / file
    path.write_text(json.dumps(read_json(path) | {key: value}), encoding="utf-8")
    for read in (load, describe):
        with pytest.raises(ModelError) as caught:
            read(tmp_path)
        assert str(caught.value).startswith(f"{path}: {key} is {wrong}, but the vocabulary has the ids 0 to 96")


def test_the_ids_that_gpt2s_class_writes_unasked_say_nothing(tmp_path: Path) -> None:
    """A vocabulary of 97 entries, and 50256 as the id that ends a text, since nobody stated one."""
    save_reference(tmp_path, "gpt2")
    edit_config(tmp_path, bos_token_id=50256, eos_token_id=50256)
    assert load(tmp_path).eos_ids == [0]  # of generation_config.json


@pytest.mark.parametrize("case", ["olmo2", "olmo3", "olmoe", "phi3", "smollm3", "modernbert", "transformer of 2017"])
def test_the_ids_of_the_released_vocabulary_in_a_file_whose_author_set_none_say_nothing(tmp_path: Path, case: str) -> None:
    save_reference(tmp_path, case)
    classes = type(AutoConfig.from_pretrained(tmp_path))()
    unasked = {name: value for name in SPECIAL_IDS if (value := getattr(classes, name, None)) is not None and value >= 97}
    assert unasked
    edit_config(tmp_path, **unasked | {"pad_token_id": 3})  # the embedding of these classes requires one
    (tmp_path / "generation_config.json").write_text(json.dumps(unasked | {"pad_token_id": 3}), encoding="utf-8")
    assert load(tmp_path).special_ids.items() & unasked.items() == set()
