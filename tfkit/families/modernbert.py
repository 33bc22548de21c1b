"""ModernBERT (Warner et al. 2024, arXiv 2412.13663).

New compared with RoBERTa: texts of 8,192 tokens. Two of three layers see only the 64 tokens on either side, and rotate by a smaller base
than the layers that see all; a gated MLP; a norm before each sublayer, apart from the first attention, whose input is the output
of the embeddings' norm; no biases but that of the output; no segments. All heads have the dense layer and norm of the masked-LM head.
Unlike tfkit, Hugging Face's class also has dropout before the output layer for answers.
"""

from typing import Any

from tfkit.families.config_fields import (
    ACTIVATIONS,
    USUAL_FIELDS,
    Fields,
    UnsupportedError,
    activation_from_hf,
    check_heads,
    first_window,
    head_from_hf,
    layer_types,
    windows_from_hf,
)
from tfkit.families.rotary import ropes_by_layer
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

_THETA, _LOCAL_THETA, _WINDOW = 160_000.0, 10_000.0, 65  # a token and the 64 before it; local_attention, 128, counts both sides

# The sizes are those of tables 1 and 4. The vocabulary is as released: 50,280 entries and 88 unused rows.
_BASE: dict[str, Any] = {
    "vocab_size": 50368,
    "context_length": 8192,
    "embedding": {"norm": True},
    "position": {"kind": "rotary", "theta": _THETA, "local_theta": _LOCAL_THETA},
    "norm": {"kind": "layer", "eps": 1e-5, "bias": False, "first": False},
    "attention": {"windows": [None, _WINDOW, _WINDOW]},
    "mlp": {"activation": "gelu", "gated": True},
    "head": {"kind": "masked_lm", "tied": True, "dense_bias": False},
    "dropout": {"residual": 0.1},  # the paper has this dropout only on the attention's output
    "init": {"std": 0.02, "residual_scaling": True},
}
PRESETS = {
    "modernbert-base": _BASE | {"encoder_layers": 22, "dim": 768, "hidden_dim": 1152, "num_heads": 12},
    "modernbert-large": _BASE | {"encoder_layers": 28, "dim": 1024, "hidden_dim": 2624, "num_heads": 16},
}

ARCHITECTURES: Architectures = {
    "ModernBertForMaskedLM": {"kind": "masked_lm", "next_sentence": False, "dense_bias": False},
    # This class reads the first token or, if classifier_pooling is mean (as in the released files), the mean; a new head reads the first.
    "ModernBertForSequenceClassification": {"kind": "classes", "dense": "normed", "bias": True},
    "ModernBertForTokenClassification": {"kind": "tags", "dense": "normed"},
    "ModernBertForQuestionAnswering": {"kind": "spans", "dense": "normed"},
    "ModernBertModel": {"kind": "none", "pooler": False},
}
_OURS, _THEIRS = "encoder.blocks.{i}", "model.layers.{i}"


def _has(kind: str) -> Any:
    return lambda config: config.head.kind == kind


