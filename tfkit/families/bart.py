"""BART (Lewis et al. 2019, arXiv 1910.13461).

New compared with the Transformer of 2017: pretraining restores corrupted texts, before fine-tuning for summaries, translation and classes;
learned positions, whose table begins with two unused rows, instead of sinusoids; a norm over the embeddings of each stack; GELU. mBART
(mbart.py) has the same layout with norms before the sublayers.
"""

from typing import Any

from tfkit.families import transformer_2017
from tfkit.families.rules import Architectures, Family, Rule, module_rules

_OFFSET = 2  # fairseq reserves the rows up to its padding id, 1; Hugging Face's class always adds 2 to the position
BASE: dict[str, Any] = transformer_2017.PRESETS["transformer-2017-base"] | {
    "vocab_size": 50265,
    "context_length": 1024,
    "embedding": {"norm": True},
    "position": {"kind": "learned", "offset": _OFFSET},
    "mlp": {"activation": "gelu", "bias": True},
    "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "hidden": 0.1, "head": 0.1},
    "init": {"std": 0.02},
}
LARGE = BASE | {"encoder_layers": 12, "decoder_layers": 12, "dim": 1024, "num_heads": 16}
PRESETS = {"bart-base": BASE | {"dim": 768, "num_heads": 12}, "bart-large": LARGE}  # sizes: sections 4 and 5; heads as released

_MODULES = {
    "model.encoder.layernorm_embedding": "embedding.norm",
    "model.decoder.layernorm_embedding": "embedding.decoder.norm",
    **{f"model.{stack}.layer_norm": f"{stack}.norm" for stack in ("encoder", "decoder")},  # the norm after all layers, which only mBART has
    "classification_head.dense": "head.pooler",
    "classification_head.out_proj": "head.classes",
    "qa_outputs": "head.spans",
}
RULES = (
    *transformer_2017.RULES,
    Rule("model.encoder.embed_positions.weight", ("embedding.positions.weight",)),
    Rule("model.decoder.embed_positions.weight", ("embedding.decoder.positions.weight",)),
    *module_rules(_MODULES),
)


def family(name: str, prefix: str, presets: dict[str, dict[str, Any]], placement: str) -> Family:
    """Return a family of BART's layout. `prefix`: how the names of Hugging Face's classes begin; `placement`: that of norms."""
    architectures: Architectures = {
        f"{prefix}ForConditionalGeneration": {"kind": "lm"},
        # This class reads the decoder at </s>, a text's last token; the decoder's input is the text itself, shifted right by one. Unlike
        # tfkit, Hugging Face also has dropout before the dense layer.
        f"{prefix}ForSequenceClassification": {"kind": "classes", "pool": "last", "dense": "tanh", "bias": True},
        f"{prefix}ForQuestionAnswering": {"kind": "spans"},
        f"{prefix}Model": {"kind": "none", "pooler": False},
    }

    def from_hf(hf: dict[str, Any]) -> dict[str, Any]:
        values = transformer_2017.from_hf(hf, architectures)
        return values | {
            "embedding": values["embedding"] | {"norm": True},
            "position": {"kind": "learned", "offset": _OFFSET},
            "norm": {"kind": "layer", "eps": 1e-5, "placement": placement},  # the eps is hard-coded in Hugging Face's class
            "dropout": values["dropout"] | {"head": hf.get("classifier_dropout", 0.0)},
        }

    return Family(
        name=name,
        model_type=name,
        architectures=architectures,
        presets=presets,
        rules=RULES,
        prefix="model.",
        ignored=(r"(model\.)?(encoder|decoder)\.version",),  # a buffer in old files
        from_hf=from_hf,
        to_hf=lambda config: transformer_2017.to_hf(config) | {"classifier_dropout": config.dropout.head},
        renamed=transformer_2017.FAMILY.renamed,
        aliases=transformer_2017.FAMILY.aliases,
    )


FAMILY = family("bart", "Bart", PRESETS, "post")
