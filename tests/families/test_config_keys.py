"""Each key of transformers' configuration classes: computed as transformers does, refused where it asks for something else, or irrelevant.

A key that nobody has classified fails, so that a new version of transformers is looked at.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import edit_config
from tiny_references import CASES, TOLERANCE, difference, logits_of, real, run, save_reference
from transformers import PreTrainedConfig

from tfkit.errors import ModelError
from tfkit.families import FAMILIES, MODEL_TYPES
from tfkit.families.config_fields import FOREIGN_KEYS, UnsupportedError, normalize_keys
from tfkit.hub import load
from tfkit.model.config import ModelConfig

BASES = {"llama": "llama", "mistral": "mistral", "gemma2": "gemma2", "gpt2": "gpt2", "openai-gpt": "gpt", "t5": "t5 1.1"}
BASES |= {name: name for name in ("qwen2", "qwen3", "gemma", "smollm3", "olmo2", "olmo3", "phi3", "gpt_neox", "opt")}
BASES |= {"gemma3_text": "gemma3", "bert": "bert", "distilbert": "distilbert", "marian": "transformer of 2017"}
BASES |= {name: name for name in ("roberta", "xlm-roberta", "camembert", "modernbert", "electra", "mpnet", "bart", "mbart", "mt5")}
BASES["deberta-v2"] = "deberta"
BASES |= {name: name for name in ("mixtral", "olmoe", "qwen3_moe")}

# What no forward without dropout and without labels reads: names, training, how the output is packed, ids of generation.
IRRELEVANT = {
    *("transformers_version", "model_type", "dtype", "torch_dtype", "output_hidden_states", "output_attentions", "return_dict"),
    "chunk_size_feed_forward",
    *("problem_type", "id2label", "label2id", "num_labels", "use_cache", "initializer_range", "initializer_factor", "init_std"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id", "tie_last_hidden_states"),
    *("attention_dropout", "dropout", "dropout_rate", "classifier_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout", "activation_dropout", "qa_dropout", "seq_classif_dropout"),
    *("encoder_layerdrop", "decoder_layerdrop", "is_encoder_decoder", "pretraining_tp", "sinusoidal_pos_embds", "reorder_and_upcast_attn"),
    *("embd_pdrop", "hidden_dropout", "layerdrop"),
    *("cls_token_id", "sep_token_id", "embedding_dropout", "mlp_dropout", "initializer_cutoff_factor", "deterministic_flash_attn"),
    *("sparse_prediction", "sparse_pred_ignore_index"),
    *("output_router_logits", "router_aux_loss_coef"),  # the loss of routers
    *("pooler_dropout", "pooler_hidden_size", "cls_dropout"),  # the width of the pooler is that of its matrix
    *("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"),  # ELECTRA's, of multiple choice
    "classifier_pooling",  # of classes: the parity cases
    "architectures",  # another class has another head: the parity cases
}
# Of GPT's class with two heads; its cases are in SAID.
SUMMARY = {"summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"}
# Another value does not fit the shapes of the file.
SIZES = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "n_embd", "n_inner"),
    *("n_positions", "max_position_embeddings", "num_hidden_layers", "n_layer", "d_model", "d_kv", "d_ff", "num_layers", "dim", "n_layers"),
    *("num_decoder_layers", "num_heads", "relative_attention_num_buckets", "type_vocab_size", "hidden_dim", "encoder_layers"),
    *("embedding_size", "position_buckets"),
    *("decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim", "decoder_vocab_size", "attention_bias", "mlp_bias"),
    *("ffn_dim", "word_embed_proj_dim", "enable_bias"),
    *("num_local_experts", "num_experts", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"),
}
ROTARY = {"rope_type": "default", "rope_theta": 50.0}
NO_ROTATIONS: list[Any] = ["x", [1], {"full_attention": "x"}]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
COMPUTED: dict[str, dict[str, list[Any]]] = {
    "llama": {
        "hidden_act": ["gelu", "relu", "gelu_new"],
        "rms_norm_eps": [0.5],
        "rope_parameters": [ROTARY, LLAMA3, LLAMA3 | {"original_max_position_embeddings": 16}],
        "rope_theta": [],  # read where rope_parameters is missing: test_foreign_files.py
        "rope_scaling": [ROTARY, LLAMA3],  # beside rope_parameters, and before it
        "tie_word_embeddings": [],  # the file decides
    },
    "gpt2": {"n_head": [4], "activation_function": ["gelu", "relu", "silu"], "layer_norm_epsilon": [0.5], "tie_word_embeddings": []},
    "openai-gpt": {"n_head": [4], "afn": ["relu", "silu"], "layer_norm_epsilon": [0.5], "tie_word_embeddings": []},
    "t5": {"relative_attention_max_distance": [200], "layer_norm_epsilon": [0.5], "scale_decoder_outputs": [True]}
    | {"tie_word_embeddings": [], "feed_forward_proj": []},  # with both halves of it: below
    "bert": {"num_attention_heads": [4], "hidden_act": ["relu", "gelu_new", "silu"], "layer_norm_eps": [0.5], "tie_word_embeddings": []},
    "distilbert": {"n_heads": [4], "activation": ["relu", "silu"], "tie_word_embeddings": []},
    "marian": {"activation_function": ["gelu", "silu"], "scale_embedding": [False], "tie_word_embeddings": []},
}
COMPUTED |= {
    key: {"num_attention_heads": [4], "layer_norm_eps": [0.5], "tie_word_embeddings": []} for key in ("roberta", "xlm-roberta", "camembert")
}
COMPUTED |= {"electra": COMPUTED["roberta"], "mpnet": {"layer_norm_eps": [0.5], "tie_word_embeddings": []}}
_FULL, _LOCAL = ({"full_attention": {**ROTARY, "rope_theta": first}, "sliding_attention": ROTARY} for first in (50.0, 1e4))
COMPUTED["modernbert"] = {"norm_eps": [0.5], "num_attention_heads": [4], "local_attention": [2, 6], "rope_parameters": [_FULL, _LOCAL]}
COMPUTED["modernbert"] |= {"layer_types": [["full_attention", "full_attention", "sliding_attention"]], "tie_word_embeddings": []}
COMPUTED["modernbert"] |= {"hidden_activation": []}  # with classifier_activation: the parity cases
COMPUTED["mistral"] = COMPUTED["llama"] | {"sliding_window": [3, None]}
COMPUTED["gemma2"] = {name: values for name, values in COMPUTED["mistral"].items() if name != "hidden_act"} | {
    "hidden_activation": ["gelu", "silu"],
    "sliding_window": [3],
    "query_pre_attn_scalar": [100],
    "layer_types": [["full_attention", "sliding_attention", "full_attention"]],
    "attn_logit_softcapping": [1.0, None],
    "final_logit_softcapping": [1.0, None],
}
_DECODER = COMPUTED["llama"]
_BY_LAYER = {"full_attention": ROTARY, "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}}
_OTHER_LAYERS = ["full_attention", "sliding_attention", "full_attention"]
# max_window_layers counts only without layer_types: test_windows.py
COMPUTED["qwen2"] = _DECODER | {"sliding_window": [3], "layer_types": [_OTHER_LAYERS], "max_window_layers": []}
COMPUTED["qwen3"] = COMPUTED["qwen2"]
COMPUTED["gemma"] = _DECODER | {"hidden_act": ["silu", "relu"]}
COMPUTED["gemma3_text"] = {name: values for name, values in COMPUTED["gemma2"].items() if name != "attn_logit_softcapping"} | {
    "rope_parameters": [_BY_LAYER],
    "rope_scaling": [{"rope_type": "linear", "factor": 4.0}, LLAMA3 | {"original_max_position_embeddings": 16}],
    "final_logit_softcapping": [1.0],
}
COMPUTED["smollm3"] = _DECODER | {"no_rope_layers": [[0, 1, 1], [1, 1, 1, 0]], "no_rope_layer_interval": [], "layer_types": []}
COMPUTED["smollm3"] |= {"sliding_window": []}
COMPUTED["olmo2"] = _DECODER
COMPUTED["olmo3"] = _DECODER | {"rope_parameters": [_BY_LAYER], "rope_scaling": COMPUTED["gemma3_text"]["rope_scaling"]}
COMPUTED["olmo3"] |= {"sliding_window": [3], "layer_types": [_OTHER_LAYERS]}
COMPUTED["phi3"] = _DECODER | {"rope_parameters": [ROTARY], "rope_scaling": [ROTARY], "sliding_window": [3, None]}
COMPUTED["phi3"] |= {key: [] for key in ("original_max_position_embeddings", "partial_rotary_factor")}  # of longrope: test_longrope.py
COMPUTED["gpt_neox"] = {name: values for name, values in _DECODER.items() if name != "rms_norm_eps"} | {
    "layer_norm_eps": [0.5],
    "hidden_act": ["gelu_new", "relu", "silu"],
    "rope_parameters": [ROTARY, LLAMA3 | {"original_max_position_embeddings": 16}, ROTARY | {"partial_rotary_factor": 0.75}],
    "use_parallel_residual": [False],
    "attention_bias": [],
    "rotary_pct": [],  # read where rope_parameters is missing
}
COMPUTED["opt"] = {"num_attention_heads": [4], "activation_function": ["gelu", "silu"], "tie_word_embeddings": []}
COMPUTED["opt"] |= {"do_layer_norm_before": [], "enable_bias": []}  # the file must have other tensors
COMPUTED["mixtral"] = COMPUTED["mistral"] | {"num_experts_per_tok": [1, 3]}
COMPUTED["olmoe"] = _DECODER | {"num_experts_per_tok": [1, 4], "norm_topk_prob": [True]}
COMPUTED["qwen3_moe"] = _DECODER | {"num_experts_per_tok": [1, 3], "norm_topk_prob": [False], "sliding_window": []}
# With these transformers computes something else, its class of another architecture does, or nothing can be computed.
REFUSED: dict[str, dict[str, list[Any]]] = {
    "llama": {"is_causal": [None], "hidden_act": ["quick_gelu"], "num_hidden_layers": [0], "rope_scaling": ["default"]}
    | {"original_max_position_embeddings": []},
    "gemma2": {
        "use_bidirectional_attention": [True],
        "query_pre_attn_scalar": [0, "1", 10**400],
        "layer_types": [["full_attention"], ["full_attention", "chunked_attention", "full_attention"], 3, []],
        "hidden_activation": ["relu2"],
    },
    "qwen2": {"use_sliding_window": [False], "layer_types": [["full_attention"]]},
    "qwen3": {"use_sliding_window": [False]},
    "mixtral": {"router_jitter_noise": [0.1]},
    "qwen3_moe": {"use_sliding_window": [], "mlp_only_layers": [["1"], 4], "decoder_sparse_step": [0, "2"]},
    "gemma": {"use_bidirectional_attention": [True]},
    "gemma3_text": {"use_bidirectional_attention": [True], "rope_scaling": [{"factor": 2.0}, -1]}
    | {"rope_parameters": [ROTARY, *NO_ROTATIONS]},
    "smollm3": {"no_rope_layers": [[1, 1], [2, 1, 1], 1], "use_sliding_window": [], "num_hidden_layers": [0]},
    "olmo3": {"layer_types": [["full_attention"]], "rope_parameters": NO_ROTATIONS},
    "phi3": {"rope_scaling": [{"rope_type": "yarn", "factor": 4.0}]},
    "gpt_neox": {"is_decoder": [True]},
    "opt": {"layer_norm_elementwise_affine": [False], "word_embed_proj_dim": [24]},
    "gpt2": {"is_causal": [0], "activation_function": ["quick_gelu"], "scale_attn_weights": [False]}
    | {"scale_attn_by_inverse_layer_idx": [True], "add_cross_attention": [True]},
    "openai-gpt": {"afn": ["gelu_new"]},  # transformers has no such name here
    "t5": {"dense_act_fn": ["relu"], "is_gated_act": [False], "is_decoder": [], "feed_forward_proj": ["gated-quick_gelu"]}
    | {"architectures": [["T5ForMultipleChoice"]], "d_model": ["20", 0, 10**400], "num_layers": [0]},
    "bert": {"is_decoder": [True], "add_cross_attention": [True], "position_embedding_type": ["relative_key"]}
    | {"hidden_act": ["quick_gelu"], "architectures": [["BertForMultipleChoice"]]},
    "distilbert": {"activation": ["quick_gelu"]},
    "marian": {"share_encoder_decoder_embeddings": [False], "is_decoder": [], "activation_function": ["quick_gelu"]}
    | {"encoder_attention_heads": [4], "decoder_attention_heads": [4], "architectures": [["MarianForCausalLM"], ["BartForCausalLM"]]},
}
REFUSED |= dict.fromkeys(("roberta", "xlm-roberta", "camembert"), REFUSED["bert"] | {"hidden_act": ["relu"], "pad_token_id": [50, "1"]})
REFUSED["modernbert"] = {"norm_bias": [True], "classifier_bias": [True], "decoder_bias": [False], "classifier_activation": ["silu"]}
REFUSED["modernbert"] |= {"hidden_activation": ["silu", "quick_gelu"], "local_attention": ["8"], "rope_parameters": [ROTARY, *NO_ROTATIONS]}
REFUSED["electra"] = {name: REFUSED["roberta"][name] for name in ("is_decoder", "add_cross_attention", "hidden_act")}
REFUSED["mpnet"] = {"hidden_act": ["relu"], "pad_token_id": [2], "relative_attention_num_buckets": [16]}
COMPUTED |= dict.fromkeys(("bart", "mbart"), COMPUTED["marian"] | {"activation_function": ["relu", "silu"], "scale_embedding": []})
COMPUTED["mt5"] = {name: COMPUTED["t5"][name] for name in COMPUTED["t5"] if name != "scale_decoder_outputs"}
REFUSED |= {key: {name: REFUSED["marian"][name] for name in REFUSED["marian"] if "share" not in name} for key in ("bart", "mbart")}
REFUSED["mt5"] = REFUSED["t5"] | {"scale_decoder_outputs": [True], "architectures": [["T5EncoderModel"]]}
COMPUTED["deberta-v2"] = COMPUTED["roberta"] | {"hidden_act": ["relu"], "max_relative_positions": [9, -1]}
REFUSED["deberta-v2"] = {"relative_attention": [False], "position_biased_input": [True], "pos_att_type": [["c2p"], "p2c", None, 3]}
REFUSED["deberta-v2"] |= {"norm_rel_ebd": ["none"], "share_att_key": [False], "conv_kernel_size": [3], "pooler_hidden_act": ["tanh"]}
REFUSED["deberta-v2"] |= {"legacy": [False]}
ENCODERS = tuple(name for name in BASES if MODEL_TYPES[name].stacks == (True, False))
OTHERS: dict[str, Any] = {  # a value of each of FOREIGN_KEYS that would matter
    "quantization_config": {"quant_method": "fp8"},
    "per_layer_config": {"0": {"rms_norm_eps": 0.5}},
    "is_causal": False,
    **dict.fromkeys(
        ("qk_norm", "use_qk_norm", "qk_layernorm", "rope_interleaved", "alibi", "parallel_attn", "use_parallel_residual"), True
    ),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "scale_emb", "scale_depth"), 2.0),
    **dict.fromkeys(
        ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier", "clip_qkv"), 3.0
    ),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "attention_chunk_size", "no_rope_layer_interval"), 4),
    "no_rope_layers": [1, 0],
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.25,
}


@torch.no_grad()
def both(folder: Path, case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Our logits of a folder, and transformers'."""
    theirs = CASES[case].model.from_pretrained(folder).eval()(**CASES[case].inputs)
    return real(case, run(load(folder).model, case).logits), real(case, logits_of(theirs))


