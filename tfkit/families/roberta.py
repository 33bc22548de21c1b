"""RoBERTa (Liu et al. 2019, arXiv 1907.11692).

New compared with BERT: no next-sentence prediction and one segment, text masked anew at each reading, byte-level BPE, larger batches and
ten times as much text. Positions are counted from the id of padding + 1, as in fairseq, so that the first two rows of the table belong to
no position. XLM-R and CamemBERT (xlm_roberta.py, camembert.py) have the same layout with a SentencePiece vocabulary.
"""

from typing import Any

from tfkit.families import bert
from tfkit.families.config_fields import UnsupportedError
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

# The sizes are those of section 3.1 and table 9. The vocabulary, the two unused rows of positions and the one segment are as released.
BASE: dict[str, Any] = bert.PRESETS["bert-base"] | {
    "vocab_size": 50265,
    "embedding": {"norm": True, "segments": 1},
    "position": {"kind": "learned", "offset": 2},
    "norm": {"kind": "layer", "eps": 1e-5, "placement": "post"},
    "head": {"kind": "masked_lm", "tied": True},
}
LARGE = BASE | {"encoder_layers": 24, "dim": 1024, "num_heads": 16}


_HEADS = {
    "lm_head.dense": "head.transform",
    "lm_head.layer_norm": "head.norm",
    "classifier.out_proj": "head.classes",
    "classifier": "head.tags",
    "qa_outputs": "head.spans",
}


def heads(body: str) -> tuple[Rule, ...]:
    """Return the rules of the heads and the pooler; `body`: Hugging Face's name of the model inside its classes with a head."""
    return (
        *module_rules(_HEADS),
        Rule("lm_head.decoder.weight", ("head.output.weight",)),
        Rule("lm_head.bias", ("head.bias",)),
        # If the output matrix is not tied, Hugging Face's class has two biases and uses this one.
        Rule("lm_head.decoder.bias", ("head.bias",), when=lambda config: not config.tied),
        *module_rules({f"{body}.pooler.dense": "head.pooler"}, when=lambda config: config.head.kind != "classes"),
        *module_rules({"classifier.dense": "head.pooler"}, when=lambda config: config.head.kind == "classes"),
    )


RULES = (*(Rule(f"roberta{rule.theirs.removeprefix('bert')}", rule.ours) for rule in bert.BODY), *heads("roberta"))


def from_hf(hf: dict[str, Any], classes: Architectures) -> dict[str, Any]:
    """Return the values of a ModelConfig from a config.json of RoBERTa's layout."""
    values = bert.from_hf({"hidden_act": "gelu"} | hf, classes)
    padding, rows = hf.get("pad_token_id", 1), values["context_length"]
    if type(padding) is not int or type(rows) is not int or not 0 <= padding < rows - 1:
        raise UnsupportedError(f"pad_token_id {padding!r} is not a whole number from 0 to max_position_embeddings {rows!r} - 2")
    return values | {"context_length": rows - padding - 1, "position": {"kind": "learned", "offset": padding + 1}}


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json of RoBERTa's layout."""
    if config.position.kind != "learned" or not config.position.offset:
        raise UnsupportedError("RoBERTa's positions are learned, and begin after the row of padding: position.offset is at least 1")
    return bert.to_hf_with_pooler(config) | {"max_position_embeddings": config.position_rows, "pad_token_id": config.position.offset - 1}


# In the dense layer of Hugging Face's head for masked tokens, GELU is hard-coded, whatever hidden_act says.
FIXED = {**bert.FAMILY.fixed, "hidden_act": ("gelu",)}


def family(name: str, model_type: str, prefix: str, presets: dict[str, dict[str, Any]]) -> Family:
    """Return a family of RoBERTa's layout; `prefix`: how the names of Hugging Face's classes begin."""
    classes = bert.encoder_classes(prefix, "tanh")  # for classes, transformers also has dropout before the dense layer
    return Family(
        name=name,
        model_type=model_type,
        architectures=classes,
        presets=presets,
        rules=RULES,
        prefix="roberta.",
        ignored=bert.FAMILY.ignored,
        from_hf=lambda hf: from_hf(hf, classes),
        to_hf=to_hf,
        renamed=(*bert.OLD_NORMS, (r"^lm_head\.decoder\.bias$", "lm_head.bias")),
        fixed=FIXED,
    )


FAMILY = family("roberta", "roberta", "Roberta", {"roberta-base": BASE, "roberta-large": LARGE})
