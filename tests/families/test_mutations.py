"""The parity tests can see: each feature, got wrong on purpose, moves the logits past their tolerance.

Widths are chosen so that a wrong map still has the right shapes, and weights so that a wrong formula is not lost in rounding.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_files import edit_config
from tiny_references import CASES, LARGE, SMALL, TOLERANCE, difference, logits_of, real, run, save_reference
from torch import Tensor

from tfkit.families import MODEL_TYPES
from tfkit.families.rules import Rule
from tfkit.hub import load
from tfkit.model.attention import Attention, attend
from tfkit.model.masks import count_positions
from tfkit.model.mlp import ACTIVATIONS
from tfkit.model.relative_position import RelativeBias, Rotation
from tfkit.model.stack import Sublayer

Patch = Callable[[pytest.MonkeyPatch, Path], None]


def config_says(**changes: Any) -> Patch:
    """The configuration is read as another one."""

    return lambda _monkeypatch, folder: edit_config(folder, **changes)


def rules(family: str, change: Callable[[Rule], Rule]) -> Patch:
    """Tensors are read into other places."""

    def patch(monkeypatch: pytest.MonkeyPatch, _folder: Path) -> None:
        changed = tuple(map(change, MODEL_TYPES[family].rules))
        assert changed != MODEL_TYPES[family].rules
        monkeypatch.setattr(f"tfkit.families.{MODEL_TYPES[family].name}.FAMILY", replace(MODEL_TYPES[family], rules=changed))

    return patch


def described(family: str, section: str, **changes: Any) -> Patch:
    """The family is changed, where config.json has no field for it."""

    def patch(monkeypatch: pytest.MonkeyPatch, _folder: Path) -> None:
        right = MODEL_TYPES[family].from_hf

        def from_hf(hf: dict[str, Any]) -> dict[str, Any]:
            values = right(hf)
            return values | {section: values[section] | changes}

        monkeypatch.setattr(f"tfkit.families.{MODEL_TYPES[family].name}.FAMILY", replace(MODEL_TYPES[family], from_hf=from_hf))

    return patch


def formula(target: str, wrong: Callable[..., Any]) -> Patch:
    """A function computes something else."""
    return lambda monkeypatch, _folder: monkeypatch.setattr(target, wrong)


def first_position(number: int) -> Patch:
    """Positions are counted from another number."""
    return formula("tfkit.model.transformer.count_positions", lambda positions: count_positions(positions) + number)


def activation(name: str, as_if: str) -> Patch:
    return lambda monkeypatch, _folder: monkeypatch.setitem(ACTIVATIONS, name, ACTIVATIONS[as_if])


def in_order(order: str) -> Callable[[Rule], Rule]:
    return lambda rule: replace(rule, ours=tuple(rule.ours["qkv".index(name)] for name in order)) if len(rule.ours) == 3 else rule


def other_way_round(rule: Rule) -> Rule:
    return replace(rule, ours=rule.ours[::-1]) if len(rule.ours) == 2 else rule


def swapped(one: str, other: str) -> Callable[[Rule], Rule]:
    """The foreign names of two tensors exchanged."""

    def change(rule: Rule) -> Rule:
        parts = [{one: other, other: one}.get(part, part) for part in rule.theirs.split(".")]
        return replace(rule, theirs=".".join(parts))

    return change


def as_stored(rule: Rule) -> Rule:
    return replace(rule, transposed=False) if rule.theirs.endswith("attn.c_proj.weight") else rule


def norm_first(sublayer: Sublayer, x: Tensor, *context: object) -> Tensor:
    return x + sublayer.op(sublayer.norm(x), *context)


def adjacent_pairs(x: Tensor, rotation: Rotation) -> Tensor:
    """Meta's form of rotary positions, which needs other rows of the projections."""
    cos, sin = rotation
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def plain(**options: Any) -> Callable[..., Tensor]:
    """Return attention by torch's kernel with these options, whatever it is asked for."""
    return lambda queries, keys, values, *_, **__: F.scaled_dot_product_attention(queries, keys, values, **options)


def heads_in_turns(queries: Tensor, keys: Tensor, values: Tensor, *_rest: object, **_options: object) -> Tensor:
    """Query head h reads group h mod K instead of h div (H / K)."""
    times = queries.shape[1] // keys.shape[1]
    return F.scaled_dot_product_attention(queries, keys.repeat(1, times, 1, 1), values.repeat(1, times, 1, 1), is_causal=True)


