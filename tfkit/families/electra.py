"""ELECTRA (Clark et al. 2020, arXiv 2003.10555).

New compared with BERT: a small generator fills in masked tokens, and the model, a discriminator, learns which tokens were replaced; every
token contributes to the loss, not only the masked 15%. Generators and the small discriminator have token vectors of another
width than their blocks, and a matrix between the two. A discriminator is read here as an encoder for heads of other tasks, without its
output for pretraining. A generator is a masked language model, whose head first reduces hidden states to the width of its token vectors.
"""

from typing import Any

from tfkit.families import bert
from tfkit.families.rules import Architectures, Family, Rule, module_rules

# Sizes: table 6. Of the released generators, small is as wide as its discriminator; base and large are 1/3 and 1/4 as wide as theirs.
_BASE: dict[str, Any] = bert.PRESETS["bert-base"] | {"head": {"kind": "masked_lm", "tied": True}}
_NARROW = {"encoder_layers": 12, "dim": 256, "hidden_dim": 1024, "num_heads": 4}


def _widened(width: int) -> dict[str, Any]:
    return {"embedding": {"norm": True, "segments": 2, "dim": width}}


PRESETS = {
    "electra-small": _BASE | _NARROW | _widened(128),
    "electra-base": _BASE,
    "electra-large": _BASE | {"encoder_layers": 24, "dim": 1024, "num_heads": 16},
    "electra-small-generator": _BASE | _NARROW | _widened(128),
    "electra-base-generator": _BASE | _NARROW | _widened(768),
    "electra-large-generator": _BASE | _NARROW | _widened(1024) | {"encoder_layers": 24},
}

ARCHITECTURES: Architectures = {
    **bert.encoder_classes("Electra", "gelu", pooler=False),  # Hugging Face's head for classes also has dropout before its dense layer
    "ElectraForPreTraining": {"kind": "none", "pooler": False},  # a discriminator, read without its output for pretraining
}
_MODULES = {
    "electra.embeddings_project": "embedding.projection",
    "generator_predictions.dense": "head.transform",
    "generator_predictions.LayerNorm": "head.norm",
    "classifier.dense": "head.pooler",
    "classifier.out_proj": "head.classes",
    "qa_outputs": "head.spans",
}
RULES = (
    *(Rule(f"electra{rule.theirs.removeprefix('bert')}", rule.ours) for rule in bert.BODY),
    *module_rules(_MODULES),
    Rule("generator_lm_head.weight", ("head.output.weight",)),
    Rule("generator_lm_head.bias", ("head.bias",)),
    *module_rules({"classifier": "head.tags"}),
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    values = bert.from_hf(hf, ARCHITECTURES)
    width = hf.get("embedding_size", 128)
    return values | {"embedding": values["embedding"] | {"dim": None if width == hf["hidden_size"] else width}}


FAMILY = Family(
    name="electra",
    model_type="electra",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    prefix="electra.",
    ignored=(*bert.FAMILY.ignored, r"discriminator_predictions\..*"),
    from_hf=_from_hf,
    to_hf=lambda config: bert.to_hf(config) | {"embedding_size": config.embedding_dim},
    renamed=bert.OLD_NORMS,
    fixed={**bert.FAMILY.fixed, "hidden_act": ("gelu",)},  # hard-coded in two of Hugging Face's heads, whatever the field says
)
