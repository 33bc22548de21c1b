"""Reading and writing the rotary positions of a config.json, for all families that have them.

Old files have `rope_theta` and `rope_scaling` (the oldest with `type` for `rope_type`), newer ones `rope_parameters` with the fields of
both. tfkit writes the old names, which every version of transformers reads.
"""

import math
from collections.abc import Mapping
from typing import Any

from tfkit.families.config_fields import LAYER_TYPES, UnsupportedError
from tfkit.model.config import Position, Rotary

_KINDS = ("default", "linear", "yarn", "llama3", "longrope")
_REFUSED = {  # a rope_type -> the reason for which it is refused, as part of an error message
    "dynamic": " (beyond max_position_embeddings its wavelengths change with each token of a text; "
    "for shorter texts it changes nothing: make its type default in config.json)"
}
_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}  # YaRN's defaults


def position_from_hf(hf: Mapping[str, Any], *, partial: float | None = None) -> dict[str, Any]:
    """Return the values of ModelConfig.position for a config.json. Raise UnsupportedError for a scaling that tfkit does not compute.

    `partial`: the class's default of partial_rotary_factor; None: the class has no such field.
    """
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {"rope_type": "default"}  # looked up in the same order as by transformers
    if not isinstance(rope, dict):
        raise UnsupportedError(f"rope_scaling or rope_parameters is {rope!r:.80}, not an object")
    if rope.keys() & set(LAYER_TYPES):
        raise UnsupportedError("rotary positions that differ between types of layers are not supported for this model_type")
    # In transformers, original_max_position_embeddings outside rope_scaling takes precedence over the one inside.
    original = hf.get("original_max_position_embeddings")
    position = _position(rope, original, hf["max_position_embeddings"], hf.get("rope_theta"))
    part = rope.get("partial_rotary_factor", hf.get("partial_rotary_factor"))
    if partial is None and part not in (None, 1):
        raise UnsupportedError(f"partial_rotary_factor {part!r} of the rotary positions is not supported, only 1 is")
    return position if partial is None else position | {"fraction": partial if part is None else part}


def position_by_layer(hf: Mapping[str, Any], theta: float, local_theta: float) -> dict[str, Any]:
    """Return ModelConfig.position's values for a class in which layers with a window have a base of their own. `local_theta`: the default
    of this base; `theta`: that of the other layers' base.
    """
    local, full = ropes_by_layer(hf)
    if (scaling := hf.get("rope_scaling")) and not (isinstance(scaling, dict) and "rope_type" in scaling):
        raise UnsupportedError("rope_scaling has no rope_type")
    position, of_windows = (
        _position({"rope_type": "default", **rope}, None, hf["max_position_embeddings"], default)
        for rope, default in ((full | (scaling or {}), theta), (local, local_theta))
    )
    if "scaling" in of_windows:
        raise UnsupportedError(f"rotary positions of type {local['rope_type']!r} are not supported in layers with a window")
    return position | {"local_theta": of_windows["theta"]}


def ropes_by_layer(hf: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rope_parameters of layers with a window and those of the other layers, empty if the config.json has none."""
    stated = hf.get("rope_parameters") or {}
    if not isinstance(stated, dict) or (stated and not stated.keys() & set(LAYER_TYPES)):
        raise UnsupportedError(f"rope_parameters has none of the types of layers {', '.join(LAYER_TYPES)}")
    local, full = (stated.get(name) or {} for name in LAYER_TYPES)
    if not isinstance(local, dict) or not isinstance(full, dict):
        raise UnsupportedError(f"rope_parameters does not hold the fields of the types of layers {', '.join(LAYER_TYPES)}")
    return local, full


def _position(rope: Mapping[str, Any], original: Any, context: int, default_theta: Any) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in _KINDS:
        reason = _REFUSED.get(kind, "") if isinstance(kind, str) else ""
        raise UnsupportedError(f"rotary positions of type {kind!r} are not supported{reason}; only {', '.join(_KINDS)} are")
    theta = next((value for value in (rope.get("rope_theta"), default_theta) if value is not None), 1e4)
    position: dict[str, Any] = {"kind": "rotary", "theta": theta}
    if kind == "default":
        return position
    if original is None:
        original = rope.get("original_max_position_embeddings", context)
    if kind == "longrope":
        return position | {"scaling": _longrope(rope, original, context)}
    scaling = {"kind": kind, "factor": rope["factor"]}
    if kind == "llama3":
        scaling |= {name: rope[name] for name in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        for name, value in (("mscale", None), ("mscale_all_dim", None), ("truncate", True)):
            if rope.get(name, value) != value:
                raise UnsupportedError(f"{name} {rope[name]!r} of rotary positions of type yarn is not supported")
        scaling |= {name: rope.get(name) or value for name, value in _BETAS.items()} | {"attention_factor": rope.get("attention_factor")}
    if kind in ("llama3", "yarn"):
        scaling["original_context_length"] = original
    return position | {"scaling": scaling}


def _longrope(rope: Mapping[str, Any], original: Any, context: Any) -> dict[str, Any]:
    attention = rope.get("attention_factor")
    if attention is None:
        longer, shorter = (context, original) if rope.get("factor") is None else (rope["factor"], 1)
        if not all(isinstance(value, int | float) and value > 0 for value in (longer, shorter, original)) or original <= 1:
            raise UnsupportedError("factor and original_max_position_embeddings give no valid attention_factor of longrope")
        attention = math.sqrt(1 + max(0.0, math.log(longer) - math.log(shorter)) / math.log(original))
    return {
        "kind": "longrope",
        "short_factors": rope["short_factor"],
        "long_factors": rope["long_factor"],
        "attention_factor": attention,
        "original_context_length": original,
    }


def position_to_hf(position: Position) -> dict[str, Any]:
    """Return config.json's rope_theta and rope_scaling, which lacks fields with default values; null for positions that are not rotary."""
    theta, scaling = (position.theta, position.scaling) if isinstance(position, Rotary) else (None, None)
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    names = {"kind": "rope_type", "original_context_length": "original_max_position_embeddings"}
    names |= {f"{side}_factors": f"{side}_factor" for side in ("short", "long")}
    defaults = {**_BETAS, "attention_factor": None}
    stated = {name: value for name, value in scaling.model_dump().items() if name not in defaults or value != defaults[name]}
    return {"rope_theta": theta, "rope_scaling": {names.get(name, name): value for name, value in stated.items()}}