def without_norm(attention: Attention, x: Tensor, _norm: object) -> Tensor:
    return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def scaled_after_the_cap(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *_rest: object, **_options: object) -> Tensor:
    keys, values = keys.repeat_interleave(2, dim=1), values.repeat_interleave(2, dim=1)
    scores = 2.0 * torch.tanh(queries @ keys.mT / 2.0) * 20**-0.5
    visible = torch.ones(23, 23, dtype=torch.bool).tril() if mask is None else mask
    return scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ values


def biased_everywhere(queries: Tensor, keys: Tensor, *rest: Any, bias: Tensor | None = None, **options: Any) -> Tensor:
    """Attention over the encoder's output has a position bias too."""
    if bias is None:
        bias = -(torch.arange(keys.shape[2]) - torch.arange(queries.shape[2])[:, None]).abs()[None, None] / 8.0
    return attend(queries, keys, *rest, bias=bias, **options)


def buckets(bidirectional: bool) -> Callable[..., RelativeBias]:
    return lambda config, num_heads, _bidirectional: RelativeBias(config, num_heads, bidirectional)


ATTEND = "tfkit.model.attention.attend"
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16}
NEAR = {"kind": "relative", "buckets": 32, "max_distance": 20}
MISTAKES: dict[str, tuple[str, Patch]] = {
    "gelu exact instead of tanh": ("gpt2", activation("gelu_tanh", "gelu")),
    "gelu tanh instead of exact": ("gpt2 with exact gelu", activation("gelu", "gelu_tanh")),
    "gelu of gpt exact instead of tanh": ("gpt", activation("gelu_tanh", "gelu")),
    "norms of gpt before the sublayers": ("gpt", formula("tfkit.model.stack.Sublayer.forward", norm_first)),
    "norms of gpt swapped": ("gpt", rules("openai-gpt", swapped("ln_1", "ln_2"))),
    "values of gpt before keys": ("gpt", rules("openai-gpt", in_order("qvk"))),
    "square c_proj of gpt not transposed": ("gpt", rules("openai-gpt", as_stored)),
    "gelu instead of silu": ("llama", activation("silu", "gelu")),
    "theta": ("llama", config_says(rope_parameters={"rope_type": "default", "rope_theta": 1e5})),
    "rotary scaling ignored": ("llama 3.1", config_says(rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
    "window of mistral one wider": ("mistral", config_says(sliding_window=6)),
    "window of mistral ignored": ("mistral", config_says(sliding_window=None)),
    "window where there is none": ("mistral without a window", config_says(sliding_window=5)),
    "window of gemma2 one wider": ("gemma2", config_says(sliding_window=6)),
    "local and global layers exchanged": ("gemma2", config_says(layer_types=["full_attention", "sliding_attention", "full_attention"])),
    "gelu of gemma2": ("gemma2", config_says(hidden_activation="gelu")),
    "cap of the scores dropped": ("gemma2", config_says(attn_logit_softcapping=None)),
    "cap of the logits dropped": ("gemma2", config_says(final_logit_softcapping=None)),
    "scores scaled by head_dim": ("gemma2", config_says(query_pre_attn_scalar=16)),
    "scores scaled after the cap": ("gemma2", formula(ATTEND, scaled_after_the_cap)),
    "norms not stored minus one": ("gemma2", described("gemma2", "norm", unit_offset=False)),
    "embeddings not scaled": ("gemma2", described("gemma2", "embedding", scale=False)),
    "norms before and after swapped": ("gemma2", rules("gemma2", swapped("post_attention_layernorm", "pre_feedforward_layernorm"))),
    "queries and keys of qwen3 not normed": ("qwen3", formula("tfkit.model.attention.Attention._split_heads", without_norm)),
    "windows of qwen2 in all layers": ("qwen2", config_says(layer_types=["sliding_attention"] * 3)),
    "attention factor of yarn": (
        "qwen2 with yarn",
        config_says(rope_parameters=YARN),
    ),
    "one base in all layers of gemma3": ("gemma3 with longer wavelengths", described("gemma3_text", "position", local_theta=1e5)),
    "wavelengths of gemma3 not scaled": ("gemma3 with longer wavelengths", described("gemma3_text", "position", scaling=None)),
    "layers of smollm3 that rotate": ("smollm3", config_says(no_rope_layers=[0, 1, 1])),
    "norms of olmo2 before the sublayers": ("olmo2", described("olmo2", "norm", placement="pre")),
    "norms of olmo2 swapped": ("olmo2", rules("olmo2", swapped("post_attention_layernorm", "post_feedforward_layernorm"))),
    "yarn of olmo3 in local layers": ("olmo3", described("olmo3", "position", local_theta=None)),
    "gate and up of mixtral's experts swapped": ("mixtral", rules("mixtral", swapped("w1", "w3"))),
    "another number of experts a token": ("mixtral", config_says(num_experts_per_tok=1)),
    "probabilities of olmoe normalized": ("olmoe", config_says(norm_topk_prob=True)),
    "probabilities of qwen3_moe not normalized": ("qwen3_moe", config_says(norm_topk_prob=False)),
    "gate and up of phi3 swapped": ("phi3", rules("phi3", other_way_round)),
    "q|k|v of gpt_neox not by head": ("gpt_neox", rules("gpt_neox", lambda rule: replace(rule, by_head=False))),
    "sublayers of gpt_neox one after the other": ("gpt_neox", config_says(use_parallel_residual=False)),
    "gpt_neox rotated whole": ("gpt_neox", described("gpt_neox", "position", fraction=1.0)),
    "a late first position in opt": ("opt", first_position(1)),
    "max_distance of t5": ("t5 1.0", config_says(relative_attention_max_distance=40)),
    "output of t5 1.0 not scaled": ("t5 1.0", config_says(scale_decoder_outputs=False)),
    "output of t5 1.1 scaled": ("t5 1.1", config_says(scale_decoder_outputs=True)),
    "scores of t5 scaled": ("t5 1.0", described("t5", "attention", scale=None)),
    "gelu of t5 1.1 exact instead of tanh": ("t5 1.1", activation("gelu_tanh", "gelu")),
    "gate and up of t5 1.1 swapped": ("t5 1.1", rules("t5", swapped("wi_0", "wi_1"))),
    "buckets of the decoder in both directions": ("t5 1.0", formula("tfkit.model.stack.RelativeBias", buckets(True))),
    "buckets of the encoder in one direction": ("t5 1.0", formula("tfkit.model.stack.RelativeBias", buckets(False))),
    "a bias in cross-attention": ("t5 1.0", formula(ATTEND, biased_everywhere)),
    "padding of the source seen": ("t5 1.0", formula("tfkit.model.attention.encoder_output_mask", lambda *_: None)),
    "embeddings of 2017 not scaled": ("transformer of 2017", config_says(scale_embedding=False)),
    "swish for relu": ("transformer of 2017", config_says(activation_function="swish")),
    "sines and cosines in turns": ("transformer of 2017", described("marian", "position", layout="interleaved")),
    "eps of 2017": ("transformer of 2017", described("marian", "norm", eps=1e-3)),  # sums as large as the sinusoids hide smaller ones
    "norms of 2017 before the sublayers": ("transformer of 2017", formula("tfkit.model.stack.Sublayer.forward", norm_first)),
    "norms of 2017 swapped": ("transformer of 2017", rules("marian", swapped("self_attn_layer_norm", "final_layer_norm"))),
    "bias of the logits left out": ("transformer of 2017", described("marian", "head", bias=False)),
    "keys before queries": ("gpt2", rules("gpt2", in_order("kqv"))),
    "values before keys": ("gpt2", rules("gpt2", in_order("qvk"))),
    "square c_proj not transposed": ("gpt2", rules("gpt2", as_stored)),
    "norms of attention and mlp swapped": ("llama", rules("llama", swapped("input_layernorm", "post_attention_layernorm"))),
    "gate and up swapped": ("llama", rules("llama", swapped("gate_proj", "up_proj"))),
    "keys and values swapped": ("llama", rules("llama", swapped("k_proj", "v_proj"))),
    "adjacent pairs rotated": ("llama", formula("tfkit.model.attention.rotate", adjacent_pairs)),
    "not rotated": ("llama", formula("tfkit.model.attention.rotate", lambda x, _rotation: x)),
    "groups of heads in turns": ("llama", formula(ATTEND, heads_in_turns)),
    "scores not scaled": ("llama", formula(ATTEND, plain(is_causal=True, scale=1.0, enable_gqa=True))),
    "no causal mask": ("llama", formula(ATTEND, plain(enable_gqa=True))),
    "gelu of bert tanh instead of exact": ("bert", activation("gelu", "gelu_tanh")),
    "gelu of distilbert tanh instead of exact": ("distilbert", activation("gelu", "gelu_tanh")),
    "norms of bert before the sublayers": ("bert", formula("tfkit.model.stack.Sublayer.forward", norm_first)),
    "norms of distilbert swapped": ("distilbert", rules("distilbert", swapped("sa_layer_norm", "output_layer_norm"))),
    "queries and keys of bert swapped": ("bert", rules("bert", swapped("query", "key"))),
    "keys and values of distilbert swapped": ("distilbert", rules("distilbert", swapped("k_lin", "v_lin"))),
    "padding of bert seen": ("bert", formula("tfkit.model.masks.Mask.dense", lambda _: None)),
    "bert sees only what is before": ("bert", formula(ATTEND, plain(is_causal=True))),
    "segments of bert left out": ("bert", formula("tfkit.model.embedding.torch.zeros_like", torch.ones_like)),
    "a late first position in bert": ("bert", first_position(1)),
    "an early first position in roberta": ("roberta", first_position(-1)),
    "gelu of roberta tanh instead of exact": ("roberta", activation("gelu", "gelu_tanh")),
    "queries and keys of roberta swapped": ("roberta", rules("roberta", swapped("query", "key"))),
    "one base for all layers": ("modernbert", described("modernbert", "position", local_theta=None)),
    "bases exchanged": ("modernbert", described("modernbert", "position", theta=1e4, local_theta=16e4)),
    "window of modernbert one wider": ("modernbert", config_says(local_attention=6)),
    "gate and up of modernbert swapped": ("modernbert", rules("modernbert", other_way_round)),
    "classes of the mean read at the first token": ("modernbert for classes of the mean", described("modernbert", "head", pool="first")),
    "pooler of electra with tanh": ("electra for classes", described("electra", "head", dense="tanh")),
    "distances of mpnet too near": (
        "mpnet",
        described("mpnet", "position", relative=NEAR),
    ),
    "an early first position in bart": ("bart", first_position(-1)),
    "norms of mbart after the sublayers": ("bart", formula("tfkit.model.stack.Sublayer.forward", norm_first)),
    "embeddings of mbart not scaled": ("mbart", config_says(scale_embedding=False)),
    "distances of deberta too near": ("deberta", config_says(max_relative_positions=9)),
    "scores of deberta scaled as bert's": ("deberta", described("deberta-v2", "attention", scale=8**-0.5)),
    "pooler of bert with relu": ("bert for classes", described("bert", "head", dense="relu")),
    "pooler of distilbert with tanh": ("distilbert for classes", described("distilbert", "head", dense="tanh")),
    "classes of bert read at the last token": ("bert for classes", described("bert", "head", pool="last")),
    "a late first position": ("gpt2", first_position(1)),
}
MISTAKES_OF_EPS: dict[str, tuple[str, Patch]] = {  # which show where weights are small
    "eps of gpt": ("gpt", config_says(layer_norm_epsilon=1e-4)),  # a norm after the sublayer hides the smaller ones
    "eps of LayerNorm": ("gpt2", config_says(layer_norm_epsilon=1e-12)),
    "eps of RMSNorm": ("llama", config_says(rms_norm_eps=1e-6)),
    "eps of gemma2": ("gemma2", config_says(rms_norm_eps=1e-5)),
    "eps of t5": ("t5 1.1", config_says(layer_norm_epsilon=1e-5)),
    "eps of bert": ("bert", config_says(layer_norm_eps=1e-5)),
    "eps of distilbert": ("distilbert", described("distilbert", "norm", eps=1e-5)),
    "eps of modernbert": ("modernbert", config_says(norm_eps=1e-4)),
    "eps of deberta": ("deberta", config_says(layer_norm_eps=1e-4)),
}
CASES_OF_MISTAKES = [(*mistake, LARGE) for mistake in MISTAKES.values()] + [(*mistake, SMALL) for mistake in MISTAKES_OF_EPS.values()]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("case", "patch", "std"), CASES_OF_MISTAKES, ids=[*MISTAKES, *MISTAKES_OF_EPS])
@torch.no_grad()
def test_a_mistake_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, patch: Patch, std: float) -> None:
    expected = real(case, logits_of(save_reference(tmp_path, case, std)(**CASES[case].inputs)))
    assert difference(real(case, run(load(tmp_path).model, case).logits), expected) < TOLERANCE
    patch(monkeypatch, tmp_path)
    assert difference(real(case, run(load(tmp_path).model, case).logits), expected) > 2 * TOLERANCE
