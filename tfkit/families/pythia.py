"""Pythia (Biderman et al. 2023, arXiv 2304.01373) and GPT-NeoX-20B (Black et al. 2022, arXiv 2204.06745).

New compared with GPT-3: attention and MLP of a block read the same input, each through a norm of its own, and are added in one step, so
that they can be computed together; a quarter of each head is rotated by its position, and the rest is unchanged; input and output
matrix are not tied. Pythia is for research: all sizes saw the same data in the same order. Sizes: table 1, and the released vocabularies.
"""

from typing import Any

from tfkit.families.config_fields import USUAL_FIELDS, Fields, activation_from_hf, check_heads, head_from_hf
from tfkit.families.llama import LLAMA_ACTIVATIONS
from tfkit.families.rotary import position_from_hf, position_to_hf
from tfkit.families.rules import Architectures, Family, Rule, decoder_classes, module_rules
from tfkit.model.config import ModelConfig, Rotary


def _size(dim: int, layers: int, heads: int, vocab_size: int = 50304) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "context_length": 2048,
        "decoder_layers": layers,
        "dim": dim,
        "num_heads": heads,
        "position": {"kind": "rotary", "theta": 1e4, "fraction": 0.25},
        "norm": {"kind": "layer", "eps": 1e-5, "placement": "parallel"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": "gelu", "bias": True},
        "head": {"kind": "lm", "tied": False},
        "init": {"std": 0.02},  # Hugging Face's default; the paper's std depends on the matrix
    }


PRESETS = {
    "pythia-14m": _size(128, 6, 4),
    "pythia-31m": _size(256, 6, 8),
    "pythia-70m": _size(512, 6, 8),
    "pythia-160m": _size(768, 12, 12),
    "pythia-410m": _size(1024, 24, 16),
    "pythia-1b": _size(2048, 16, 8),
    "pythia-1.4b": _size(2048, 24, 16),
    "pythia-2.8b": _size(2560, 32, 32),
    "pythia-6.9b": _size(4096, 32, 32, 50432),
    "pythia-12b": _size(5120, 36, 40, 50688),
}

ARCHITECTURES: Architectures = decoder_classes("GPTNeoX", "classes", "tags", "spans")
_OURS, _THEIRS = "decoder.blocks.{i}", "gpt_neox.layers.{i}"
_MODULES = {
    f"{_THEIRS}.input_layernorm": f"{_OURS}.self_attention.norm",
    f"{_THEIRS}.post_attention_layernorm": f"{_OURS}.mlp.norm",
    f"{_THEIRS}.attention.dense": f"{_OURS}.self_attention.op.o_proj",
    f"{_THEIRS}.mlp.dense_h_to_4h": f"{_OURS}.mlp.op.up_proj",
    f"{_THEIRS}.mlp.dense_4h_to_h": f"{_OURS}.mlp.op.down_proj",
    "gpt_neox.final_layer_norm": "decoder.norm",
    "classifier": "head.tags",
    "qa_outputs": "head.spans",
}
RULES = (
    Rule("gpt_neox.embed_in.weight", ("embedding.tokens.weight",)),
    *(
        Rule(
            f"{_THEIRS}.attention.query_key_value.{part}",
            tuple(f"{_OURS}.self_attention.op.{name}_proj.{part}" for name in "qkv"),
            by_head=True,
        )
        for part in ("weight", "bias")
    ),
    *module_rules(_MODULES),
    Rule("lm_head.weight", ("head.output.weight",)),
    Rule("score.weight", ("head.classes.weight",)),
)
_FIELDS = Fields(
    {
        **USUAL_FIELDS,
        "context_length": ("max_position_embeddings", 2048),
        "decoder_layers": ("num_hidden_layers",),
        "norm.eps": ("layer_norm_eps", 1e-5),
        "dropout.residual": ("hidden_dropout", 0.0),
        "dropout.attention": ("attention_dropout", 0.0),
        "dropout.head": ("classifier_dropout", 0.1),
    }
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    bias, placement = bool(hf.get("attention_bias", True)), "parallel" if hf.get("use_parallel_residual", True) else "pre"
    values = _FIELDS.read(hf, norm={"kind": "layer", "placement": placement}, dropout={"embedding": hf.get("hidden_dropout", 0.0)})
    # GPT-NeoX's config has names of its own for two fields of rotary positions, rotary_emb_base and rotary_pct.
    rotary = {"rope_theta": hf.get("rotary_emb_base"), "max_position_embeddings": values["context_length"]}
    return values | {
        "position": position_from_hf(hf | rotary, partial=hf.get("rotary_pct", 0.25)),
        "attention": {"qkv_bias": bias, "out_bias": bias},
        "mlp": {"activation": activation_from_hf(hf, "hidden_act", "gelu"), "bias": True},
        "head": head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", False)),
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    check_heads(config)
    rotary = position_to_hf(config.position)
    return {
        **_FIELDS.write(config),
        "rotary_emb_base": rotary["rope_theta"],
        "rotary_pct": config.position.fraction if isinstance(config.position, Rotary) else None,
        "rope_scaling": rotary["rope_scaling"],
        "use_parallel_residual": config.norm.placement == "parallel",
        "attention_bias": config.attention.qkv_bias,
        "hidden_act": LLAMA_ACTIVATIONS[config.mlp.activation],
        "tie_word_embeddings": config.tied,
    }


FAMILY = Family(
    name="pythia",
    model_type="gpt_neox",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="gpt_neox.",
    ignored=(r".*\.attention\.(masked_)?bias", r".*\.rotary_emb\.inv_freq"),  # buffers of old files
    from_hf=_from_hf,
    to_hf=_to_hf,
    renamed=((r"^embed_out\.", "lm_head."),),  # the output matrix, in files of transformers before 5.24
    fixed={"is_decoder": (False,)},
    own_keys=frozenset({"use_parallel_residual", "rotary_pct"}),
)
