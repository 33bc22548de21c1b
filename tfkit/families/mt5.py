"""mT5 (Xue et al. 2020, arXiv 2010.11934).

T5 1.1 on text of a hundred languages, with 250,112 token vectors, most of a small model's parameters. As published, the output matrix is
not the embedding. Since version 5, transformers sets tie_word_embeddings to true in every mT5, but still reads a separate output matrix
if the file has one that differs from the embedding, and so does tfkit. In neither case are the hidden states scaled before that matrix.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import t5
from tfkit.families.config_fields import UnsupportedError
from tfkit.model.config import ModelConfig

_VOCABULARY = {"vocab_size": 250112}  # 250,000 pieces, 100 sentinels, and 12 unused rows
PRESETS = {
    f"mt5-{size}": t5.PRESETS[f"t5-v1.1-{size}"] | _VOCABULARY | {"context_length": 1024}
    for size in ("small", "base", "large", "xl", "xxl")
}

ARCHITECTURES, ENCODER_ARCHITECTURES = (
    {name.replace("T5", "MT5"): values for name, values in classes.items() if "LMHead" not in name}
    for classes in (t5.ARCHITECTURES, t5.ENCODER_ARCHITECTURES)
)
_CLASS_DEFAULTS = {"feed_forward_proj": "gated-gelu", "n_positions": 1024, "scale_decoder_outputs": False}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    if config.head.kind == "lm" and config.head.scale is not None:
        raise UnsupportedError("mT5 does not scale the hidden states before the output matrix")
    return {name: value for name, value in t5.to_hf(config).items() if name != "scale_decoder_outputs"}


FAMILY = replace(
    t5.FAMILY,
    name="mt5",
    model_type="mt5",
    architectures=ARCHITECTURES,
    encoder_architectures=ENCODER_ARCHITECTURES,
    presets=PRESETS,
    from_hf=lambda hf: t5.from_hf(_CLASS_DEFAULTS | hf, ARCHITECTURES, ENCODER_ARCHITECTURES),
    to_hf=_to_hf,
    fixed={"scale_decoder_outputs": (False,)},
)
