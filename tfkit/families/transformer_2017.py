"""The Transformer (Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762), for translation.

New compared with recurrent networks: attention alone, so that all positions are computed in parallel and any two are one step apart. An
encoder reads the source, a decoder attends to itself and to the encoder's output; several heads; sinusoids encode the order; a norm after
each sum; one matrix serves the source, the target and the output, times sqrt(dim) at the input.

Hugging Face's nearest class is Marian's, and the presets have its form: sine columns first, then cosine columns (interleaved in the paper,
which is the same model with its columns in another order), and biases on attention and output, which the paper does not have and which
start at 0. A config without these biases is valid, too; no Hugging Face class computes it, so it is saved with the model_type "tfkit".
"""

from typing import Any

from tfkit.families.config_fields import ACTIVATIONS, Fields, UnsupportedError, activation_from_hf, head_from_hf
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

# Sizes: table 3 of the paper; vocabulary: about 37,000 tokens for English and German (section 5.1). The paper states no maximum length.
_BASE: dict[str, Any] = {
    "vocab_size": 37000,
    "context_length": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "embedding": {"scale": True},
    "position": {"kind": "sinusoidal", "layout": "halves"},
    "norm": {"kind": "layer", "eps": 1e-5, "placement": "post"},
    "attention": {"qkv_bias": True, "out_bias": True},
    "mlp": {"activation": "relu", "bias": True},
    "head": {"kind": "lm", "tied": True, "bias": True},
    "init": {"scheme": "fan_in"},  # not in the paper; this is tensor2tensor's
}

PRESETS = {
    "transformer-2017-base": _BASE | {"dim": 512, "num_heads": 8, "dropout": {"embedding": 0.1, "residual": 0.1}},
    # For English to French, the paper trains this model with a dropout of 0.1.
    "transformer-2017-big": _BASE | {"dim": 1024, "num_heads": 16, "dropout": {"embedding": 0.3, "residual": 0.3}},
}

ARCHITECTURES: Architectures = {"MarianMTModel": {"kind": "lm"}, "MarianModel": {"kind": "none"}}


def _layer(stack: str, sublayers: dict[str, tuple[str, str]]) -> tuple[Rule, ...]:
    """Return the rules of a stack's layers. `sublayers`: our sublayer -> Hugging Face's names of its attention and its norm."""
    theirs, ours = f"model.{stack}.layers.{{i}}", f"{stack}.blocks.{{i}}"
    pairs = {"fc1": "mlp.op.up_proj", "fc2": "mlp.op.down_proj", "final_layer_norm": "mlp.norm"}
    for sublayer, (attention, norm) in sublayers.items():
        pairs[norm] = f"{sublayer}.norm"
        pairs |= {f"{attention}.{name}_proj": f"{sublayer}.op.{name[0]}_proj" for name in ("q", "k", "v", "out")}
    return module_rules({f"{theirs}.{name}": f"{ours}.{module}" for name, module in pairs.items()})


_SELF, _CROSS = ("self_attn", "self_attn_layer_norm"), ("encoder_attn", "encoder_attn_layer_norm")

RULES = (
    Rule("model.shared.weight", ("embedding.tokens.weight",)),
    *_layer("encoder", {"self_attention": _SELF}),
    *_layer("decoder", {"self_attention": _SELF, "cross_attention": _CROSS}),
    Rule("lm_head.weight", ("head.output.weight",)),
    Rule("final_logits_bias", ("head.bias",), row=True),
)

# Pairs of Marian's fields, one for the encoder and one for the decoder; tfkit has a single field for both.
_EQUAL_FIELDS = (
    ("encoder_ffn_dim", "decoder_ffn_dim"),
    ("encoder_attention_heads", "decoder_attention_heads"),
    ("vocab_size", "decoder_vocab_size"),
)

_FIELDS = Fields(
    {
        "vocab_size": ("vocab_size",),
        "context_length": ("max_position_embeddings",),
        "encoder_layers": ("encoder_layers",),
        "decoder_layers": ("decoder_layers",),
        "dim": ("d_model",),
        "hidden_dim": ("encoder_ffn_dim",),
        "num_heads": ("encoder_attention_heads",),
        "embedding.scale": ("scale_embedding", False),
        "dropout.residual": ("dropout", 0.1),
        "dropout.attention": ("attention_dropout", 0.0),
        "dropout.hidden": ("activation_dropout", 0.0),
        "init.std": ("init_std", 0.02),
    }
)


def from_hf(hf: dict[str, Any], architectures: Architectures = ARCHITECTURES) -> dict[str, Any]:
    """Return the values of a ModelConfig from a config.json of Marian, or of a later family with these blocks."""
    for first, second in _EQUAL_FIELDS:
        if hf.get(second) not in (None, hf[first]):
            raise UnsupportedError(f"{first} {hf[first]!r} and {second} {hf[second]!r} differ, but tfkit has one value for both stacks")
    return {
        **_FIELDS.read(hf, dropout={"embedding": hf.get("dropout", 0.1)}),
        "position": {"kind": "sinusoidal", "layout": "halves"},
        "norm": {"kind": "layer", "eps": 1e-5, "placement": "post"},  # the eps is hard-coded in Marian's class
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": activation_from_hf(hf, "activation_function", "gelu"), "bias": True},
        "head": head_from_hf(hf, architectures, tied=hf.get("tie_word_embeddings", True), bias=True),
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json of Marian, or of a later family with these blocks."""
    if config.head.kind == "lm" and not config.tied:
        raise UnsupportedError("Hugging Face's class without tie_word_embeddings has three embeddings, but tfkit has one for both stacks")
    return {
        **_FIELDS.write(config),
        "decoder_ffn_dim": config.hidden_dim,
        "decoder_attention_heads": config.num_heads,
        "activation_function": ACTIVATIONS[config.mlp.activation],
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "forced_eos_token_id": None,  # the class default would force id 0 as the last token
    }


FAMILY = Family(
    name="transformer_2017",
    model_type="marian",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="model.",
    ignored=(r"(model\.)?(encoder|decoder)\.embed_positions\.weight",),  # the sinusoids, which old files hold
    from_hf=from_hf,
    to_hf=lambda config: to_hf(config) | {"decoder_vocab_size": config.vocab_size, "share_encoder_decoder_embeddings": True},
    renamed=((r"^(model\.)?(encoder|decoder)\.embed_tokens\.", "model.shared."),),
    aliases={"num_attention_heads": "encoder_attention_heads", "hidden_size": "d_model", "num_hidden_layers": "encoder_layers"},
    fixed={"share_encoder_decoder_embeddings": (True,)},
)
