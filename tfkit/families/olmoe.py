"""OLMoE 1B-7B (Muennighoff et al. 2024, arXiv 2409.02060).

New compared with Mixtral: 64 small experts, of which eight compute a token, weighted by their probabilities among all 64; queries and keys
are normed over the whole projection; each query head has its own key and value head. Data, code and checkpoints are open. In pretraining,
a second loss of the routers keeps their logits small (section 4.1.6); transformers does not have it. Sizes as released.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.config_fields import UnsupportedError
from tfkit.families.mixtral import expert_fields, expert_rules
from tfkit.families.qwen3 import QK_NORMS
from tfkit.families.rules import decoder_classes
from tfkit.model.config import ModelConfig

_SPARSE: dict[str, Any] = {
    "attention": {"qk_norm": "projection"},
    "mlp": llama.BASE["mlp"] | {"experts": {"count": 64, "active": 8, "normalized": False}},
    "routing": {"balance": 0.01, "z_loss": 0.001},
}
PRESETS = {"olmoe-1b-7b": llama.size(2048, 16, 16, 16, 1024, vocab_size=50304, context_length=4096, **_SPARSE)}

ARCHITECTURES = decoder_classes("Olmoe")
EXPERTS = expert_rules("mlp", {name: name for name in ("gate_proj", "up_proj", "down_proj")})

# Hugging Face's class defaults for fields that a file leaves out.
_CLASS_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.01,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | {"mlp_bias": False}
    values = llama.from_hf(hf, ARCHITECTURES)
    values["attention"] |= {"qk_norm": "projection"}
    values["mlp"] |= {"experts": {"count": hf["num_experts"], "active": hf["num_experts_per_tok"], "normalized": hf["norm_topk_prob"]}}
    return values | {"routing": {"balance": hf["router_aux_loss_coef"]}}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    if config.head_dim * config.num_heads != config.dim:  # Hugging Face's norms of queries and keys have the width dim
        raise UnsupportedError(f"OLMoE's heads are hidden_size / num_attention_heads wide, not {config.head_dim}")
    fields = llama.to_hf(config, ("mlp_bias", "head_dim"))
    normalized = config.mlp.experts is not None and config.mlp.experts.normalized
    return fields | {**expert_fields(config, "num_experts"), "norm_topk_prob": normalized}


FAMILY = replace(
    llama.FAMILY,
    name="olmoe",
    model_type="olmoe",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=(*(rule for rule in llama.RULES if ".mlp." not in rule.theirs), *QK_NORMS, *EXPERTS),
    from_hf=_from_hf,
    to_hf=_to_hf,
    aliases={"num_local_experts": "num_experts"},
    own_keys=frozenset({"num_experts", "num_local_experts"}),
)