@pytest.mark.parametrize("model_type", BASES)
def test_every_key_is_classified(model_type: str) -> None:
    config = CASES[BASES[model_type]].config
    keys = {field.name for field in dataclasses.fields(config)} | config.attribute_map.keys() | config.to_dict().keys()
    known = COMPUTED[model_type].keys() | REFUSED.get(model_type, {}).keys() | FOREIGN_KEYS.keys() | IRRELEVANT | SIZES | SUMMARY
    assert {key for key in keys if not key.startswith("_")} - known == set()
    assert PreTrainedConfig().to_dict().keys() - {"_name_or_path"} <= IRRELEVANT


@pytest.mark.parametrize("model_type", BASES)
def test_a_key_left_out_has_the_class_s_value(model_type: str) -> None:
    family, config = MODEL_TYPES[model_type], CASES[BASES[model_type]].config
    heads = {"n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"}
    stated = {key: value for key, value in config.to_dict().items() if key in SIZES | heads and value is not None}
    if "num_key_value_heads" in stated:  # so many layers and heads that the defaults for them fit, too
        stated = {"vocab_size": 97, "hidden_size": 256, "intermediate_size": 100, "num_hidden_layers": 7, "num_attention_heads": 32}
    if model_type == "llama":
        stated["max_position_embeddings"] = 64
    if model_type == "deberta-v2":  # whose class has defaults that tfkit refuses
        stated |= {key: config.to_dict()[key] for key in REFUSED[model_type] if key in config.to_dict()}
    short, full = (ModelConfig.model_validate(family.from_hf(hf)) for hf in (stated, type(config)(**stated).to_dict()))
    assert short == full


