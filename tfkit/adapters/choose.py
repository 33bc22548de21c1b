"""The choice of the matrices that LoRA updates and of the parameters that are frozen, by the patterns of a recipe."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch.nn as nn

from tfkit.errors import UsageError
from tfkit.model.transformer import Transformer

_STACKS = ("encoder.", "decoder.")


def find_targets(model: Transformer, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the stacks' matrices that match a pattern: the end of a module's name, or a glob.

    Beside a mixture of experts, those of attention alone: transformers holds a layer's experts in one tensor, and peft takes any MLP's
    matrix for a part of it.

    Raise UsageError if a pattern matches no matrix.
    """
    sparse = model.config.mlp.experts is not None
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(_STACKS) and not (sparse and ".mlp." in name)
    }
    targets: set[str] = set()
    for pattern in patterns:
        matching = {name for name in linear if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")}
        if not matching:
            kind = "no matrix of the model's stacks" + (
                " outside its MLPs, which get no updates beside a mixture of experts" if sparse else ""
            )
            raise UsageError(f"training.adapter.targets: {pattern!r} matches {kind}; the matrices are {_listed(linear)}")
        targets |= matching
    return {name: module for name, module in linear.items() if name in targets}


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that match the globs. Raise UsageError if a glob matches no parameter, or if nothing is left to train."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        matching = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matching:
            raise UsageError(f"training.frozen: {pattern!r} matches no parameter of the model; the parameters are {_listed(parameters)}")
        for name in matching:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(f"training.frozen: {', '.join(patterns)} freezes every parameter of the model, so nothing is left to train")


def _listed(names: Iterable[str]) -> str:
    """Join the names for a message, with * in place of a layer's number."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
