"""How a family's Hugging Face layout is told: one list of rules, read forwards to load and backwards to save."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfkit.model.config import ModelConfig


class UnsupportedError(ValueError):
    """A config.json of the family that asks for what tfkit does not compute; the message names the field."""


@dataclass(frozen=True)
class Rule:
    """One foreign tensor and the parameters of ours that it holds; `{i}` stands for the layer.

    Several of ours lie one after the other along the output dimension (GPT-2's fused q | k | v).
    `transposed`: the foreign matrix is stored (in, out), ours are (out, in). `row`: a vector of ours is stored as (1, n).
    `when`: the models that it is for, where the same parameter has another name in others (T5's MLP); None: all.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    row: bool = False
    when: Callable[[ModelConfig], bool] | None = None


Architectures = Mapping[str, Mapping[str, Any]]  # Hugging Face's class -> what of our head it stands for; the first is the usual one


@dataclass(frozen=True)
class Family:
    """Everything that makes a family differ.

    `from_hf` reads a config.json into the values of a ModelConfig (KeyError: a field is missing; UnsupportedError); `to_hf` writes one.
    Several families may share a `model_type`: their presets differ, their layout does not. None: no Hugging Face class computes it.
    """

    name: str
    model_type: str | None  # Hugging Face's
    architectures: Architectures
    presets: dict[str, dict[str, Any]]  # published sizes, as values of a ModelConfig
    rules: tuple[Rule, ...]
    prefix: str  # of the foreign names; absent in files saved from the bare model
    ignored: tuple[str, ...]  # foreign tensors that carry nothing: regular expressions
    from_hf: Callable[[dict[str, Any]], dict[str, Any]]
    to_hf: Callable[[ModelConfig], dict[str, Any]]
    renamed: tuple[tuple[str, str], ...] = ()  # old spellings in foreign names: a regular expression and what stands there now

    def architecture(self, config: ModelConfig) -> str | None:
        """Hugging Face's class for the model with its head; None if there is none."""
        head = config.head.model_dump()
        return next((name for name, values in self.architectures.items() if head.items() >= values.items()), None)


# Hugging Face's name of each of our activations; old and new files have others besides.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
_FROM_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}


def activation_from_hf(hf: Mapping[str, Any], field: str, default: str) -> str:
    """Our activation for what this field of a config.json names."""
    name = hf.get(field, default)
    if not isinstance(name, str) or name not in _FROM_ACTIVATIONS:
        raise UnsupportedError(f"{field} {name!r} is not one of {', '.join(_FROM_ACTIVATIONS)}")
    return _FROM_ACTIVATIONS[name]


def head_from_hf(hf: Mapping[str, Any], architectures: Architectures, **vocabulary: Any) -> dict[str, Any]:
    """Our head for the class that a config.json names; `vocabulary` holds what a head over the vocabulary has besides (tied, scale ...)."""
    named = hf.get("architectures") or [next(iter(architectures))]
    name = named[0] if isinstance(named, list) else named
    if not isinstance(name, str) or name not in architectures:
        raise UnsupportedError(f"architectures names {name!r}, which is not one of {', '.join(architectures)}")
    values = dict(architectures[name])
    if values["kind"] in ("lm", "masked_lm"):
        return values | vocabulary
    if values["kind"] in ("classes", "tags"):
        labels = hf.get("id2label")
        values["count"] = len(labels) if isinstance(labels, dict) else hf.get("num_labels", 2)
    return values