@pytest.mark.sampled(9)
@pytest.mark.parametrize("model_type", BASES)
def test_computed_keys_change_the_logits_as_in_transformers(tmp_path: Path, model_type: str) -> None:
    case = BASES[model_type]
    save_reference(tmp_path, case)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    before, _ = both(tmp_path, case)
    for key, values in COMPUTED[model_type].items():
        for value in values:
            (tmp_path / "config.json").write_text(text, encoding="utf-8")
            edit_config(tmp_path, **{key: value})
            ours, theirs = both(tmp_path, case)
            assert difference(ours, theirs) < TOLERANCE, (key, value)
            assert difference(ours, before) > 10 * TOLERANCE, (key, value)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("model_type", BASES)
def test_what_would_compute_something_else_is_refused(tmp_path: Path, model_type: str) -> None:
    case = BASES[model_type]
    save_reference(tmp_path, case)
    text, rows = (tmp_path / "config.json").read_text(encoding="utf-8"), load(tmp_path).config.position_rows
    bidirectional = {"is_causal"} if model_type in ENCODERS else set()  # whatever it says, they are
    refused = [(key, value) for key, values in REFUSED.get(model_type, {}).items() for value in values]
    refused += [(key, value) for key, value in OTHERS.items() if key not in COMPUTED[model_type].keys() | bidirectional]
    refused += [(alias, 77) for alias in CASES[case].config.attribute_map]
    refused += [(key, 4) for key in (SIZES & json.loads(text).keys()) - COMPUTED[model_type].keys()]
    for key, value in refused:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        edit_config(tmp_path, **{key: value})
        if key in ("max_position_embeddings", "n_positions") and not rows:
            continue  # a limit, and nothing has that many rows
        with pytest.raises(ModelError, match=r"config\.json") as caught:
            load(tmp_path)
        assert str(caught.value).startswith(str(tmp_path))
        if key not in SIZES and key != "architectures":
            assert str(key) in str(caught.value), (key, value)


