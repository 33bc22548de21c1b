"""Llama 1, 2, 3 (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288; Grattafiori et al. 2024, arXiv 2407.21783).

New compared with GPT-3: RMSNorm instead of LayerNorm, rotary positions instead of learned ones, a gated SiLU in the MLP, no biases and no
dropout; Llama 2 (70B) and 3 share each key and value head among several query heads; 3.1 stretches the long wavelengths of the
rotation for a context of 128 k. All were trained on more tokens, and most have fewer parameters.
"""

from collections.abc import Container
from typing import Any

from tfkit.families.config_fields import ACTIVATIONS, USUAL_FIELDS, Fields, activation_from_hf, check_heads, head_from_hf
from tfkit.families.rotary import position_from_hf, position_to_hf
from tfkit.families.rules import Architectures, Family, Rule, decoder_classes, module_rules
from tfkit.model.config import ModelConfig

BASE: dict[str, Any] = {  # families derived from Llama use it, too
    "position": {"kind": "rotary", "theta": 1e4},
    "norm": {"kind": "rms", "eps": 1e-5},
    "mlp": {"activation": "silu", "gated": True, "bias": False},
    "head": {"kind": "lm", "tied": False},
    "init": {"std": 0.02},  # most papers do not state the std; this is Hugging Face's default
}


def size(dim: int, layers: int, heads: int, kv_heads: int, hidden_dim: int, **values: Any) -> dict[str, Any]:
    """Return a preset of a family derived from Llama; `values`: what differs from BASE."""
    sizes = {"decoder_layers": layers, "dim": dim, "hidden_dim": hidden_dim, "num_heads": heads, "num_kv_heads": kv_heads}
    return BASE | sizes | values


# The MLP of Llama 1 and 2 is 8/3 dim wide, rounded up to a multiple of 256, unless a preset sets hidden_dim.
_LLAMA2 = BASE | {"vocab_size": 32000, "context_length": 4096}
_LLAMA1 = _LLAMA2 | {"context_length": 2048, "norm": {"kind": "rms", "eps": 1e-6}}
_LLAMA3 = _LLAMA2 | {"vocab_size": 128256, "context_length": 8192, "position": {"kind": "rotary", "theta": 5e5}, "num_kv_heads": 8}


