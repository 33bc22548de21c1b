"""GPT-3 (Brown et al. 2020, "Language Models are Few-Shot Learners", arXiv 2005.14165).

New compared with GPT-2: size, up to 175 billion parameters, so that a prompt can replace fine-tuning; a context of 2048;
every second layer has local attention ("alternating dense and locally banded sparse attention patterns", section 2.1). The paper states
neither the width of the band nor which layers have it: windows of 256 tokens on the odd layers, counted from 0, are tfkit's choice.

Sizes: table 2.1, with two corrections. Its "XL" has 24 heads of 128 at a width of 2048, here 16; its "13B" 40 heads of 128 at a width of
5140, here 5120. No Hugging Face class combines windows with GPT-2's layers, so these models are saved with the model_type "tfkit"; a
model with `attention.windows: [null]` is a GPT-2, and saved as such.

InstructGPT (Ouyang et al. 2022, arXiv 2203.02155) is this model trained further. Its reward model has the head
`{kind: classes, count: 1, pool: last}`: a number in place of the logits, read at the last token.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import gpt2

_BASE: dict[str, Any] = gpt2.PRESETS["gpt2"] | {
    "context_length": 2048,
    "attention": {"qkv_bias": True, "out_bias": True, "windows": [None, 256]},
}

PRESETS: dict[str, dict[str, Any]] = {
    "gpt3-125m": _BASE | {"decoder_layers": 12, "dim": 768, "num_heads": 12},
    "gpt3-350m": _BASE | {"decoder_layers": 24, "dim": 1024, "num_heads": 16},
    "gpt3-760m": _BASE | {"decoder_layers": 24, "dim": 1536, "num_heads": 16},
    "gpt3-1.3b": _BASE | {"decoder_layers": 24, "dim": 2048, "num_heads": 16},
    "gpt3-2.7b": _BASE | {"decoder_layers": 32, "dim": 2560, "num_heads": 32},
    "gpt3-6.7b": _BASE | {"decoder_layers": 32, "dim": 4096, "num_heads": 32},
    "gpt3-13b": _BASE | {"decoder_layers": 40, "dim": 5120, "num_heads": 40},
    "gpt3-175b": _BASE | {"decoder_layers": 96, "dim": 12288, "num_heads": 96},
}

FAMILY = replace(gpt2.FAMILY, name="gpt3", model_type=None, presets=PRESETS)
