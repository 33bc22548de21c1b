"""Mistral 7B (Jiang et al. 2023, arXiv 2310.06825).

New compared with Llama 2: every token attends to a window of 4,096 tokens only, itself included, so that the cache stops growing there;
through the 32 layers, tokens up to almost 32 * 4,096 positions back have an effect. Four query heads share each key and value head,
although the model is small. Versions 0.2 and 0.3 attend to all tokens again.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.rules import decoder_classes

# The context is that of training (table 1); thanks to the window, the model also works on longer texts.
_V1 = llama.size(4096, 32, 32, 8, 14336, vocab_size=32000, context_length=8192, attention={"windows": [4096]})
# According to the model cards: 32 k tokens without a window, theta 1e6; version 0.3 also has a larger vocabulary.
_V2 = _V1 | {"context_length": 32768, "position": {"kind": "rotary", "theta": 1e6}, "attention": {"windows": [None]}}

PRESETS = {"mistral-7b-v0.1": _V1, "mistral-7b-v0.2": _V2, "mistral-7b-v0.3": _V2 | {"vocab_size": 32768}}

ARCHITECTURES = decoder_classes("Mistral", "classes", "tags", "spans")

# Hugging Face's class defaults for fields that a file leaves out. The released files have all three.
_CLASS_DEFAULTS: dict[str, Any] = {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | llama.NO_BIAS
    values = llama.from_hf(hf, ARCHITECTURES)
    values["attention"] |= {"windows": [hf["sliding_window"]]}  # null: no window
    return values


FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    model_type="mistral",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    from_hf=_from_hf,
    to_hf=lambda config: llama.to_hf(config, llama.NO_BIAS) | {"sliding_window": config.attention.windows[0]},
    prefixes={},
)