def test_the_neutral_values_of_foreign_keys_are_accepted(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama")
    assert OTHERS.keys() == FOREIGN_KEYS.keys()
    for values in ({key: values[0] for key, values in FOREIGN_KEYS.items() if values}, {"no_rope_layers": [1, 1]}):
        edit_config(tmp_path, **values)
        load(tmp_path)
    edit_config(tmp_path, **{key: None for key in FOREIGN_KEYS if key != "is_causal"})
    load(tmp_path)


def test_original_max_position_embeddings_beside_the_scaling_has_precedence(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama 3.1")
    before, _ = both(tmp_path, "llama 3.1")
    edit_config(tmp_path, original_max_position_embeddings=40)
    ours, theirs = both(tmp_path, "llama 3.1")
    assert difference(ours, theirs) < TOLERANCE < difference(ours, before)


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_the_mlp_of_t5_with_both_halves_of_its_name(tmp_path: Path, activation: str) -> None:
    save_reference(tmp_path, "t5 1.1")
    edit_config(tmp_path, feed_forward_proj=f"gated-{activation}", dense_act_fn=activation, is_gated_act=True)
    ours, theirs = both(tmp_path, "t5 1.1")
    assert difference(ours, theirs) < TOLERANCE


TWO = {"factor": 2.0}
LINEAR = TWO | {"rope_type": "linear"}
SAID: list[tuple[str, dict[str, Any], str]] = [  # what is said of several keys, of a part of one, or with a remedy
    ("llama", {"quantization_config": {"quant_method": "mxfp4"}}, "tfkit does not read quantized weights; use the model from before"),
    (
        "llama",
        {"rope_scaling": TWO | {"type": "dynamic"}},
        "of type 'dynamic' .* wavelengths change .*: make its type default in config.json",
    ),
    ("llama", {"rope_scaling": TWO}, "rotary positions of type None are not supported; only default, linear, yarn, llama3, longrope are"),
    ("llama", {"rope_parameters": TWO | {"rope_type": "proportional", "rope_theta": 1e4}}, "rotary positions of type 'proportional'"),
    ("llama", {"rope_scaling": {"full_attention": {"rope_type": "default"}}}, "rotary positions that differ between types of layers"),
    ("llama", {"rope_scaling": TWO | {"rope_type": "yarn", "mscale": 0.5}}, "mscale 0.5 of rotary positions of type yarn"),
    ("llama 3.1", {"rope_scaling": TWO | {"rope_type": "llama3"}}, "the field 'low_freq_factor' is missing"),
    *(("llama 3.1", {"rope_scaling": LLAMA3 | {"factor": factor}}, "factor") for factor in ("8", 0.0)),
    ("llama 3.1", {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor 4.0 is not below high_freq_factor 4.0"),
    ("gemma3", {"rope_parameters": {"sliding_attention": LINEAR}}, "type 'linear' are not supported in layers with a window"),
    ("modernbert", {"rope_parameters": {"full_attention": LINEAR}}, "type 'linear' are not supported; only default is"),
    ("mistral", {"sliding_window": "5"}, "attention.windows.0: Input should be a valid integer"),
    ("mistral", {"sliding_window": 0}, "attention.windows.0: Input should be greater than 0"),
    ("gemma2", {"attn_logit_softcapping": 0}, "attention.softcap: Input should be greater than 0"),
    ("t5 1.0", {"relative_attention_max_distance": 4}, "position.max_distance 4 is not above 4"),
    ("gpt with two heads", {"summary_type": "mean"}, "summary_type 'mean' is not supported, only 'cls_index' is"),
    ("gpt2 with two heads", {"summary_activation": "tanh"}, "summary_activation 'tanh' is not supported, only None is"),
    ("modernbert for classes", {"classifier_activation": "silu"}, "classifier_activation 'silu' is not hidden_activation"),
    ("modernbert for classes", {"classifier_pooling": "max"}, "classifier_pooling 'max' is neither cls nor mean"),
    ("transformer of 2017", {"num_hidden_layers": 0, "encoder_layers": 0}, "0 encoder and 2 decoder layers do not make a marian"),
    # Numbers from which the windows and rotations of the layers follow.
    *(("gemma2", {"layer_types": None, "num_hidden_layers": n}, "num_hidden_layers .* not a whole") for n in ("3", 3.0, [3], 10**12)),
    ("gemma2", {"layer_types": None, "num_hidden_layers": None}, "the field 'num_hidden_layers' is missing"),
    (
        "qwen2",
        {"layer_types": None, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": "1"},
        "max_window_layers '1' is not a whole number",
    ),
    ("gemma3", {"layer_types": None, "sliding_window_pattern": 0}, "sliding_window_pattern 0 is not a whole number from 1"),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval 0 is not a whole number from 1"),
    ("modernbert", {"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers 0 is not a whole number from 1"),
]


@pytest.mark.parametrize(("case", "changes", "said"), SAID)
def test_what_is_said_of_what_is_refused(tmp_path: Path, case: str, changes: dict[str, Any], said: str) -> None:
    save_reference(tmp_path, case)
    edit_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=rf"^{tmp_path}/config\.json: .*{said}"):
        load(tmp_path)


def test_quantized_weights_of_a_folder_with_images_are_refused_likewise() -> None:
    hf = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "quantization_config": {"quant_method": "bitsandbytes"}}
    with pytest.raises(UnsupportedError, match="tfkit does not read quantized weights"):
        normalize_keys(hf, FAMILIES["gemma3"])
