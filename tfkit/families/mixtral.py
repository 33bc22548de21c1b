"""Mixtral 8x7B and 8x22B (Jiang et al. 2024, arXiv 2401.04088).

New compared with Mistral 7B: eight MLPs in each layer, of which a router chooses two for each token, weighted by their probabilities,
divided by the sum of the two, so that a token is computed with 13 of 47 billion parameters (8x7B). There is no window. Sizes as released.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.rules import Rule, decoder_classes
from tfkit.model.config import ModelConfig

_BASE: dict[str, Any] = {
    "vocab_size": 32000,
    "position": {"kind": "rotary", "theta": 1e6},
    "mlp": llama.BASE["mlp"] | {"experts": {"count": 8, "active": 2}},
}
PRESETS = {
    "mixtral-8x7b": llama.size(4096, 32, 32, 8, 14336, **_BASE, context_length=32768, routing={"balance": 0.02}),
    "mixtral-8x22b": llama.size(6144, 56, 48, 8, 16384, **_BASE, context_length=65536, routing={"balance": 0.001}),
}

ARCHITECTURES = decoder_classes("Mixtral", "classes", "tags", "spans")


def expert_rules(theirs: str, names: dict[str, str]) -> tuple[Rule, ...]:
    """Return the rules for a router and its experts, which are in the module `theirs` of a layer of Hugging Face's class.

    `names`: our names of an expert's three matrices -> Hugging Face's names.
    """
    module, ours = f"model.layers.{{i}}.{theirs}", "decoder.blocks.{i}.mlp.op"
    experts = (Rule(f"{module}.experts.{{e}}.{one}.weight", (f"{ours}.experts.{{e}}.{name}.weight",)) for name, one in names.items())
    return Rule(f"{module}.gate.weight", (f"{ours}.router.weight",)), *experts


RULES = (
    *(rule for rule in llama.RULES if ".mlp." not in rule.theirs),
    *expert_rules("block_sparse_moe", {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}),
)

# Hugging Face's class defaults for fields that a file leaves out.
_CLASS_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.001,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | llama.NO_BIAS
    values = llama.from_hf(hf, ARCHITECTURES)
    values["attention"] |= {"windows": [hf.get("sliding_window")]}
    values["mlp"] |= {"experts": {"count": hf["num_local_experts"], "active": hf["num_experts_per_tok"]}}
    return values | {"routing": {"balance": hf["router_aux_loss_coef"]}}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    scaling = getattr(config.position, "scaling", None)
    # For this class, transformers computes the wavelengths of YaRN and longrope only if config.json states head_dim.
    left_out = () if scaling is not None and scaling.kind in ("yarn", "longrope") else llama.usual_head_dim(config)
    fields = llama.to_hf(config, (*llama.NO_BIAS, *left_out))
    return fields | {"sliding_window": config.attention.windows[0], **expert_fields(config, "num_local_experts")}


def expert_fields(config: ModelConfig, count: str) -> dict[str, Any]:
    """Return the fields of a config.json that describe experts of the width intermediate_size; `count`: the field with their number."""
    if config.mlp.experts is None or config.routing is None:
        return {}
    return {
        "intermediate_size": config.expert_dim,
        count: config.mlp.experts.count,
        "num_experts_per_tok": config.mlp.experts.active,
        "router_aux_loss_coef": config.routing.balance,
    }


FAMILY = replace(
    llama.FAMILY,
    name="mixtral",
    model_type="mixtral",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    from_hf=_from_hf,
    to_hf=_to_hf,
    prefixes={},
    renamed=((r"\.mlp\.gate\.", ".block_sparse_moe.gate."),),  # the router, in files that stack the matrices of a layer's experts
    aliases={"num_experts": "num_local_experts"},
    fixed={**llama.FAMILY.fixed, "router_jitter_noise": (0,)},
    own_keys=frozenset({"num_local_experts", "num_experts"}),
)
