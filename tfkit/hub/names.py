"""The names and shapes of tensors, ours <-> a family's, by its rules."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from tfkit.families.rules import Family, Rule
from tfkit.hub.config_json import replace_tied
from tfkit.hub.weights import Tensors, Weight, read_weights
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer


def settle_names(weights: Mapping[str, Weight], family: Family, config: ModelConfig) -> tuple[dict[str, Weight], ModelConfig]:
    """The tensors that carry something, under the family's full names, and the description with the tie as the file has it."""
    known = {rule.theirs for rule in _expand(family.rules, config)}
    settled = {
        name if name in known or family.prefix + name not in known else family.prefix + name: weight
        for name, weight in weights.items()
        if not any(re.fullmatch(pattern, name) for pattern in family.ignored)
    }
    embedding, head = (_theirs(family, ours) for ours in ("embedding.tokens.weight", "head.output.weight"))
    if config.head.tied and head in settled:
        if embedding not in settled or _are_equal(settled[embedding], settled[head]):
            settled.setdefault(embedding, settled[head])
            del settled[head]
        else:  # the configuration says tied, the file holds two different matrices: what was trained is the file
            config = replace_tied(config, tied=False)
    return settled, config


def expected_shapes(family: Family | None, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that a file of this model holds, with their shapes."""
    shapes = _our_shapes(config)
    if family is None:
        return shapes
    expected = {}
    for rule in _expand(family.rules, config):
        if all(name in shapes for name in rule.ours):
            rows = sum(shapes[name][0] for name in rule.ours)
            shape = (rows, *shapes[rule.ours[0]][1:])
            expected[rule.theirs] = shape[::-1] if rule.transposed else shape
    return expected


def from_foreign(foreign: Tensors, family: Family, config: ModelConfig) -> Tensors:
    """The tensors of a file that fits, under our names."""
    shapes = _our_shapes(config)
    tensors: Tensors = {}
    for rule in _expand(family.rules, config):
        if rule.theirs in foreign:
            tensor = foreign[rule.theirs].t() if rule.transposed else foreign[rule.theirs]
            tensors |= dict(zip(rule.ours, tensor.split([shapes[name][0] for name in rule.ours]), strict=True))
    return tensors


def to_foreign(tensors: Tensors, family: Family, config: ModelConfig) -> Tensors:
    """Our tensors under the family's names, in its layout."""
    foreign: Tensors = {}
    for rule in _expand(family.rules, config):
        if not all(name in tensors for name in rule.ours):
            continue  # a bias or a head that this model has not
        tensor = torch.cat([tensors[name] for name in rule.ours]) if len(rule.ours) > 1 else tensors[rule.ours[0]]
        foreign[rule.theirs] = tensor.t().contiguous() if rule.transposed else tensor
    return foreign


def on_meta(config: ModelConfig) -> Transformer:
    """The model without any memory for its parameters."""
    with torch.device("meta"):
        return Transformer(config)


def _our_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our parameters with their shapes. All blocks are alike, so one is built, not the many that a file may tell of."""
    one = on_meta(config.model_copy(update={"decoder_layers": 1})).state_dict()
    block = "decoder.blocks.{}."
    return {
        name.replace(block.format(0), block.format(layer)): tuple(parameter.shape)
        for name, parameter in one.items()
        for layer in range(config.decoder_layers if name.startswith(block.format(0)) else 1)
    }


def _are_equal(first: Weight, second: Weight) -> bool:
    if first.stored[:2] != second.stored[:2]:  # type and shape
        return False
    tensors = read_weights({"first": first, "second": second})
    return torch.equal(tensors["first"], tensors["second"])


def _expand(rules: tuple[Rule, ...], config: ModelConfig) -> Iterator[Rule]:
    """The rules with every layer's number put in."""
    for rule in rules:
        if "{i}" not in rule.theirs:
            yield rule
            continue
        for layer in range(config.decoder_layers):
            yield replace(rule, theirs=rule.theirs.format(i=layer), ours=tuple(name.format(i=layer) for name in rule.ours))


def _theirs(family: Family, ours: str) -> str:
    return next(rule.theirs for rule in family.rules if rule.ours == (ours,))
