"""The fields of config.json that families share. Fields that require a computation that tfkit does not have are refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from tfkit.families.rules import Architectures, Family
from tfkit.model.config import ModelConfig
from tfkit.model.config.sizes import MAX_LAYERS


class UnsupportedError(ValueError):
    """Error for a config.json that requires a computation that tfkit does not have; the message names the field."""


@dataclass(frozen=True)
class Fields:
    """The fields of a config.json whose values equal fields of ModelConfig, for reading and writing.

    `names`: a field of ModelConfig ("norm.eps": eps in the section norm) -> Hugging Face's name and, if files may omit it, its default.
    """

    names: Mapping[str, tuple[Any, ...]]

    def read(self, hf: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a ModelConfig from these fields of a config.json. `sections`: values to add, by section."""
        values: dict[str, Any] = {name: dict(section) for name, section in sections.items()}
        for ours, (theirs, *default) in self.names.items():
            section, _, name = ours.rpartition(".")
            (values.setdefault(section, {}) if section else values)[name] = hf.get(theirs, *default) if default else hf[theirs]
        return values

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Return these fields of a config.json, with the values that a ModelConfig has for them."""
        return {theirs: attrgetter(ours)(config) for ours, (theirs, *_) in self.names.items()}


USUAL_FIELDS: Mapping[str, tuple[Any, ...]] = {  # names that many of transformers' classes share
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings",),
    "dim": ("hidden_size",),
    "hidden_dim": ("intermediate_size",),
    "num_heads": ("num_attention_heads",),
    "init.std": ("initializer_range", 0.02),
}

# Keys of config.json that change the computation, in all of transformers' classes or in a foreign architecture whose files have the
# model_type of one of our families -> the values with which they change nothing. Null changes nothing either, unless noted.
FOREIGN_KEYS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("quantization_config", "per_layer_config"), ()),
    "is_causal": (True,),  # null means false
    **dict.fromkeys(
        ("qk_norm", "use_qk_norm", "qk_layernorm", "rope_interleaved", "alibi", "parallel_attn", "use_parallel_residual"), (False,)
    ),
    **dict.fromkeys(("clip_qkv", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier"), ()),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "scale_emb"), (1,)),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), (1,)),
    **dict.fromkeys(("scale_depth", "no_rope_layer_interval", "attention_chunk_size"), ()),
    "no_rope_layers": ([],),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), (0, 1)),
}

# Keys of config.json from which some families compute the windows and rotations of the layers -> the values that are valid.
_COUNTS = {
    "num_hidden_layers": range(MAX_LAYERS + 1),
    **dict.fromkeys(("sliding_window_pattern", "no_rope_layer_interval", "global_attn_every_n_layers"), range(1, 1 << 31)),
    **dict.fromkeys(("max_window_layers", "local_attention"), range(1 << 31)),
}

# If a model also reads images: the keys beside text_config that apply to its text part, too.
_OF_THE_FOLDER = ("architectures", "tie_word_embeddings", "quantization_config")


def normalize_keys(hf: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return the fields of a config.json under the names that the family's `from_hf` reads.
    Raise UnsupportedError for a key that requires a computation that tfkit lacks, an invalid count, or two names of one field that differ.
    """
    fields = dict(hf)
    if hf.get("model_type") == family.container and isinstance(text := hf.get("text_config"), dict):
        fields = {**text, **{name: hf[name] for name in _OF_THE_FOLDER if name in hf}}
    for alias, name in family.aliases.items():
        if alias in fields and fields.setdefault(name, fields[alias]) != fields[alias]:
            raise UnsupportedError(f"{alias} {fields[alias]!r} and {name} {fields[name]!r} differ, but are two names of one field")
    for name, values in {**FOREIGN_KEYS, **family.fixed}.items():
        value = fields.get(name)
        if name not in fields or name in family.own_keys or (value is None and name != "is_causal"):
            continue
        if name == "no_rope_layers" and isinstance(value, list) and all(flag == 1 for flag in value):
            continue  # every layer has rotary positions
        if name == "quantization_config":
            raise UnsupportedError(
                f"{name}: tfkit does not read quantized weights; use the model from before the quantization, in bf16 or fp16"
            )
        if value not in values:
            wanted = f", only {' or '.join(map(repr, values))} is" if values else "; remove it if the model does not have it"
            raise UnsupportedError(f"{name} {str(value)[:80]} is not supported for model_type {family.model_type}{wanted}")
    for name, allowed in _COUNTS.items():
        value = fields.get(name)
        if value is None:
            fields.pop(name, None)
        elif type(value) is not int or value not in allowed:
            raise UnsupportedError(f"{name} {value!r:.80} is not a whole number from {allowed[0]} to {allowed[-1]:,}")
    return fields


