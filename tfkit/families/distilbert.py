"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108).

New compared with BERT: half the layers, trained by distillation from BERT, with 97% of its quality at 60% of its size. No segment vectors,
no next-sentence prediction and no pooler. Sizes as released (distilbert-base-uncased has 66,362,880 parameters without its head).
Hugging Face's class has no dropout on the attention's output; here every sublayer's output has it, as in BERT.
"""

from typing import Any

from tfkit.families.bert import OLD_NORMS
from tfkit.families.rules import ACTIVATIONS, Architectures, Family, Rule, activation_from_hf, head_from_hf
from tfkit.model.config import ModelConfig

_EPS = 1e-12  # hard-coded in Hugging Face's class
_BASE: dict[str, Any] = {
    "vocab_size": 30522,
    "context_length": 512,
    "encoder_layers": 6,
    "dim": 768,
    "hidden_dim": None,  # 4 dim
    "num_heads": 12,
    "num_kv_heads": None,  # full heads
    "head_dim": None,  # 64
    "embedding": {"norm": True},
    "position": {"kind": "learned"},
    "norm": {"kind": "layer", "eps": _EPS, "placement": "post"},
    "attention": {"qkv_bias": True, "out_bias": True},
    "mlp": {"activation": "gelu", "bias": True},
    "head": {"kind": "masked_lm", "tied": True},
    "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "head": 0.2},
    "init": {"std": 0.02},
}

PRESETS = {
    "distilbert-base": _BASE,
    "distilbert-base-cased": _BASE | {"vocab_size": 28996},
    "distilbert-base-multilingual-cased": _BASE | {"vocab_size": 119547},
}

ARCHITECTURES: Architectures = {
    "DistilBertForMaskedLM": {"kind": "masked_lm", "next_sentence": False},
    "DistilBertForSequenceClassification": {"kind": "classes", "pool": "first", "dense": "relu", "bias": True},
    "DistilBertForTokenClassification": {"kind": "tags"},
    "DistilBertForQuestionAnswering": {"kind": "spans"},
    "DistilBertModel": {"kind": "none", "pooler": False},
}
_OURS, _THEIRS = "encoder.blocks.{i}", "distilbert.transformer.layer.{i}"


def _is_tagger(config: ModelConfig) -> bool:
    return config.head.kind == "tags"


_MODULES = {
    "distilbert.embeddings.LayerNorm": "embedding.norm",
    f"{_THEIRS}.attention.q_lin": f"{_OURS}.self_attention.op.q_proj",
    f"{_THEIRS}.attention.k_lin": f"{_OURS}.self_attention.op.k_proj",
    f"{_THEIRS}.attention.v_lin": f"{_OURS}.self_attention.op.v_proj",
    f"{_THEIRS}.attention.out_lin": f"{_OURS}.self_attention.op.o_proj",
    f"{_THEIRS}.sa_layer_norm": f"{_OURS}.self_attention.norm",
    f"{_THEIRS}.ffn.lin1": f"{_OURS}.mlp.op.up_proj",
    f"{_THEIRS}.ffn.lin2": f"{_OURS}.mlp.op.down_proj",
    f"{_THEIRS}.output_layer_norm": f"{_OURS}.mlp.norm",
    "vocab_transform": "head.transform",
    "vocab_layer_norm": "head.norm",
    "pre_classifier": "head.pooler",
}
RULES = (
    Rule("distilbert.embeddings.word_embeddings.weight", ("embedding.tokens.weight",)),
    Rule("distilbert.embeddings.position_embeddings.weight", ("embedding.positions.weight",)),
    *(Rule(f"{theirs}.{part}", (f"{ours}.{part}",)) for theirs, ours in _MODULES.items() for part in ("weight", "bias")),
    Rule("vocab_projector.weight", ("head.output.weight",)),
    Rule("vocab_projector.bias", ("head.bias",)),
    # Two heads share one name.
    *(Rule(f"classifier.{part}", (f"head.classes.{part}",), when=lambda config: not _is_tagger(config)) for part in ("weight", "bias")),
    *(Rule(f"classifier.{part}", (f"head.tags.{part}",), when=_is_tagger) for part in ("weight", "bias")),
    *(Rule(f"qa_outputs.{part}", (f"head.spans.{part}",)) for part in ("weight", "bias")),
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    head = head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", True))
    dropout = hf.get("dropout", 0.1)
    return {
        "vocab_size": hf["vocab_size"],
        "context_length": hf["max_position_embeddings"],
        "encoder_layers": hf["n_layers"],
        "dim": hf["dim"],
        "hidden_dim": hf["hidden_dim"],
        "num_heads": hf["n_heads"],
        "embedding": {"norm": True},
        "position": {"kind": "learned"},  # sinusoidal_pos_embds is only the table's initial value; the file holds it either way
        "norm": {"kind": "layer", "eps": _EPS, "placement": "post"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": activation_from_hf(hf, "activation", "gelu"), "bias": True},
        "head": head,
        "dropout": {
            "embedding": dropout,
            "attention": hf.get("attention_dropout", 0.1),
            "residual": dropout,
            "head": dropout if head["kind"] == "tags" else hf.get("seq_classif_dropout", 0.2),
        },
        "init": {"std": hf.get("initializer_range", 0.02)},
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    dropout = config.dropout
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "sinusoidal_pos_embds": False,
        "n_layers": config.encoder_layers,
        "dim": config.dim,
        "hidden_dim": config.hidden_dim,
        "n_heads": config.num_heads,
        "activation": ACTIVATIONS[config.mlp.activation],
        "dropout": dropout.residual,
        "attention_dropout": dropout.attention,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2 if _is_tagger(config) else dropout.head,
        "initializer_range": config.init.std,
        "tie_word_embeddings": config.tied,
    }


FAMILY = Family(
    name="distilbert",
    model_type="distilbert",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="distilbert.",
    ignored=(r".*\.position_ids",),  # a buffer of old files
    from_hf=_from_hf,
    to_hf=_to_hf,
    renamed=OLD_NORMS,
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    fixed={"is_causal": (True, False)},
)