def _stretched(factor: float) -> dict[str, Any]:
    """Return the context and positions of Llama 3.1 and later, which multiply long wavelengths by `factor` after pretraining."""
    scaling = {"kind": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context_length": 8192}
    return {"context_length": 131072, "position": {"kind": "rotary", "theta": 5e5, "scaling": scaling}}


_LLAMA31 = _LLAMA3 | _stretched(8.0)
_LLAMA32 = _LLAMA3 | _stretched(32.0) | {"head": {"kind": "lm", "tied": True}}  # the factor in the released files; the paper has no 3.2

PRESETS = {
    "llama-7b": _LLAMA1 | {"decoder_layers": 32, "dim": 4096, "num_heads": 32},
    "llama-13b": _LLAMA1 | {"decoder_layers": 40, "dim": 5120, "num_heads": 40},
    "llama-33b": _LLAMA1 | {"decoder_layers": 60, "dim": 6656, "num_heads": 52},
    "llama-65b": _LLAMA1 | {"decoder_layers": 80, "dim": 8192, "num_heads": 64},
    "llama2-7b": _LLAMA2 | {"decoder_layers": 32, "dim": 4096, "num_heads": 32},
    "llama2-13b": _LLAMA2 | {"decoder_layers": 40, "dim": 5120, "num_heads": 40},
    "llama2-70b": _LLAMA2 | {"decoder_layers": 80, "dim": 8192, "num_heads": 64, "num_kv_heads": 8, "hidden_dim": 28672},
    "llama3-8b": _LLAMA3 | {"decoder_layers": 32, "dim": 4096, "num_heads": 32, "hidden_dim": 14336},
    "llama3-70b": _LLAMA3 | {"decoder_layers": 80, "dim": 8192, "num_heads": 64, "hidden_dim": 28672},
    "llama3.1-8b": _LLAMA31 | {"decoder_layers": 32, "dim": 4096, "num_heads": 32, "hidden_dim": 14336},
    "llama3.1-70b": _LLAMA31 | {"decoder_layers": 80, "dim": 8192, "num_heads": 64, "hidden_dim": 28672},
    "llama3.1-405b": _LLAMA31 | {"decoder_layers": 126, "dim": 16384, "num_heads": 128, "hidden_dim": 53248},
    "llama3.2-1b": _LLAMA32 | {"decoder_layers": 16, "dim": 2048, "num_heads": 32, "hidden_dim": 8192},
    "llama3.2-3b": _LLAMA32 | {"decoder_layers": 28, "dim": 3072, "num_heads": 24, "hidden_dim": 8192},
}

ARCHITECTURES = decoder_classes("Llama", "classes", "tags", "spans")
_OURS, _THEIRS = "decoder.blocks.{i}", "model.layers.{i}"

RULES = (
    Rule("model.embed_tokens.weight", ("embedding.tokens.weight",)),
    Rule(f"{_THEIRS}.input_layernorm.weight", (f"{_OURS}.self_attention.norm.weight",)),
    *module_rules({f"{_THEIRS}.self_attn.{name}_proj": f"{_OURS}.self_attention.op.{name}_proj" for name in "qkvo"}),
    # Hugging Face names this norm for its place after attention; it is the norm before the MLP.
    Rule(f"{_THEIRS}.post_attention_layernorm.weight", (f"{_OURS}.mlp.norm.weight",)),
    *module_rules({f"{_THEIRS}.mlp.{name}_proj": f"{_OURS}.mlp.op.{name}_proj" for name in ("gate", "up", "down")}),
    Rule("model.norm.weight", ("decoder.norm.weight",)),
    Rule("lm_head.weight", ("head.output.weight",)),
    Rule("score.weight", ("head.classes.weight",), when=lambda config: config.head.kind != "tags"),
    Rule("score.weight", ("head.tags.weight",), when=lambda config: config.head.kind == "tags"),
    Rule("score.bias", ("head.tags.bias",)),
    *module_rules({"qa_outputs": "head.spans"}),
)

_FIELDS = Fields(
    {
        **USUAL_FIELDS,
        "decoder_layers": ("num_hidden_layers",),
        "num_kv_heads": ("num_key_value_heads", None),
        "head_dim": ("head_dim", None),
        "norm.eps": ("rms_norm_eps", 1e-6),
        "dropout.attention": ("attention_dropout", 0.0),
    }
)
LLAMA_ACTIVATIONS = ACTIVATIONS | {"gelu_tanh": "gelu_pytorch_tanh"}  # the newer of Hugging Face's two names
NO_BIAS = {"attention_bias": False, "mlp_bias": False}  # Llama's fields that the classes of Mistral, Mixtral, Phi-3 and Qwen 2 lack


def from_hf(
    hf: dict[str, Any],
    architectures: Architectures = ARCHITECTURES,
    act: str = "hidden_act",
    position: dict[str, Any] | None = None,
    **vocabulary: Any,
) -> dict[str, Any]:
    """Return the values of a ModelConfig from a config.json with Llama's fields; families derived from Llama add values of their own.

    `act`: the name of the activation's field; `position`: replaces the rotary positions that the file states; `vocabulary`: more
    fields of a language model's head.
    """
    bias = bool(hf.get("attention_bias", False))
    return {
        **_FIELDS.read(hf, norm={"kind": "rms"}),
        "position": position_from_hf(hf) if position is None else position,
        "attention": {"qkv_bias": bias, "out_bias": bias},
        "mlp": {"activation": activation_from_hf(hf, act, "silu"), "gated": True, "bias": bool(hf.get("mlp_bias", False))},
        "head": head_from_hf(hf, architectures, tied=hf.get("tie_word_embeddings", False), **vocabulary),
    }


def to_hf(config: ModelConfig, left_out: Container[str] = ()) -> dict[str, Any]:
    """Return the fields of a config.json but those of `left_out`, which classes of families derived from Llama lack."""
    fields = {
        **_FIELDS.write(config),
        "hidden_act": LLAMA_ACTIVATIONS[config.mlp.activation],
        **position_to_hf(config.position),
        "attention_bias": config.attention.qkv_bias,
        "mlp_bias": config.mlp.bias,
        "tie_word_embeddings": config.tied,
    }
    return {name: value for name, value in fields.items() if name not in left_out}


def usual_head_dim(config: ModelConfig) -> tuple[str, ...]:
    """Return ("head_dim",), to leave this field out of config.json, if heads are dim / num_heads wide, and else ().

    For other widths the field is needed: some of transformers' classes read it, although their configs do not declare it.
    """
    return ("head_dim",) if config.head_dim * config.num_heads == config.dim else ()


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    check_heads(config)
    return to_hf(config)


FAMILY = Family(
    name="llama",
    model_type="llama",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="model.",
    ignored=(r".*\.rotary_emb\.inv_freq",),
    from_hf=from_hf,
    to_hf=_to_hf,
    prefixes={"spans": "transformer."},  # the prefix of LlamaForQuestionAnswering
    fixed={"token_classification_bias": (True,)},
)
