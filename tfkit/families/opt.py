"""OPT (Zhang et al. 2022, arXiv 2205.01068).

GPT-3's architecture at similar sizes, without local attention, with ReLU in the MLP and with released weights. The table of positions
begins with two rows that no text uses. Sizes: table 1. The file of OPT-350m is refused: its token vectors are narrower than its blocks, a
matrix widens them before positions are added, and another matrix reduces the hidden states before the logits.
"""

from typing import Any

from tfkit.families.config_fields import ACTIVATIONS, Fields, UnsupportedError, activation_from_hf, head_from_hf
from tfkit.families.rules import Family, Rule, decoder_classes, module_rules
from tfkit.model.config import ModelConfig


def _size(dim: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 50272,
        "context_length": 2048,
        "decoder_layers": layers,
        "dim": dim,
        "num_heads": heads,
        "position": {"kind": "learned", "offset": 2},
        "norm": {"kind": "layer", "eps": 1e-5},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": "relu", "bias": True},
        "head": {"kind": "lm", "tied": True},
        "dropout": {"residual": 0.1},
        "init": {"std": 0.006, "residual_scaling": True},  # section 2.1
    }


PRESETS = {
    "opt-125m": _size(768, 12, 12),
    "opt-1.3b": _size(2048, 24, 32),
    "opt-2.7b": _size(2560, 32, 32),
    "opt-6.7b": _size(4096, 32, 32),
    "opt-13b": _size(5120, 40, 40),
    "opt-30b": _size(7168, 48, 56),
    "opt-66b": _size(9216, 64, 72),
}

ARCHITECTURES = decoder_classes("OPT", "classes", "spans")
_OURS, _THEIRS = "decoder.blocks.{i}", "model.decoder.layers.{i}"
_MODULES = {
    f"{_THEIRS}.self_attn_layer_norm": f"{_OURS}.self_attention.norm",
    **{f"{_THEIRS}.self_attn.{name}_proj": f"{_OURS}.self_attention.op.{name[0]}_proj" for name in ("q", "k", "v", "out")},
    f"{_THEIRS}.final_layer_norm": f"{_OURS}.mlp.norm",
    f"{_THEIRS}.fc1": f"{_OURS}.mlp.op.up_proj",
    f"{_THEIRS}.fc2": f"{_OURS}.mlp.op.down_proj",
    "model.decoder.final_layer_norm": "decoder.norm",
    "qa_outputs": "head.spans",
}
RULES = (
    Rule("model.decoder.embed_tokens.weight", ("embedding.tokens.weight",)),
    Rule("model.decoder.embed_positions.weight", ("embedding.positions.weight",)),
    *module_rules(_MODULES),
    Rule("lm_head.weight", ("head.output.weight",)),
    Rule("score.weight", ("head.classes.weight",)),
)
_FIELDS = Fields(
    {
        "vocab_size": ("vocab_size",),
        "context_length": ("max_position_embeddings", 2048),
        "decoder_layers": ("num_hidden_layers",),
        "dim": ("hidden_size",),
        "hidden_dim": ("ffn_dim",),
        "num_heads": ("num_attention_heads",),
        "dropout.residual": ("dropout", 0.1),
        "dropout.attention": ("attention_dropout", 0.0),
        "init.std": ("init_std", 0.02),
    }
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    if (width := hf.get("word_embed_proj_dim")) not in (None, hf["hidden_size"]):
        raise UnsupportedError(
            f"word_embed_proj_dim {width!r} is not hidden_size {hf['hidden_size']!r}: token vectors of another width than the blocks, "
            "which OPT-350m alone has, are not supported. Use another OPT, such as opt-125m or opt-1.3b"
        )
    bias = bool(hf.get("enable_bias", True))
    return {
        **_FIELDS.read(hf),
        "position": {"kind": "learned", "offset": 2},
        "norm": {"kind": "layer", "eps": 1e-5, "placement": "pre" if hf.get("do_layer_norm_before", True) else "post"},
        "attention": {"qkv_bias": bias, "out_bias": bias},
        "mlp": {"activation": activation_from_hf(hf, "activation_function", "relu"), "bias": bias},
        "head": head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", True)),
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **_FIELDS.write(config),
        "word_embed_proj_dim": config.dim,
        "do_layer_norm_before": config.norm.placement == "pre",
        "enable_bias": config.mlp.bias,
        "activation_function": ACTIVATIONS[config.mlp.activation],
        "tie_word_embeddings": config.tied,
    }


FAMILY = Family(
    name="opt",
    model_type="opt",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="model.",
    from_hf=_from_hf,
    to_hf=_to_hf,
    renamed=((r"^(model\.)?decoder\.", "model.decoder."),),
    fixed={"layer_norm_elementwise_affine": (True,), "_remove_final_layer_norm": (False,)},
)