def check_heads(config: ModelConfig) -> None:
    """Raise UnsupportedError unless num_heads divides dim: some of transformers' classes require this although they read head_dim."""
    if config.dim % config.num_heads:
        raise UnsupportedError(f"hidden_size {config.dim} is not a multiple of num_attention_heads {config.num_heads}")


LAYER_TYPES = ("sliding_attention", "full_attention")


def windows_from_hf(hf: Mapping[str, Any], window: Any, default: Callable[[int], bool]) -> list[Any]:
    """Return the shortest list that, repeated, gives each layer's window, None for a layer without one. `window`: in tokens;
    `default`: returns whether a layer has this window if layer_types is null.
    """
    kinds, layers = hf.get("layer_types"), hf["num_hidden_layers"]
    local, full = LAYER_TYPES
    if kinds is None:
        kinds = [local if default(layer) else full for layer in range(layers)] or [full]
    elif not isinstance(kinds, list) or not kinds or len(kinds) != layers or any(kind not in LAYER_TYPES for kind in kinds):
        raise UnsupportedError(f"layer_types does not name {local} or {full} for each of the num_hidden_layers")
    if window is None and local in kinds:
        raise UnsupportedError(f"layer_types names {local}, but sliding_window is null or use_sliding_window is false")
    return shortest_period([window if kind == local else None for kind in kinds])


def shortest_period(values: list[Any]) -> list[Any]:
    """Return the shortest list that gives these values if it is repeated."""
    periods = (values[:n] for n in range(1, len(values) + 1))
    return next((part for part in periods if all(value == part[i % len(part)] for i, value in enumerate(values))), values)


def layer_types(config: ModelConfig) -> list[str]:
    """Return config.json's layer_types: for each layer, whether it has a window, in Hugging Face's words."""
    return [LAYER_TYPES[config.window(layer) is None] for layer in range(config.decoder_layers or config.encoder_layers)]


def first_window(config: ModelConfig) -> int | None:
    """Return the window of the first layer that has one; None if none has."""
    return next((window for window in config.attention.windows if window is not None), None)


# tfkit's activations -> Hugging Face's names; files may also have the synonyms that _FROM_ACTIVATIONS adds.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
_FROM_ACTIVATIONS = dict(zip(ACTIVATIONS.values(), ACTIVATIONS, strict=True)) | {"gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}


def activation_from_hf(hf: Mapping[str, Any], field: str, default: str, known: Mapping[str, str] = _FROM_ACTIVATIONS) -> str:
    """Return our name of the activation in this field of a config.json. `known`: Hugging Face's names -> ours. Raise UnsupportedError for a
    name that is not in `known`.
    """
    name = hf.get(field, default)
    if not isinstance(name, str) or name not in known:
        raise UnsupportedError(f"{field} {name!r} is not one of {', '.join(known)}")
    return known[name]


def class_from_hf(hf: Mapping[str, Any], architectures: Architectures) -> str:
    """Return the class that a config.json names, else the first of `architectures`. Raise UnsupportedError if `architectures` lacks it."""
    named = hf.get("architectures") or [next(iter(architectures))]
    name = named[0] if isinstance(named, list) else named
    if not isinstance(name, str) or name not in architectures:
        raise UnsupportedError(f"architectures names {name!r}, which is not one of {', '.join(architectures)}")
    return name


def head_from_hf(hf: Mapping[str, Any], architectures: Architectures, **vocabulary: Any) -> dict[str, Any]:
    """Return the fields of our head for a config.json's class; `vocabulary`: more fields of a head over the vocabulary (tied, scale ...).

    Raise UnsupportedError for a class that is not in `architectures`.
    """
    values = dict(architectures[class_from_hf(hf, architectures)])
    if values["kind"] in ("lm", "masked_lm"):
        return values | vocabulary
    if values["kind"] in ("classes", "tags"):
        labels = hf.get("id2label")
        values["count"] = len(labels) if isinstance(labels, dict) else hf.get("num_labels", 2)
    return values
