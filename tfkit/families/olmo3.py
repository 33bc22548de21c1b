"""OLMo 3 (OLMo team 2025, https://allenai.org/papers/olmo3).

New compared with OLMo 2: three layers with a window of 4,096 tokens come before each layer that sees all tokens. Only layers that see
all tokens have YaRN's wavelengths, for 64 k tokens after 8 k in pretraining. Sizes as released.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama, olmo2
from tfkit.families.config_fields import first_window, layer_types, windows_from_hf
from tfkit.families.rotary import position_by_layer
from tfkit.families.rules import decoder_classes
from tfkit.model.config import ModelConfig

_THETA = 5e5
_BASE: dict[str, Any] = olmo2.BASE | {
    "vocab_size": 100278,
    "context_length": 65536,
    "position": {
        "kind": "rotary",
        "theta": _THETA,
        "local_theta": _THETA,
        "scaling": {"kind": "yarn", "factor": 8.0, "attention_factor": 1.2079441541679836, "original_context_length": 8192},
    },
    "attention": {"qk_norm": "projection", "windows": [4096, 4096, 4096, None]},
}
PRESETS = {
    "olmo3-7b": llama.size(4096, 32, 32, 32, 11008, **_BASE),
    "olmo3-32b": llama.size(5120, 64, 40, 8, 27648, **_BASE),
}

ARCHITECTURES = decoder_classes("Olmo3", "classes")


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = olmo2.CLASS_DEFAULTS | {"sliding_window": 4096} | hf
    values = olmo2.from_hf(hf, ARCHITECTURES, position_by_layer(hf, hf.get("rope_theta", _THETA), _THETA))
    values["attention"] |= {"windows": windows_from_hf(hf, hf["sliding_window"], lambda layer: (layer + 1) % 4 != 0)}
    return values


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    fields = olmo2.to_hf(config)
    scaling = fields["rope_scaling"] or {"rope_type": "default"}
    local = {"rope_type": "default", "rope_theta": getattr(config.position, "local_theta", None)}
    return fields | {
        # Old fields are written, too: older versions of transformers read only those, which have no base for layers with a window.
        "rope_parameters": {"full_attention": scaling | {"rope_theta": fields["rope_theta"]}, "sliding_attention": local},
        "sliding_window": first_window(config) or config.context_length,
        "layer_types": layer_types(config),
    }


FAMILY = replace(
    olmo2.FAMILY, name="olmo3", model_type="olmo3", architectures=ARCHITECTURES, presets=PRESETS, from_hf=_from_hf, to_hf=_to_hf
)
