"""Model folders as they lie about: shards, half precision, bare names, masks among the weights, old and new spellings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_files import edit_config, read_by, read_json
from tiny_references import CASES, IDS, TOLERANCE, difference, logits_of, real, reference, run, save_reference
from transformers import AutoConfig, AutoModelForCausalLM

from tfkit.errors import ModelError
from tfkit.hub import describe, load, save_model, tensor_files
from tfkit.hub.ids import SPECIAL_IDS


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return load(folder).model(IDS).logits


PREFIXES = {"gpt2": "transformer.", "llama": "model.", "bert": "bert.", "distilbert": "distilbert.", "roberta": "roberta."}


@pytest.mark.parametrize(("case", "prefix"), PREFIXES.items())
@torch.no_grad()
def test_names_without_the_prefix_of_the_bare_model(tmp_path: Path, case: str, prefix: str) -> None:
    theirs = save_reference(tmp_path, case)
    path = tmp_path / "model.safetensors"
    save_file({name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    ours, expected = run(load(tmp_path).model, case).logits, logits_of(theirs(**CASES[case].inputs))
    assert difference(real(case, ours), real(case, expected)) < TOLERANCE


def test_an_old_llama_file_holds_rotary_frequencies(tmp_path: Path) -> None:
    theirs = save_reference(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, path, {"format": "pt"})
    assert difference(logits(tmp_path), theirs(IDS).logits) < TOLERANCE


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


def test_large_models_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", 20_000)
    theirs = save_reference(tmp_path / "theirs", "llama")
    (tmp_path / "ours").mkdir()
    loaded = load(tmp_path / "theirs")
    save_model(tmp_path / "ours", loaded.config, loaded.model.state_dict(), None, family="llama")
    index = read_json(tmp_path / "ours" / "model.safetensors.index.json")
    assert len(set(index["weight_map"].values())) > 2
    again = read_by(AutoModelForCausalLM, tmp_path / "ours")
    assert torch.equal(again(IDS).logits, theirs(IDS).logits)
    assert difference(logits(tmp_path / "ours"), theirs(IDS).logits) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    reference("llama").to(dtype).save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    model = load(tmp_path).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)  # casting a model rounds its rotary frequencies too
    assert difference(model(IDS).logits, theirs(IDS).logits) < TOLERANCE


def test_several_ids_that_end_a_text_are_kept(tmp_path: Path) -> None:
    save_reference(tmp_path / "theirs", "llama ending in several ids")
    loaded = load(tmp_path / "theirs")
    assert loaded.eos_ids == [2, 5]
    loaded.save(tmp_path / "ours")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").generation_config.eos_token_id == [2, 5]
    assert load(tmp_path / "ours").eos_ids == [2, 5]


SPELLINGS: list[dict[str, Any]] = [
    {"rope_theta": 1e5},
    {"rope_theta": 1e5, "rope_scaling": None},
    {"rope_theta": 1e5, "rope_scaling": {"type": "default"}},
    {"rope_theta": 1e5, "rope_scaling": {"rope_type": "default"}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_theta(tmp_path: Path, spelling: dict[str, Any]) -> None:
    theirs = save_reference(tmp_path, "llama tied, other theta, as smollm2")
    edit_config(tmp_path, remove=("rope_parameters",))
    edit_config(tmp_path, **spelling)
    assert difference(logits(tmp_path), theirs(IDS).logits) < TOLERANCE
    assert difference(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, theirs(IDS).logits) < TOLERANCE


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_scaling": {"factor": 2.0}},
    ],
)
def test_rotary_positions_of_another_type_are_refused(tmp_path: Path, spelling: dict[str, Any]) -> None:
    """With the reason and a remedy where there is one."""
    save_reference(tmp_path, "llama")
    edit_config(tmp_path, remove=("rope_parameters",))
    edit_config(tmp_path, **spelling)
    with pytest.raises(ModelError, match=r"config\.json: rotary positions of type ") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert ("make its type default in config.json" in str(caught.value)) == ("'dynamic'" in str(caught.value))


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


def test_the_defaults_of_a_short_config(tmp_path: Path) -> None:
    """Old files leave out what equals the class's default."""
    theirs = save_reference(tmp_path, "gpt2")
    sizes = {"vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"} | sizes), encoding="utf-8")
    assert difference(logits(tmp_path), theirs(IDS).logits) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("gpt", {"afn": "gelu_new"}),  # transformers has no such name here
        ("gpt with two heads", {"summary_type": "mean"}),
        ("gpt2 with two heads", {"summary_activation": "tanh"}),
        ("gpt2", {"activation_function": "quick_gelu"}),
        ("llama", {"hidden_act": "relu2"}),
        ("llama", {"partial_rotary_factor": 0.5}),
        ("llama", {"rope_scaling": {"full_attention": {"rope_type": "default"}}}),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.5}}),
        ("gemma3", {"rope_scaling": {"factor": 2.0}}),
        ("gemma3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        ("gemma3", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
        ("modernbert for classes", {"classifier_activation": "silu"}),
        ("modernbert for classes", {"classifier_pooling": "max"}),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}),
        ("bert", {"hidden_act": "quick_gelu"}),
        ("bert", {"architectures": ["BertForMultipleChoice"]}),
        ("distilbert", {"activation": "quick_gelu"}),
        ("gemma2", {"query_pre_attn_scalar": 0}),
        ("gemma2", {"query_pre_attn_scalar": "20"}),
        ("gemma2", {"attn_logit_softcapping": 0}),
        ("gemma2", {"layer_types": ["full_attention"]}),
        ("gemma2", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
        ("gemma2", {"layer_types": 3}),
        ("gemma2", {"layer_types": []}),
        ("gemma2", {"sliding_window": 0}),
        ("gemma2", {"hidden_activation": "relu2"}),
        ("mistral", {"sliding_window": "5"}),
        ("mistral", {"sliding_window": 0}),
        ("t5 1.0", {"feed_forward_proj": "gated-quick_gelu"}),
        ("t5 1.0", {"architectures": ["T5ForMultipleChoice"]}),
        ("t5 1.0", {"d_model": "20"}),
        ("t5 1.0", {"d_model": 0}),
        ("t5 1.0", {"relative_attention_max_distance": 4}),
        ("transformer of 2017", {"activation_function": "quick_gelu"}),
        ("transformer of 2017", {"decoder_attention_heads": 2}),
        ("transformer of 2017", {"decoder_ffn_dim": 48}),
        ("transformer of 2017", {"decoder_vocab_size": 96}),
        ("transformer of 2017", {"d_model": 25}),
        ("bart", {"decoder_ffn_dim": 48}),
        ("bart", {"architectures": ["BartForCausalLM"]}),
        ("mbart", {"activation_function": "quick_gelu"}),
        ("mt5", {"architectures": ["T5EncoderModel"]}),
        # Numbers and sections from which the windows and rotations of the layers follow.
        *(("gemma2", {"layer_types": None, "num_hidden_layers": count}) for count in ("3", 3.0, [3], None, 10**12)),
        ("qwen2", {"layer_types": None, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": "1"}),
        ("gemma3", {"layer_types": None, "sliding_window_pattern": 0}),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 0}),
        ("smollm3", {"num_hidden_layers": 0}),
        ("modernbert", {"local_attention": "8"}),
        ("modernbert", {"layer_types": None, "global_attn_every_n_layers": 0}),
        *(
            (case, {"rope_parameters": value})
            for case in ("gemma3", "olmo3", "modernbert")
            for value in ("x", [1], {"full_attention": "x"})
        ),
        ("modernbert", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
        ("gemma3", {"rope_scaling": -1}),
    ],
)
def test_what_would_compute_something_else_is_refused(tmp_path: Path, case: str, change: dict[str, Any]) -> None:
    save_reference(tmp_path, case)
    edit_config(tmp_path, **change)
    with pytest.raises(ModelError, match=r"config\.json: ") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


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
