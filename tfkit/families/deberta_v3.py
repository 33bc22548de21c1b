"""DeBERTa v3 (He et al. 2021, arXiv 2111.09543; the attention: arXiv 2006.03654).

New compared with BERT: an attention score is the sum of three products: query and key, query and distance, and distance and key; distances
have learned, normed vectors, which each layer projects like the hidden states. There are no positions at the input and no segments. The
model is pretrained like ELECTRA, but its discriminator adds vectors to the generator's token vectors, which it does not train itself;
the released files hold the discriminator. Hugging Face's class, unlike tfkit, also has dropout on the vectors of distances. DeBERTa 1, and
version 2 with its convolution, are not supported.
"""

from typing import Any

from tfkit.families import bert
from tfkit.families.config_fields import UnsupportedError
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import EmbeddingConfig, ModelConfig

_BASE: dict[str, Any] = bert.PRESETS["bert-base"] | {
    "vocab_size": 128100,
    "embedding": {"norm": True},
    "position": {"kind": "disentangled", "buckets": 256, "max_distance": 512},
    "norm": {"kind": "layer", "eps": 1e-7, "placement": "post"},
    "head": {"kind": "masked_lm", "tied": True},
}
PRESETS = {  # as released
    "deberta-v3-xsmall": _BASE | {"dim": 384, "num_heads": 6},
    "deberta-v3-small": _BASE | {"encoder_layers": 6},
    "deberta-v3-base": _BASE,
    "deberta-v3-large": _BASE | {"encoder_layers": 24, "dim": 1024, "num_heads": 16},
    "deberta-v3-base-multilingual": _BASE | {"vocab_size": 251000},
}

ARCHITECTURES: Architectures = {
    "DebertaV2Model": {"kind": "none", "pooler": False},  # first, so the default: the released configurations name no class
    **bert.encoder_classes("DebertaV2", "gelu", pooler=False),
}


def _theirs(name: str) -> str:
    """Return DeBERTa's name of the tensor that BERT's files call `name`."""
    for part in ("query", "key", "value"):
        name = name.replace(f"self.{part}.", f"self.{part}_proj.")
    return f"deberta{name.removeprefix('bert')}" if name.startswith("bert.") else name


RULES = (
    *(Rule(_theirs(rule.theirs), rule.ours, when=rule.when) for rule in bert.RULES if not rule.theirs.startswith("bert.pooler.")),
    *module_rules({"pooler.dense": "head.pooler", "deberta.encoder.LayerNorm": "encoder.position_bias.norm"}),
    Rule("deberta.encoder.rel_embeddings.weight", ("encoder.position_bias.weight",)),
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    kinds = hf.get("pos_att_type")
    parts = kinds.replace(" ", "").lower().split("|") if isinstance(kinds, str) else kinds
    if not isinstance(parts, list) or sorted(map(str, parts)) != ["c2p", "p2c"]:
        raise UnsupportedError(f"pos_att_type {kinds!r} is not supported; only p2c|c2p is")
    for name, wanted in _V3.items():
        if hf.get(name) != wanted:
            raise UnsupportedError(f"{name} {hf.get(name)!r} is not supported for model_type deberta-v2; only {wanted!r} is (DeBERTa v3)")
    values = bert.from_hf(hf, ARCHITECTURES)
    farthest = hf.get("max_relative_positions", -1)
    position = {
        "kind": "disentangled",
        "buckets": hf.get("position_buckets"),
        "max_distance": farthest if isinstance(farthest, int) and farthest > 0 else hf["max_position_embeddings"],
    }
    dropout = values["dropout"] | {"head": values["dropout"]["residual"] if hf.get("cls_dropout") is None else hf["cls_dropout"]}
    segments = hf.get("type_vocab_size", 0) or None
    norm = values["norm"] | {"eps": hf.get("layer_norm_eps", 1e-7)}
    return values | {"position": position, "embedding": {"norm": True, "segments": segments}, "norm": norm, "dropout": dropout}


# Fields that have other values in version 3 than the defaults of Hugging Face's class.
_V3 = {"relative_attention": True, "position_biased_input": False, "norm_rel_ebd": "layer_norm", "share_att_key": True}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    if config.position.kind != "disentangled":
        raise UnsupportedError("DeBERTa's positions are disentangled, but position.kind is another")
    segments = config.embedding.segments
    fields = bert.to_hf(config.model_copy(update={"embedding": EmbeddingConfig(norm=True, segments=segments or 1)}))
    dropout = fields.pop("classifier_dropout")
    return (
        fields
        | _V3
        | {
            "type_vocab_size": segments or 0,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": config.position.buckets,
            "max_relative_positions": config.position.max_distance,
            "pooler_hidden_size": config.dim,
            **({} if dropout is None else {"cls_dropout": dropout}),
        }
    )


FAMILY = Family(
    name="deberta_v3",
    model_type="deberta-v2",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="deberta.",
    ignored=(*bert.FAMILY.ignored, r"mask_predictions\..*", r"(deberta\.)?embeddings\.position_embeddings\.weight"),
    from_hf=_from_hf,
    to_hf=_to_hf,
    renamed=(
        *bert.FAMILY.renamed,
        # Pretraining's head for masked tokens in the released files; Hugging Face's class reads it only with legacy: false.
        (r"^lm_predictions\.lm_head\.(dense|LayerNorm)\.", r"cls.predictions.transform.\1."),
        (r"^lm_predictions\.lm_head\.bias$", "cls.predictions.bias"),
    ),
    fixed={
        "is_causal": (True, False),
        "pooler_hidden_act": ("gelu",),
        "conv_kernel_size": (0,),
        "legacy": (True,),
        "embedding_size": (),
        "attention_head_size": (),
        "pooler_dropout": (0, 0.0),
    },
)
