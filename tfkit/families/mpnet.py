"""MPNet (Song et al. 2020, arXiv 2004.09297).

New compared with BERT: masked tokens are predicted one after another in a random order, each given the positions of all tokens. Besides the
learned positions, whose table begins with two unused rows, there is one bias of relative positions, as in T5, which all layers add to
their scores. There are no segments.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import bert, roberta
from tfkit.families.config_fields import UnsupportedError
from tfkit.families.rules import Rule, module_rules
from tfkit.model.config import EmbeddingConfig, ModelConfig

_POSITION: dict[str, Any] = {"kind": "learned", "offset": 2, "relative": {"kind": "relative", "buckets": 32, "max_distance": 128}}
PRESETS = {"mpnet-base": roberta.BASE | {"vocab_size": 30527, "embedding": {"norm": True}, "position": _POSITION}}  # as released

ARCHITECTURES = bert.encoder_classes("MPNet", "tanh")
_OURS, _THEIRS = "encoder.blocks.{i}", "mpnet.encoder.layer.{i}"
_MODULES = {
    "mpnet.embeddings.LayerNorm": "embedding.norm",
    **{f"{_THEIRS}.attention.attn.{name}": f"{_OURS}.self_attention.op.{name}_proj" for name in "qkvo"},
    f"{_THEIRS}.attention.LayerNorm": f"{_OURS}.self_attention.norm",
    f"{_THEIRS}.intermediate.dense": f"{_OURS}.mlp.op.up_proj",
    f"{_THEIRS}.output.dense": f"{_OURS}.mlp.op.down_proj",
    f"{_THEIRS}.output.LayerNorm": f"{_OURS}.mlp.norm",
}
RULES = (
    Rule("mpnet.embeddings.word_embeddings.weight", ("embedding.tokens.weight",)),
    Rule("mpnet.embeddings.position_embeddings.weight", ("embedding.positions.weight",)),
    Rule("mpnet.encoder.relative_attention_bias.weight", ("encoder.position_bias.weight",)),
    *module_rules(_MODULES),
    *roberta.heads("mpnet"),
)


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    if config.embedding.segments is not None:
        raise UnsupportedError("MPNet has no segment vectors, but embedding.segments is not null")
    fields = roberta.to_hf(config.model_copy(update={"embedding": EmbeddingConfig(norm=True, segments=1)}))
    foreign = ("type_vocab_size", "classifier_dropout")  # MPNet's config lacks them; the dropout of its heads is hidden_dropout_prob
    return {name: value for name, value in fields.items() if name not in foreign} | {"relative_attention_num_buckets": 32}


FAMILY = replace(
    roberta.FAMILY,
    name="mpnet",
    model_type="mpnet",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="mpnet.",
    from_hf=lambda hf: roberta.from_hf(hf, ARCHITECTURES) | {"embedding": {"norm": True}, "position": _POSITION},
    to_hf=_to_hf,
    fixed={"hidden_act": ("gelu",), "pad_token_id": (1,), "relative_attention_num_buckets": (32,), "is_causal": (True, False)},
)
