"""Qwen 3, its mixtures of experts (Yang et al. 2025, arXiv 2505.09388).

The attention is that of the dense models; each MLP is replaced by 128 small experts, of which eight compute each token. In a file,
some layers may have an MLP of the width intermediate_size instead; the released models have experts in all layers. Sizes as released.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama, qwen2, qwen3
from tfkit.families.config_fields import UnsupportedError, shortest_period
from tfkit.families.mixtral import expert_fields
from tfkit.families.olmoe import EXPERTS
from tfkit.families.rules import decoder_classes
from tfkit.model.config import ModelConfig


def _size(dim: int, layers: int, heads: int, expert_dim: int, context: int) -> dict[str, Any]:
    experts = {"count": 128, "active": 8, "hidden_dim": expert_dim}
    return {
        **qwen3.PRESETS["qwen3-8b"],
        "context_length": context,
        "decoder_layers": layers,
        "dim": dim,
        "hidden_dim": 3 * dim,  # the width of layers without experts; released models have no such layers
        "num_heads": heads,
        "num_kv_heads": 4,
        "mlp": {"activation": "silu", "gated": True, "bias": False, "experts": experts},
        "routing": {"balance": 0.001},
    }


PRESETS = {
    "qwen3-moe-30b-a3b": _size(2048, 48, 32, 768, 32768),
    "qwen3-moe-235b-a22b": _size(4096, 94, 64, 1536, 40960),  # released only as a chat model
}

ARCHITECTURES = decoder_classes("Qwen3Moe", "classes", "tags", "spans")

# Hugging Face's class defaults for fields that a file leaves out.
_CLASS_DEFAULTS: dict[str, Any] = qwen2.CLASS_DEFAULTS | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.001,
    "decoder_sparse_step": 1,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | {"mlp_bias": False}
    values = llama.from_hf(hf, ARCHITECTURES)
    # Hugging Face's class has a window in all layers or in none.
    values["attention"] |= {"qk_norm": "head", "windows": [hf["sliding_window"] if hf["use_sliding_window"] else None]}
    step, dense = hf["decoder_sparse_step"], hf.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(number) is int for number in (step, *dense)) or step < 1:
        raise UnsupportedError(f"mlp_only_layers {dense!r:.80} and decoder_sparse_step {step!r:.80} do not say which layers have experts")
    sparse = [layer not in dense and (layer + 1) % step == 0 for layer in range(hf["num_hidden_layers"])]
    if not any(sparse) or not hf["num_experts"]:
        return values
    experts = {
        "count": hf["num_experts"],
        "active": hf["num_experts_per_tok"],
        "hidden_dim": hf["moe_intermediate_size"],
        "normalized": hf["norm_topk_prob"],
        "layers": shortest_period(sparse),
    }
    return values | {"mlp": values["mlp"] | {"experts": experts}, "routing": {"balance": hf["router_aux_loss_coef"]}}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    sparse = [config.has_experts(layer) for layer in range(config.decoder_layers)]
    step = next((step for step in range(1, len(sparse) + 1) if sparse == [(n + 1) % step == 0 for n in range(len(sparse))]), None)
    window = config.attention.windows[0]
    return {
        **llama.to_hf(config, ("mlp_bias", *llama.usual_head_dim(config))),
        **expert_fields(config, "num_experts"),
        "intermediate_size": config.hidden_dim,
        "moe_intermediate_size": config.expert_dim,
        "norm_topk_prob": config.mlp.experts is not None and config.mlp.experts.normalized,
        "decoder_sparse_step": step or 1,
        "mlp_only_layers": [] if step else [layer for layer, is_sparse in enumerate(sparse) if not is_sparse],
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


FAMILY = replace(
    qwen3.FAMILY,
    name="qwen3_moe",
    model_type="qwen3_moe",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=(*qwen3.FAMILY.rules, *EXPERTS),
    from_hf=_from_hf,
    to_hf=_to_hf,
    aliases={"num_local_experts": "num_experts"},
    own_keys=frozenset({"num_experts", "num_local_experts"}),
)
