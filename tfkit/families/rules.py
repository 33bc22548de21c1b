"""How a family's Hugging Face layout is told: one list of rules, read forwards to load and backwards to save."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfkit.model.config import ModelConfig


class UnsupportedError(ValueError):
    """A config.json of the family that asks for what tfkit does not compute; the message names the field."""


@dataclass(frozen=True)
class Rule:
    """One foreign tensor and the parameters of ours that it holds; `{i}` stands for the layer.

    Several of ours lie one after the other along the output dimension (GPT-2's fused q | k | v).
    `transposed`: the foreign matrix is stored (in, out), ours are (out, in).
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """Everything that makes a family differ.

    `from_hf` reads a config.json into the values of a ModelConfig (KeyError: a field is missing; UnsupportedError); `to_hf` writes one.
    """

    name: str  # also Hugging Face's model_type
    architecture: str  # Hugging Face's class for the language model
    presets: dict[str, dict[str, Any]]  # published sizes, as values of a ModelConfig
    rules: tuple[Rule, ...]
    prefix: str  # of the foreign names; absent in files saved from the bare model
    ignored: tuple[str, ...]  # foreign tensors that carry nothing: regular expressions
    from_hf: Callable[[dict[str, Any]], dict[str, Any]]
    to_hf: Callable[[ModelConfig], dict[str, Any]]
