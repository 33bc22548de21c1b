"""BERT (Devlin et al. 2018, arXiv 1810.04805).

New compared with GPT: an encoder, in which every token attends to both sides. The model learns to predict masked tokens from the text on
both sides (masked language modeling), and whether the second of two texts follows the first (next-sentence prediction). Segment vectors
distinguish the two texts, a norm follows the sum of the embeddings, and the first token, [CLS], represents the whole text.
Sizes: section 3 (base, large) and the released vocabularies; the small sizes are those of Turc et al. 2019 (arXiv 1908.08962), table 1.
"""

from types import MappingProxyType
from typing import Any

from tfkit.families.config_fields import ACTIVATIONS, USUAL_FIELDS, Fields, UnsupportedError, activation_from_hf, head_from_hf
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

_BASE: dict[str, Any] = {
    "vocab_size": 30522,  # the vocabulary of the uncased models
    "context_length": 512,
    "embedding": {"norm": True, "segments": 2},
    "position": {"kind": "learned"},
    "norm": {"kind": "layer", "eps": 1e-12, "placement": "post"},
    "attention": {"qkv_bias": True, "out_bias": True},
    "mlp": {"activation": "gelu", "bias": True},
    "head": {"kind": "masked_lm", "tied": True, "next_sentence": True},
    "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "head": 0.1},
    "init": {"std": 0.02},
}
_BERT_BASE = _BASE | {"encoder_layers": 12, "dim": 768, "num_heads": 12}
_BERT_LARGE = _BASE | {"encoder_layers": 24, "dim": 1024, "num_heads": 16}

PRESETS = {
    "bert-tiny": _BASE | {"encoder_layers": 2, "dim": 128, "num_heads": 2},
    "bert-mini": _BASE | {"encoder_layers": 4, "dim": 256, "num_heads": 4},
    "bert-small": _BASE | {"encoder_layers": 4, "dim": 512, "num_heads": 8},
    "bert-medium": _BASE | {"encoder_layers": 8, "dim": 512, "num_heads": 8},
    "bert-base": _BERT_BASE,
    "bert-large": _BERT_LARGE,
    "bert-base-cased": _BERT_BASE | {"vocab_size": 28996},
    "bert-large-cased": _BERT_LARGE | {"vocab_size": 28996},
}


def encoder_classes(name: str, dense: str, pretraining: Architectures = MappingProxyType({}), **body: Any) -> Architectures:
    """Return transformers' classes of an encoder under their usual names, each with the fields of its head.

    `dense`: the activation of the dense layer in the head for classes; `pretraining`: more such classes, with a head for masked
    tokens; `body`: fields of the class without a head.
    """
    return {
        f"{name}ForMaskedLM": {"kind": "masked_lm", "next_sentence": False},
        **pretraining,
        f"{name}ForSequenceClassification": {"kind": "classes", "pool": "first", "dense": dense, "bias": True},
        f"{name}ForTokenClassification": {"kind": "tags"},
        f"{name}ForQuestionAnswering": {"kind": "spans"},
        f"{name}Model": {"kind": "none", **body},
    }


