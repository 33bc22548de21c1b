"""Which matrices get an update and which parameters stay as they are, by the patterns of a recipe."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch.nn as nn

from tfkit.errors import UsageError
from tfkit.model.transformer import Transformer

_STACKS = ("encoder.", "decoder.")


def find_targets(model: Transformer, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """The matrices of the stacks that a pattern names: by the end of the module's name, or as a glob. UsageError if one names none."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(_STACKS)}
    found: set[str] = set()
    for pattern in patterns:
        named = {name for name in linear if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")}
        if not named:
            raise UsageError(f"training.adapter.targets: {pattern!r} names no matrix of the model's stacks; there are {_listed(linear)}")
        found |= named
    return {name: module for name, module in linear.items() if name in found}


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that the globs name. Raises UsageError if one names none, and if nothing is left to train."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        named = [name for name in parameters if fnmatchcase(name, pattern)]
        if not named:
            raise UsageError(f"training.frozen: {pattern!r} names no parameter of the model; there are {_listed(parameters)}")
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(f"training.frozen: {', '.join(patterns)} is every parameter of the model, so nothing is left to train")


def _listed(names: Iterable[str]) -> str:
    """The names, those of all layers as one."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