RULES = (
    Rule("model.embeddings.tok_embeddings.weight", ("embedding.tokens.weight",)),
    Rule("model.embeddings.norm.weight", ("embedding.norm.weight",)),
    Rule(f"{_THEIRS}.attn_norm.weight", (f"{_OURS}.self_attention.norm.weight",)),  # all layers but the first have this norm
    Rule(f"{_THEIRS}.attn.Wqkv.weight", tuple(f"{_OURS}.self_attention.op.{name}_proj.weight" for name in "qkv")),
    Rule(f"{_THEIRS}.attn.Wo.weight", (f"{_OURS}.self_attention.op.o_proj.weight",)),
    Rule(f"{_THEIRS}.mlp_norm.weight", (f"{_OURS}.mlp.norm.weight",)),
    Rule(f"{_THEIRS}.mlp.Wi.weight", tuple(f"{_OURS}.mlp.op.{name}_proj.weight" for name in ("gate", "up"))),
    Rule(f"{_THEIRS}.mlp.Wo.weight", (f"{_OURS}.mlp.op.down_proj.weight",)),
    Rule("model.final_norm.weight", ("encoder.norm.weight",)),
    Rule("head.dense.weight", ("head.transform.weight",)),
    Rule("head.norm.weight", ("head.norm.weight",)),
    Rule("decoder.weight", ("head.output.weight",)),
    Rule("decoder.bias", ("head.bias",)),
    # Hugging Face has one name for the output layers of three heads.
    *(rule for kind in ("classes", "tags", "spans") for rule in module_rules({"classifier": f"head.{kind}"}, when=_has(kind))),
)
_FIELDS = Fields(
    {
        **USUAL_FIELDS,
        "context_length": ("max_position_embeddings", 8192),
        "encoder_layers": ("num_hidden_layers",),
        "norm.eps": ("norm_eps", 1e-5),
        "dropout.attention": ("attention_dropout", 0.0),
        "dropout.embedding": ("embedding_dropout", 0.0),
        "dropout.hidden": ("mlp_dropout", 0.0),
        "dropout.head": ("classifier_dropout", 0.0),
    }
)
_POOLS = {"cls": "first", "mean": "mean"}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    head = head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", True))
    activation = activation_from_hf(hf, "hidden_activation", "gelu")
    if head["kind"] != "none" and activation_from_hf(hf, "classifier_activation", "gelu") != activation:
        raise UnsupportedError(
            f"classifier_activation {hf.get('classifier_activation')!r} is not hidden_activation, but tfkit has one activation for both"
        )
    if head["kind"] == "classes":
        if (pooling := hf.get("classifier_pooling", "cls")) not in ("cls", "mean"):
            raise UnsupportedError(f"classifier_pooling {pooling!r} is neither cls nor mean")
        head["pool"] = _POOLS[pooling]
    theta, local_theta = _thetas(hf)
    window, period = hf.get("local_attention", 128) // 2 + 1, hf.get("global_attn_every_n_layers", 3)
    sections: dict[str, Any] = {"norm": {"kind": "layer", "bias": False, "first": False}, "init": {"residual_scaling": True}}
    return {
        **_FIELDS.read(hf, **sections, dropout={"residual": hf.get("attention_dropout", 0.0)}),
        "embedding": {"norm": True},
        "position": {"kind": "rotary", "theta": theta, "local_theta": local_theta},
        "attention": {"windows": windows_from_hf(hf, window, lambda layer: layer % period != 0)},
        "mlp": {"activation": activation, "gated": True},
        "head": head,
    }


def _thetas(hf: dict[str, Any]) -> tuple[Any, Any]:
    """Return the bases of layers without and with a window, from global_rope_theta and local_rope_theta or newer files' rope_parameters."""
    found = []
    local, full = ropes_by_layer(hf)
    for rope, old, default in ((full, "global_rope_theta", _THETA), (local, "local_rope_theta", _LOCAL_THETA)):
        if rope.get("rope_type", "default") != "default":
            raise UnsupportedError(f"rotary positions of type {rope['rope_type']!r} are not supported; only default is")
        theta = rope.get("rope_theta", hf.get(old))
        found.append(default if theta is None else theta)
    return found[0], found[1]


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    position, head = config.position, config.head
    check_heads(config)
    pool = {ours: theirs for theirs, ours in _POOLS.items()}.get(head.pool if head.kind == "classes" else "first")
    if pool is None:
        raise UnsupportedError("ModernBERT reads classes at the first token or from the mean of all, but head.pool is last")
    return {
        **_FIELDS.write(config),
        "hidden_activation": ACTIVATIONS[config.mlp.activation],
        "classifier_activation": ACTIVATIONS[config.mlp.activation],
        "classifier_pooling": pool,
        "layer_types": layer_types(config),
        "local_attention": 2 * ((first_window(config) or _WINDOW) - 1),
        "global_rope_theta": getattr(position, "theta", None),
        "local_rope_theta": getattr(position, "local_theta", None),
        "cls_token_id": None,  # nothing reads these two ids, and the class's defaults may be beyond the vocabulary
        "sep_token_id": None,
        "tie_word_embeddings": config.tied,
    }


FAMILY = Family(
    name="modernbert",
    model_type="modernbert",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="model.",
    from_hf=_from_hf,
    to_hf=_to_hf,
    fixed={
        **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), (False,)),
        "decoder_bias": (True,),
        "is_causal": (True, False),
        "rope_scaling": (),
    },
)
