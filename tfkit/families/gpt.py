"""GPT (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

New compared with the Transformer of 2017: the decoder alone, trained as a language model on unlabelled text and then fine-tuned, with a
score for whole sequences next to the language model's head; learned positions, GELU, the output matrix tied to the embedding. A norm
follows each sublayer, without a further norm after the last block.
OpenAI's code keeps positions and special tokens in the word embedding, and applies dropout to that matrix; like Hugging Face, tfkit has
separate tables, and applies dropout to their sum. One size was released, with 116,534,784 parameters.
"""

from typing import Any

from tfkit.families.config_fields import Fields, UnsupportedError, activation_from_hf, head_from_hf
from tfkit.families.rules import Architectures, Family, Rule, module_rules
from tfkit.model.config import ModelConfig

PRESETS: dict[str, dict[str, Any]] = {
    "gpt": {
        "vocab_size": 40478,  # 40,000 merges and the characters
        "context_length": 512,
        "decoder_layers": 12,
        "dim": 768,
        "num_heads": 12,
        "position": {"kind": "learned"},
        "norm": {"kind": "layer", "eps": 1e-5, "placement": "post"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": "gelu_tanh", "bias": True},
        "head": {"kind": "lm", "tied": True},
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "head": 0.1},
        "init": {"std": 0.02},
    }
}

ARCHITECTURES: Architectures = {
    "OpenAIGPTLMHeadModel": {"kind": "lm", "choices": False},
    "OpenAIGPTDoubleHeadsModel": {"kind": "lm", "choices": True},
    "OpenAIGPTForSequenceClassification": {"kind": "classes", "pool": "last", "dense": None, "bias": False},
    "OpenAIGPTModel": {"kind": "none"},
}
_OURS, _THEIRS = "decoder.blocks.{i}", "transformer.h.{i}"
_QKV = (f"{_OURS}.self_attention.op.q_proj", f"{_OURS}.self_attention.op.k_proj", f"{_OURS}.self_attention.op.v_proj")

# The tensors of a block; GPT-2's have the same names, though its norms are placed differently.
BLOCK_RULES = (
    *module_rules({f"{_THEIRS}.ln_1": f"{_OURS}.self_attention.norm", f"{_THEIRS}.ln_2": f"{_OURS}.mlp.norm"}),
    # Hugging Face's Conv1D stores (in, out), and the columns of c_attn are q | k | v.
    *module_rules(
        {
            f"{_THEIRS}.attn.c_attn": _QKV,
            f"{_THEIRS}.attn.c_proj": f"{_OURS}.self_attention.op.o_proj",
            f"{_THEIRS}.mlp.c_fc": f"{_OURS}.mlp.op.up_proj",
            f"{_THEIRS}.mlp.c_proj": f"{_OURS}.mlp.op.down_proj",
        },
        transposed=True,
    ),
)
HEAD_RULES = (
    Rule("lm_head.weight", ("head.output.weight",)),
    *module_rules({"multiple_choice_head.summary": "head.choice"}),
    Rule("score.weight", ("head.classes.weight",)),
)
RULES = (
    Rule("transformer.tokens_embed.weight", ("embedding.tokens.weight",)),
    Rule("transformer.positions_embed.weight", ("embedding.positions.weight",)),
    *BLOCK_RULES,
    *HEAD_RULES,
)

# Other families' names of fields, which transformers also accepts for GPT and GPT-2 -> the names in the files of these two.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
FIELDS = Fields(
    {
        "vocab_size": ("vocab_size",),
        "context_length": ("n_positions",),
        "decoder_layers": ("n_layer",),
        "dim": ("n_embd",),
        "num_heads": ("n_head",),
        "norm.eps": ("layer_norm_epsilon", 1e-5),
        "dropout.embedding": ("embd_pdrop", 0.1),
        "dropout.attention": ("attn_pdrop", 0.1),
        "dropout.residual": ("resid_pdrop", 0.1),
        "init.std": ("initializer_range", 0.02),
    }
)
_ACTIVATIONS = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}  # in this family's files, gelu means the tanh form
_FROM_ACTIVATIONS = dict(zip(_ACTIVATIONS.values(), _ACTIVATIONS, strict=True)) | {"swish": "silu"}

# How Hugging Face's double-heads classes score a sequence; tfkit refuses other values, which no released model has.
SUMMARY = {"summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None, "summary_proj_to_labels": True}


def check_summary(hf: dict[str, Any], head: dict[str, Any]) -> None:
    """Raise UnsupportedError if the score of a choice is not computed by a linear layer at the last token."""
    for name, value in SUMMARY.items() if head.get("choices") else ():
        if hf.get(name, value) != value:
            raise UnsupportedError(f"{name} {hf[name]!r} is not supported, only {value!r} is")


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    head = head_from_hf(hf, ARCHITECTURES, tied=hf.get("tie_word_embeddings", True))
    check_summary(hf, head)
    return {
        **FIELDS.read(hf, norm={"kind": "layer", "placement": "post"}, dropout={"head": hf.get("summary_first_dropout", 0.1)}),
        "position": {"kind": "learned"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": activation_from_hf(hf, "afn", "gelu", _FROM_ACTIVATIONS), "bias": True},
        "head": head,
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    if config.mlp.activation not in _ACTIVATIONS:
        raise UnsupportedError(f"GPT has no name for the activation {config.mlp.activation}")
    return {
        **FIELDS.write(config),
        "afn": _ACTIVATIONS[config.mlp.activation],
        **SUMMARY,
        "summary_first_dropout": config.dropout.head,
        "tie_word_embeddings": config.tied,
    }


FAMILY = Family(
    name="gpt",
    model_type="openai-gpt",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="transformer.",
    ignored=(r".*\.attn\.bias", r".*\.position_ids"),  # the causal mask and the position numbers, in old files
    from_hf=_from_hf,
    to_hf=_to_hf,
    aliases=ALIASES,
)
