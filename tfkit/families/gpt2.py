"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

New compared with GPT: the norm comes before each sublayer and once more after the last block, so that nothing interrupts the residual
stream and deep stacks train; byte-level BPE, so that no text is unknown; matrices that write to the residual stream start smaller, by
a factor of sqrt(2 * layers). Layers, widths and heads as released (124,439,808 to 1,557,611,200 parameters).
"""

from typing import Any

from tfkit.families.config_fields import ACTIVATIONS, activation_from_hf, head_from_hf
from tfkit.families.gpt import ALIASES, BLOCK_RULES, FIELDS, HEAD_RULES, SUMMARY, check_summary
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

# Dropout: the report does not mention it, and Hugging Face's config has 0.1. Here it is off: one pass over the data does not overfit.
_BASE: dict[str, Any] = {
    "vocab_size": 50257,
    "context_length": 1024,
    "position": {"kind": "learned"},
    "norm": {"kind": "layer", "eps": 1e-5},
    "attention": {"qkv_bias": True, "out_bias": True},
    "mlp": {"activation": "gelu_tanh", "bias": True},
    "head": {"kind": "lm", "tied": True},
    "init": {"std": 0.02, "residual_scaling": True},
}

PRESETS = {
    "gpt2": _BASE | {"decoder_layers": 12, "dim": 768, "num_heads": 12},
    "gpt2-medium": _BASE | {"decoder_layers": 24, "dim": 1024, "num_heads": 16},
    "gpt2-large": _BASE | {"decoder_layers": 36, "dim": 1280, "num_heads": 20},
    "gpt2-xl": _BASE | {"decoder_layers": 48, "dim": 1600, "num_heads": 25},
}

ARCHITECTURES: Architectures = {
    "GPT2LMHeadModel": {"kind": "lm", "choices": False},
    "GPT2DoubleHeadsModel": {"kind": "lm", "choices": True},
    "GPT2ForSequenceClassification": {"kind": "classes", "pool": "last", "dense": None, "bias": False},
    "GPT2ForTokenClassification": {"kind": "tags"},
    "GPT2Model": {"kind": "none"},
}
RULES = (
    Rule("transformer.wte.weight", ("embedding.tokens.weight",)),
    Rule("transformer.wpe.weight", ("embedding.positions.weight",)),
    *BLOCK_RULES,
    *HEAD_RULES,
    *module_rules({"transformer.ln_f": "decoder.norm", "classifier": "head.tags"}),
)

_HEAD_DROPOUT = {"lm": "summary_first_dropout", "tags": "classifier_dropout"}  # kind of head -> the field of its dropout, if any


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    head = head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", True))
    check_summary(hf, head)
    of_head = hf.get(_HEAD_DROPOUT[head["kind"]], 0.1) if head["kind"] in _HEAD_DROPOUT else 0.0
    return {
        **FIELDS.read(hf, norm={"kind": "layer"}, dropout={"head": of_head}, init={"residual_scaling": True}),
        "hidden_dim": hf.get("n_inner"),
        "position": {"kind": "learned"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": activation_from_hf(hf, "activation_function", "gelu_new"), "bias": True},
        "head": head,
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **FIELDS.write(config),
        "n_ctx": config.context_length,
        "n_inner": None if config.hidden_dim == 4 * config.dim else config.hidden_dim,
        "activation_function": ACTIVATIONS[config.mlp.activation],
        **SUMMARY,
        **({_HEAD_DROPOUT[config.head.kind]: config.dropout.head} if config.head.kind in _HEAD_DROPOUT else {}),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": config.tied,
    }


FAMILY = Family(
    name="gpt2",
    model_type="gpt2",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="transformer.",
    ignored=(r".*\.attn\.bias", r".*\.attn\.masked_bias"),  # the causal mask in the released files
    from_hf=_from_hf,
    to_hf=_to_hf,
    aliases=ALIASES,
    fixed={"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
)
