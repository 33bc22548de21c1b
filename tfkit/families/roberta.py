"""RoBERTa (Liu et al. 2019, arXiv 1907.11692).

New compared with BERT: no next-sentence prediction and one segment, text masked anew at every reading, byte-level BPE, larger batches and
ten times as much text. Positions are counted from the id of padding + 1, as in fairseq, so that the first two rows of the table belong to
no position. XLM-R and CamemBERT (xlm_roberta.py, camembert.py) have the same layout with a SentencePiece vocabulary.
"""

from typing import Any

from tfkit.families import bert
from tfkit.families.rules import Architectures, Family, Rule, UnsupportedError
from tfkit.model.config import ModelConfig

# Section 3.1 and table 9; the vocabulary and the widths of the tables as released.
BASE: dict[str, Any] = bert.PRESETS["bert-base"] | {
    "vocab_size": 50265,
    "embedding": {"norm": True, "segments": 1},
    "position": {"kind": "learned", "offset": 2},
    "norm": {"kind": "layer", "eps": 1e-5, "placement": "post"},
    "head": {"kind": "masked_lm", "tied": True},
}
LARGE = BASE | {"encoder_layers": 24, "dim": 1024, "num_heads": 16}


def _is_tagger(config: ModelConfig) -> bool:
    return config.head.kind == "tags"


def _has_classes(config: ModelConfig) -> bool:
    return config.head.kind == "classes"


_HEADS = {"lm_head.dense": "head.transform", "lm_head.layer_norm": "head.norm", "qa_outputs": "head.spans"}
_POOLERS = (("roberta.pooler.dense", lambda config: not _has_classes(config)), ("classifier.dense", _has_classes))
RULES = (
    *(
        Rule(f"roberta{rule.theirs.removeprefix('bert')}", rule.ours)
        for rule in bert.RULES
        if rule.ours[0].startswith(("embedding", "encoder"))
    ),
    *(Rule(f"{theirs}.{part}", (f"{ours}.{part}",)) for theirs, ours in _HEADS.items() for part in ("weight", "bias")),
    Rule("lm_head.decoder.weight", ("head.output.weight",)),
    Rule("lm_head.bias", ("head.bias",)),
    # If untied, Hugging Face's class has two biases and uses this one.
    Rule("lm_head.decoder.bias", ("head.bias",), when=lambda config: not config.tied),
    *(Rule(f"{name}.{part}", (f"head.pooler.{part}",), when=when) for name, when in _POOLERS for part in ("weight", "bias")),
    *(Rule(f"classifier.out_proj.{part}", (f"head.classes.{part}",)) for part in ("weight", "bias")),
    *(Rule(f"classifier.{part}", (f"head.tags.{part}",), when=_is_tagger) for part in ("weight", "bias")),
)


def family(name: str, model_type: str, prefix: str, presets: dict[str, dict[str, Any]]) -> Family:
    """Return a family of RoBERTa's layout; `prefix`: of the names of Hugging Face's classes."""
    architectures: Architectures = {
        f"{prefix}ForMaskedLM": {"kind": "masked_lm", "next_sentence": False},
        # Hugging Face's class has dropout before the dense layer, too.
        f"{prefix}ForSequenceClassification": {"kind": "classes", "pool": "first", "dense": "tanh", "bias": True},
        f"{prefix}ForTokenClassification": {"kind": "tags"},
        f"{prefix}ForQuestionAnswering": {"kind": "spans"},
        f"{prefix}Model": {"kind": "none"},
    }

    def from_hf(hf: dict[str, Any]) -> dict[str, Any]:
        values = bert.from_hf({"hidden_act": "gelu"} | hf, architectures)
        padding = hf.get("pad_token_id", 1)
        if type(padding) is not int or not 0 <= padding < values["context_length"]:
            raise UnsupportedError(f"pad_token_id {padding!r} is not an id before max_position_embeddings {values['context_length']}")
        return values | {
            "context_length": values["context_length"] - padding - 1,
            "position": {"kind": "learned", "offset": padding + 1},
        }

    def to_hf(config: ModelConfig) -> dict[str, Any]:
        if config.position.kind != "learned" or not config.position.offset:
            raise UnsupportedError("RoBERTa's positions begin after the row of padding")
        return bert.to_hf(config) | {"max_position_embeddings": config.position_rows, "pad_token_id": config.position.offset - 1}

    return Family(
        name=name,
        model_type=model_type,
        architectures=architectures,
        presets=presets,
        rules=RULES,
        prefix="roberta.",
        ignored=bert.FAMILY.ignored,
        from_hf=from_hf,
        to_hf=to_hf,
        renamed=(*bert.OLD_NORMS, (r"^lm_head\.decoder\.bias$", "lm_head.bias")),
        fixed={**bert.FAMILY.fixed, "hidden_act": ("gelu",)},  # the output layer has this one, whatever the field says
    )


FAMILY = family("roberta", "roberta", "Roberta", {"roberta-base": BASE, "roberta-large": LARGE})
