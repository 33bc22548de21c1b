"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108).

New compared with BERT: half the layers, trained by distillation from BERT, with 97% of its quality at 60% of its size; no segment vectors,
no next-sentence prediction and no pooler. Sizes as released (distilbert-base-uncased has 66,362,880 parameters without its head).
Hugging Face's class has no dropout on the attention's output; here every sublayer's output has dropout, as in BERT.
"""

from typing import Any

from tfkit.families import bert
from tfkit.families.config_fields import ACTIVATIONS, Fields, activation_from_hf, head_from_hf
from tfkit.families.rules import Family, Rule, module_rules
from tfkit.model.config import ModelConfig

_EPS = 1e-12  # hard-coded in Hugging Face's class
_BASE: dict[str, Any] = bert.PRESETS["bert-base"] | {
    "encoder_layers": 6,
    "embedding": {"norm": True},
    "head": {"kind": "masked_lm", "tied": True},
    "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "head": 0.2},
}

PRESETS = {
    "distilbert-base": _BASE,
    "distilbert-base-cased": _BASE | {"vocab_size": 28996},
    "distilbert-base-multilingual-cased": _BASE | {"vocab_size": 119547},
}

ARCHITECTURES = bert.encoder_classes("DistilBert", "relu", pooler=False)
_OURS, _THEIRS = "encoder.blocks.{i}", "distilbert.transformer.layer.{i}"
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
    *module_rules(_MODULES),
    Rule("vocab_projector.weight", ("head.output.weight",)),
    Rule("vocab_projector.bias", ("head.bias",)),
    *bert.CLASSIFIERS,
)
_FIELDS = Fields(
    {
        "vocab_size": ("vocab_size",),
        "context_length": ("max_position_embeddings",),
        "encoder_layers": ("n_layers",),
        "dim": ("dim",),
        "hidden_dim": ("hidden_dim",),
        "num_heads": ("n_heads",),
        "dropout.residual": ("dropout", 0.1),
        "dropout.attention": ("attention_dropout", 0.1),
        "init.std": ("initializer_range", 0.02),
    }
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    head = head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", True))
    dropout = hf.get("dropout", 0.1)
    dropouts = {"embedding": dropout, "head": dropout if head["kind"] == "tags" else hf.get("seq_classif_dropout", 0.2)}
    return {
        **_FIELDS.read(hf, dropout=dropouts),
        "embedding": {"norm": True},
        "position": {"kind": "learned"},  # sinusoidal_pos_embds only decides the table's values before training
        "norm": {"kind": "layer", "eps": _EPS, "placement": "post"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": activation_from_hf(hf, "activation", "gelu"), "bias": True},
        "head": head,
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **_FIELDS.write(config),
        "sinusoidal_pos_embds": False,
        "activation": ACTIVATIONS[config.mlp.activation],
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2 if config.head.kind == "tags" else config.dropout.head,
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
    renamed=bert.OLD_NORMS,
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    fixed={"is_causal": (True, False)},
)
