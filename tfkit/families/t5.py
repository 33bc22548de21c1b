"""T5 (Raffel et al. 2019, arXiv 1910.10683), versions 1.0 and 1.1.

New compared with the Transformer of 2017: every task is text to text, so one encoder-decoder learns them all; RMSNorm before each sublayer
and after each stack; a learned bias for each head and range of distances instead of sinusoids, in self-attention only; no biases
elsewhere; attention scores are not scaled, since the query projections start smaller instead. In 1.0, the output matrix is the embedding
times 1 / sqrt(dim); 1.1 has a matrix of its own, and a gated GELU (arXiv 2002.05202) instead of the ReLU. Sizes of 1.0: the paper; of 1.1:
as released.
"""

from typing import Any

from tfkit.families.config_fields import Fields, UnsupportedError, class_from_hf, head_from_hf
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

_CONTEXT = 512  # tokens in pretraining; relative positions allow longer texts
DROPOUTS = ("embedding", "attention", "residual", "hidden", "final")  # all have the same rate


def _output_scale(dim: Any) -> float | None:
    """Return the factor by which T5 1.0 multiplies the decoder's output; None for an invalid width, which ModelConfig rejects."""
    return dim**-0.5 if type(dim) is int and 0 < dim < 1 << 63 else None


def _preset(layers: int, dim: int, head_dim: int, heads: int, hidden_dim: int, *, version: str) -> dict[str, Any]:
    first = version == "1.0"
    rate = 0.1 if first else 0.0  # 1.1 was pretrained without dropout, which fine-tuning turns on again
    return {
        "vocab_size": 32128,  # 32,000 pieces, 100 sentinels, and 28 unused rows
        "context_length": _CONTEXT,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "dim": dim,
        "hidden_dim": hidden_dim,
        "num_heads": heads,
        "head_dim": head_dim,
        "position": {"kind": "relative", "buckets": 32, "max_distance": 128},
        "norm": {"kind": "rms", "eps": 1e-6},
        "attention": {"scale": 1.0},
        "mlp": {"activation": "relu" if first else "gelu_tanh", "gated": not first, "bias": False},
        "head": {"kind": "lm", "tied": first, "scale": _output_scale(dim) if first else None},
        "dropout": dict.fromkeys(DROPOUTS, rate),
        "init": {"scheme": "by_width"},
    }


PRESETS = {
    "t5-small": _preset(6, 512, 64, 8, 2048, version="1.0"),
    "t5-base": _preset(12, 768, 64, 12, 3072, version="1.0"),
    "t5-large": _preset(24, 1024, 64, 16, 4096, version="1.0"),
    "t5-3b": _preset(24, 1024, 128, 32, 16384, version="1.0"),
    "t5-11b": _preset(24, 1024, 128, 128, 65536, version="1.0"),
    "t5-v1.1-small": _preset(8, 512, 64, 6, 1024, version="1.1"),
    "t5-v1.1-base": _preset(12, 768, 64, 12, 2048, version="1.1"),
    "t5-v1.1-large": _preset(24, 1024, 64, 16, 2816, version="1.1"),
    "t5-v1.1-xl": _preset(24, 2048, 64, 32, 5120, version="1.1"),
    "t5-v1.1-xxl": _preset(24, 4096, 64, 64, 10240, version="1.1"),
}

ARCHITECTURES: Architectures = {
    "T5ForConditionalGeneration": {"kind": "lm"},
    "T5WithLMHeadModel": {"kind": "lm"},  # the name of this class in the first released files
    # This class reads the decoder at </s>, a text's last token; the decoder's input is the text itself, shifted right by one.
    "T5ForSequenceClassification": {"kind": "classes", "pool": "last", "dense": "tanh", "bias": True},
    "T5ForQuestionAnswering": {"kind": "spans"},  # spans of the decoder's input, which is the text itself here, too
    "T5Model": {"kind": "none"},
}
ENCODER_ARCHITECTURES: Architectures = {"T5ForTokenClassification": {"kind": "tags"}, "T5EncoderModel": {"kind": "none"}}


def _sublayer(stack: str, place: int, ours: str, tensors: dict[str, str]) -> tuple[Rule, ...]:
    """Return the rules of the norm and matrices of each block's sublayer `place` (an index). `tensors`: Hugging Face's names -> ours."""
    their_prefix, our_prefix = f"{stack}.block.{{i}}.layer.{place}", f"{stack}.blocks.{{i}}.{ours}"
    matrices = (Rule(f"{their_prefix}.{theirs}.weight", (f"{our_prefix}.op.{name}.weight",)) for theirs, name in tensors.items())
    return Rule(f"{their_prefix}.layer_norm.weight", (f"{our_prefix}.norm.weight",)), *matrices


def _mlp(stack: str, place: int) -> tuple[Rule, ...]:
    up = (f"{stack}.blocks.{{i}}.mlp.op.up_proj.weight",)
    theirs = f"{stack}.block.{{i}}.layer.{place}.DenseReluDense"
    return (
        *_sublayer(stack, place, "mlp", {"DenseReluDense.wi_0": "gate_proj", "DenseReluDense.wo": "down_proj"}),
        Rule(f"{theirs}.wi.weight", up, when=lambda config: not config.mlp.gated),
        Rule(f"{theirs}.wi_1.weight", up, when=lambda config: config.mlp.gated),
    )