ARCHITECTURES = encoder_classes("Bert", "tanh", {"BertForPreTraining": {"kind": "masked_lm", "next_sentence": True}})
_OURS, _THEIRS = "encoder.blocks.{i}", "bert.encoder.layer.{i}"
CLASSIFIERS = (  # Hugging Face has one name for two output layers, of classes and of tags
    *module_rules({"classifier": "head.classes"}, when=lambda config: config.head.kind != "tags"),
    *module_rules({"classifier": "head.tags"}, when=lambda config: config.head.kind == "tags"),
    *module_rules({"qa_outputs": "head.spans"}),
)
_BLOCKS = {
    "bert.embeddings.LayerNorm": "embedding.norm",
    f"{_THEIRS}.attention.self.query": f"{_OURS}.self_attention.op.q_proj",
    f"{_THEIRS}.attention.self.key": f"{_OURS}.self_attention.op.k_proj",
    f"{_THEIRS}.attention.self.value": f"{_OURS}.self_attention.op.v_proj",
    f"{_THEIRS}.attention.output.dense": f"{_OURS}.self_attention.op.o_proj",
    f"{_THEIRS}.attention.output.LayerNorm": f"{_OURS}.self_attention.norm",
    f"{_THEIRS}.intermediate.dense": f"{_OURS}.mlp.op.up_proj",
    f"{_THEIRS}.output.dense": f"{_OURS}.mlp.op.down_proj",
    f"{_THEIRS}.output.LayerNorm": f"{_OURS}.mlp.norm",
}
_HEADS = {
    "bert.pooler.dense": "head.pooler",
    "cls.predictions.transform.dense": "head.transform",
    "cls.predictions.transform.LayerNorm": "head.norm",
    "cls.seq_relationship": "head.next_sentence",
}
BODY = (
    *(
        Rule(f"bert.embeddings.{name}_embeddings.weight", (f"embedding.{ours}.weight",))
        for name, ours in (("word", "tokens"), ("position", "positions"), ("token_type", "segments"))
    ),
    *module_rules(_BLOCKS),
)
RULES = (
    *BODY,
    *module_rules(_HEADS),
    Rule("cls.predictions.decoder.weight", ("head.output.weight",)),
    Rule("cls.predictions.bias", ("head.bias",)),
    # If the output matrix is not tied, Hugging Face's class has two biases and uses this one.
    Rule("cls.predictions.decoder.bias", ("head.bias",), when=lambda config: not config.tied),
    *CLASSIFIERS,
)
_FIELDS = Fields(
    {
        **USUAL_FIELDS,
        "encoder_layers": ("num_hidden_layers",),
        "embedding.segments": ("type_vocab_size", 2),
        "norm.eps": ("layer_norm_eps", 1e-12),
        "dropout.residual": ("hidden_dropout_prob", 0.1),
        "dropout.attention": ("attention_probs_dropout_prob", 0.1),
    }
)


def from_hf(hf: dict[str, Any], architectures: Architectures = ARCHITECTURES) -> dict[str, Any]:
    """Return the values of a ModelConfig from a config.json of BERT, or of a later family with BERT's blocks."""
    head = head_from_hf(hf, architectures, tied=hf.get("tie_word_embeddings", True))
    if head["kind"] == "none":
        head.setdefault("pooler", hf.get("add_pooling_layer", True))
    dropout, head_dropout = hf.get("hidden_dropout_prob", 0.1), hf.get("classifier_dropout")
    dropouts = {"embedding": dropout, "head": dropout if head_dropout is None else head_dropout}
    return {
        **_FIELDS.read(hf, embedding={"norm": True}, norm={"kind": "layer", "placement": "post"}, dropout=dropouts),
        "position": {"kind": "learned"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": activation_from_hf(hf, "hidden_act", "gelu"), "bias": True},
        "head": head,
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json; later families with BERT's blocks use this, too."""
    if config.embedding.segments is None:
        raise UnsupportedError("Hugging Face's class has segment vectors, but embedding.segments is null")
    dropout = config.dropout
    return {
        **_FIELDS.write(config),
        "hidden_act": ACTIVATIONS[config.mlp.activation],
        "classifier_dropout": None if dropout.head == dropout.residual else dropout.head,
        "tie_word_embeddings": config.tied,
    }


def to_hf_with_pooler(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json, with a field of tfkit's, add_pooling_layer, if the model has neither a head nor a pooler.

    Hugging Face's config has no such field: its class always has a pooler, with random weights if the file has none.
    """
    return to_hf(config) | ({"add_pooling_layer": False} if config.head.kind == "none" and not config.head.pooler else {})


OLD_NORMS = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))  # TensorFlow's names
FAMILY = Family(
    name="bert",
    model_type="bert",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="bert.",
    ignored=(r".*\.position_ids", r".*\.token_type_ids"),  # buffers in old files
    from_hf=from_hf,
    to_hf=to_hf_with_pooler,
    renamed=(*OLD_NORMS, (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias")),  # a second name of the bias
    fixed={"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,), "is_causal": (True, False)},
)
