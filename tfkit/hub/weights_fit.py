"""Checks that a model folder's weights fit its config.json."""

import math
from collections.abc import Mapping
from pathlib import Path

from tfkit.errors import ModelError
from tfkit.hub.weights import Weight
from tfkit.model.config import ModelConfig

_FLOATS = ("F32", "F16", "BF16", "F64")
_MAX_LINES = 20  # of one kind of difference in a message


def check_claims(config: ModelConfig, weights: Mapping[str, Weight], folder: Path) -> None:
    """Raise ModelError if config.json describes a larger model than the files can hold, before anything of its size is allocated."""
    rows = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim, "num_heads x head_dim": config.num_heads * config.head_dim}
    if config.position.kind == "learned":
        rows["context_length"] = config.context_length
    elements = sum(math.prod(weight.stored.shape) for weight in weights.values())
    layers = config.encoder_layers + config.decoder_layers
    claims = [f"{layers:,} layers, the files hold {len(weights):,} tensors"] if layers > len(weights) else []
    claims += [
        f"{name} {count:,} with dim {config.dim:,}, the files hold {elements:,} numbers in all"
        for name, count in rows.items()
        if count * config.dim > elements
    ]
    if claims:
        raise ModelError(f"{folder}: the weights do not fit config.json: it has {'; '.join(claims)}; copy both again, from the same source")


def check_fit(weights: Mapping[str, Weight], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise ModelError unless the tensors are those expected; it lists every missing, unexpected, misshapen and mistyped tensor."""
    shapes = {name: weight.stored.shape for name, weight in weights.items()}
    types = {name: weight.stored.dtype for name, weight in weights.items()}
    kinds = [
        [f"missing: {name} {shape}" for name, shape in expected.items() if name not in shapes],
        [f"unexpected: {name} {shape}" for name, shape in shapes.items() if name not in expected],
        [f"misshapen: {name} {shapes[name]} instead of {shape}" for name, shape in expected.items() if shapes.get(name, shape) != shape],
        [f"mistyped: {name} {dtype}, not one of {', '.join(_FLOATS)}" for name, dtype in types.items() if dtype not in _FLOATS],
    ]
    problems = [line for kind in kinds for line in _shortened(kind)]
    if problems:
        raise ModelError(
            f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems) + "\nCopy both again, from the same source"
        )


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LINES
    return [*lines[:_MAX_LINES], f"and {more:,} more"] if more > 0 else lines