_SELF, _CROSS = ({f"{kind}Attention.{name}": f"{name}_proj" for name in "qkvo"} for kind in ("Self", "EncDec"))

RULES = (
    Rule("shared.weight", ("embedding.tokens.weight",)),
    *_sublayer("encoder", 0, "self_attention", _SELF),
    *_mlp("encoder", 1),
    *_sublayer("decoder", 0, "self_attention", _SELF),
    *_sublayer("decoder", 1, "cross_attention", _CROSS),
    *_mlp("decoder", 2),
    *(
        rule
        for stack in ("encoder", "decoder")
        for rule in (
            # The bias of positions is stored in the first layer, and used in all layers.
            Rule(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (f"{stack}.position_bias.weight",)),
            Rule(f"{stack}.final_layer_norm.weight", (f"{stack}.norm.weight",)),
        )
    ),
    Rule("lm_head.weight", ("head.output.weight",)),
    *module_rules({"classification_head.dense": "head.pooler", "classification_head.out_proj": "head.classes"}),
    *module_rules({"qa_outputs": "head.spans", "classifier": "head.tags"}),
)

# feed_forward_proj -> (activation, gated). In Hugging Face's code, "gated-gelu" has GELU's tanh form, although "gelu" is the exact form.
_MLPS = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-relu": ("relu", True),
    "gated-silu": ("silu", True),
}
_FIELDS = Fields(
    {
        "vocab_size": ("vocab_size",),
        "context_length": ("n_positions", _CONTEXT),
        "encoder_layers": ("num_layers",),
        "dim": ("d_model",),
        "hidden_dim": ("d_ff",),
        "num_heads": ("num_heads",),
        "head_dim": ("d_kv",),
        "norm.eps": ("layer_norm_epsilon", 1e-6),
        "dropout.residual": ("dropout_rate", 0.1),
        "dropout.head": ("classifier_dropout", 0.0),
    }
)


def from_hf(
    hf: dict[str, Any], architectures: Architectures = ARCHITECTURES, encoder_architectures: Architectures = ENCODER_ARCHITECTURES
) -> dict[str, Any]:
    """Return the values of a ModelConfig from a config.json of T5 or mT5."""
    mlp = hf.get("feed_forward_proj", "relu")
    if str(mlp) not in _MLPS:
        raise UnsupportedError(f"feed_forward_proj {mlp!r} is not one of {', '.join(_MLPS)}")
    activation, gated = _MLPS[mlp]
    # Saved files also have the two parts of feed_forward_proj as fields, which transformers reads.
    parts = {"dense_act_fn": "gelu_new" if mlp == "gated-gelu" else mlp.removeprefix("gated-"), "is_gated_act": gated}
    if contradicting := [name for name, value in parts.items() if hf.get(name, value) != value]:
        raise UnsupportedError(f"{contradicting[0]} {hf[contradicting[0]]!r} contradicts feed_forward_proj {mlp!r}")
    # Before transformers 5, the decoder's outputs were scaled if, and only if, the output matrix was tied; newer files have a
    # field for scaling (scale_decoder_outputs) and one for tying.
    tied = hf.get("tie_word_embeddings", True)
    scaled = hf.get("scale_decoder_outputs", tied)
    classes = {**architectures, **encoder_architectures}
    decoder_layers = hf["num_layers"] if hf.get("num_decoder_layers") is None else hf["num_decoder_layers"]
    return {
        **_FIELDS.read(hf, norm={"kind": "rms"}, dropout=dict.fromkeys(DROPOUTS, hf.get("dropout_rate", 0.1))),
        "decoder_layers": 0 if class_from_hf(hf, classes) in encoder_architectures else decoder_layers,
        "position": {
            "kind": "relative",
            "buckets": hf.get("relative_attention_num_buckets", 32),
            "max_distance": hf.get("relative_attention_max_distance", 128),
        },
        "attention": {"scale": 1.0},
        "mlp": {"activation": activation, "gated": gated, "bias": False},
        "head": head_from_hf(hf, classes, tied=tied, scale=_output_scale(hf["d_model"]) if scaled else None),
        "init": {"scheme": "by_width"},
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json of T5 or mT5."""
    names = {values: name for name, values in _MLPS.items()}
    mlp = config.mlp.activation, config.mlp.gated
    if mlp not in names:
        raise UnsupportedError(f"T5 has no name for a gated MLP with {config.mlp.activation}")
    head, position = config.head, config.position
    return {
        **_FIELDS.write(config),
        "num_decoder_layers": config.decoder_layers or config.encoder_layers,  # unused for an encoder alone
        "relative_attention_num_buckets": getattr(position, "buckets", None),
        "relative_attention_max_distance": getattr(position, "max_distance", None),
        "feed_forward_proj": names[mlp],
        "initializer_factor": 1.0,
        "is_encoder_decoder": config.decoder_layers > 0,
        "use_cache": config.decoder_layers > 0,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": head.scale is not None if head.kind == "lm" else True,  # the class default
    }


FAMILY = Family(
    name="t5",
    model_type="t5",
    architectures=ARCHITECTURES,
    encoder_architectures=ENCODER_ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="",
    ignored=(r".*\.EncDecAttention\.relative_attention_bias\.weight",),  # in the first released files; never used
    from_hf=from_hf,
    to_hf=to_hf,
    renamed=((r"^transformer\.", ""), (r"^(encoder|decoder)\.embed_tokens\.", "shared.")),  # `transformer.`: a prefix in some classes
    aliases={"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv"},
)
