"""The names and shapes of tensors, ours <-> a family's, from its rules."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.families.rules import Family, Rule
from tfkit.hub.config_json import replace_tied
from tfkit.hub.weights import Tensors, Weight, read_weights
from tfkit.model.config import ClassesHeadConfig, ModelConfig, NoHeadConfig, TagsHeadConfig
from tfkit.model.transformer import Transformer

_OUTPUT = "head.output.weight"


def resolve_names(weights: Mapping[str, Weight], family: Family, config: ModelConfig) -> tuple[dict[str, Weight], ModelConfig]:
    """Return the tensors with information, under the family's full names, and the config with the tie that the file has.
    Raise ModelError if a file has two different tensors for one tensor of the model.
    """
    rules = {rule.theirs: rule for rule in _expand(family.rules, config)}
    shapes = our_shapes(config)
    settled: dict[str, Weight] = {}
    clashes = []
    for name, weight in weights.items():
        if any(re.fullmatch(pattern, name) for pattern in family.ignored):
            continue
        for old, new in family.renamed if name not in rules else ():
            name = re.sub(old, new, name)
        if name not in rules and family.prefix + name in rules:
            name = family.prefix + name
        ours = rules[name].ours if name in rules else ()
        if ours and all(part.startswith("head.") and part not in shapes for part in ours) and not (config.tied and ours == (_OUTPUT,)):
            continue  # of a head that this model does not have
        if name in settled and not _are_equal(settled[name], weight):
            clashes.append(f"{weight.path}: {settled[name].name} and {weight.name} differ, but the model has one tensor for both, {name}")
        settled[name] = weight
    embedding, head = (next(rule.theirs for rule in family.rules if rule.ours == (ours,)) for ours in ("embedding.tokens.weight", _OUTPUT))
    if config.tied and head in settled:
        if embedding not in settled or _are_equal(settled[embedding], settled[head]):
            settled.setdefault(embedding, settled[head])
            del settled[head]
        else:  # config.json has them tied, the file has two different matrices: the file was trained
            return resolve_names(weights, family, replace_tied(config, tied=False))
    if clashes:
        raise ModelError(clashes[0])
    return settled, _without_missing_pooler(settled, rules, config)


def expected_shapes(family: Family | None, config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the tensors in a file of this model, with their shapes."""
    shapes = our_shapes(config)
    if family is None:
        return shapes
    expected = {}
    for rule in _expand(family.rules, config):
        if all(name in shapes for name in rule.ours):
            rows = sum(shapes[name][0] for name in rule.ours)
            shape = (rows, *shapes[rule.ours[0]][1:])
            expected[rule.theirs] = shape[::-1] if rule.transposed else (1, *shape) if rule.row else shape
    return expected


def rules_of(family: str, config: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules from our parameters to Hugging Face's class for the model; in tfkit's own type, to our names."""
    shapes, found = our_shapes(config), FAMILIES.get(family)
    if found is None:
        return tuple(Rule(name, (name,)) for name in shapes)
    rules = (rule for rule in _expand(found.rules, config) if all(name in shapes for name in rule.ours))
    if config.head.kind == "none":  # the other classes hold the bare class under the prefix
        rules = (replace(rule, theirs=rule.theirs.removeprefix(found.prefix)) for rule in rules)
    return tuple(rules)


def missing_of_head(weights: Mapping[str, Weight], family: Family | None, config: ModelConfig) -> frozenset[str]:
    """Return the tensors of the model's head that the resolved files lack, under the names that they would have there."""
    names = {rule.theirs: rule.ours for rule in _expand(family.rules, config)} if family else {}
    lacking = expected_shapes(family, config).keys() - weights.keys()
    return frozenset(name for name in lacking if all(ours.startswith("head.") for ours in names.get(name, (name,))))


def is_head_incomplete(tensors: Tensors, config: ModelConfig) -> bool:
    """Whether a parameter of the model's head is missing from these, which have our names; a family may have no name for it."""
    return any(name.startswith("head.") and name not in tensors for name in our_shapes(config))


def without_namesakes(weights: Mapping[str, Weight], family: Family, config: ModelConfig, own: ModelConfig) -> dict[str, Weight]:
    """Return the weights without those of the file's own head whose name is another parameter's in the requested head.

    BERT's `classifier` is of classes, or of tags. `own` is the config with the file's head.
    """
    wanted, stored = ({rule.theirs: rule.ours for rule in _expand(family.rules, one)} for one in (config, own))
    others = {name for name, ours in stored.items() if wanted.get(name, ours) != ours}
    return {name: weight for name, weight in weights.items() if not {name, family.prefix + name} & others}


def label_tensors(family: Family | None, config: ModelConfig) -> frozenset[str]:
    """Return the head's tensors with a row for each class or tag, under their names in a file."""
    head = config.head
    if not isinstance(head, ClassesHeadConfig | TagsHeadConfig):
        return frozenset()
    more = config.model_copy(update={"head": head.model_copy(update={"count": head.count + 1})})
    others = expected_shapes(family, more)
    return frozenset(name for name, shape in expected_shapes(family, config).items() if others[name] != shape)


def without_other_heads(weights: Mapping[str, Weight], config: ModelConfig) -> dict[str, Weight]:
    """Return the weights of a file under our own names, except those of a head that this model does not have."""
    shapes = our_shapes(config)
    return {name: weight for name, weight in weights.items() if name in shapes or not name.startswith("head.")}


def from_foreign(foreign: Tensors, family: Family, config: ModelConfig) -> Tensors:
    """Return the tensors of a file that fits, under our names."""
    shapes = our_shapes(config)
    tensors: Tensors = {}
    for rule in _expand(family.rules, config):
        if rule.theirs in foreign:
            tensor = foreign[rule.theirs]
            tensor = tensor.t() if rule.transposed else tensor[0] if rule.row else tensor
            tensors |= dict(zip(rule.ours, tensor.split([shapes[name][0] for name in rule.ours]), strict=True))
    return tensors


def their_names(family: Family | None, config: ModelConfig) -> dict[str, str]:
    """Return the full name of the file's tensor that each of our parameters is read from."""
    if family is None:
        return {name: name for name in our_shapes(config)}
    return {ours: rule.theirs for rule in _expand(family.rules, config) for ours in rule.ours}


def to_foreign(tensors: Mapping[str, Tensor], family: Family | None, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield our tensors under the family's names (None: ours), in its layout, and read each of them only for the one that it makes."""
    if family is None:
        yield from tensors.items()
        return
    for rule in _expand(family.rules, config):
        if all(name in tensors for name in rule.ours):  # else a bias or a head that this model does not have
            yield rule.theirs, _in_layout([tensors[name] for name in rule.ours], rule)


def _in_layout(parts: Sequence[Tensor], rule: Rule) -> Tensor:
    tensor = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return tensor.t() if rule.transposed else tensor[None] if rule.row else tensor


def on_meta(config: ModelConfig) -> Transformer:
    """Build the model without memory for its parameters."""
    with torch.device("meta"):
        return Transformer(config)


def our_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Return our parameters' shapes. All blocks of a stack are alike, so one is built, not the many that a file may claim."""
    return _our_shapes(config.model_dump_json())


@lru_cache(maxsize=4)
def _our_shapes(document: str) -> Mapping[str, tuple[int, ...]]:
    config = ModelConfig.model_validate_json(document)
    layers = {"encoder.blocks.0.": config.encoder_layers, "decoder.blocks.0.": config.decoder_layers}
    few = {name: min(1, getattr(config, name)) for name in ("encoder_layers", "decoder_layers")}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in on_meta(config.model_copy(update=few)).state_dict().items():
        block = next((block for block in layers if name.startswith(block)), None)
        if block is None:
            shapes[name] = tuple(parameter.shape)
            continue
        for layer in range(layers[block]):
            shapes[name.replace(block, block.replace("0", str(layer)))] = tuple(parameter.shape)
    return MappingProxyType(shapes)


def _without_missing_pooler(settled: Mapping[str, Weight], rules: Mapping[str, Rule], config: ModelConfig) -> ModelConfig:
    """Return the config of the file: config.json does not state whether a model without a head was saved with its pooler."""
    if config.head.kind != "none" or any(ours.startswith("head.") for name in settled.keys() & rules for ours in rules[name].ours):
        return config
    return config.model_copy(update={"head": NoHeadConfig(kind="none")})


def _are_equal(first: Weight, second: Weight) -> bool:
    if first.stored[:2] != second.stored[:2]:  # type and shape
        return False
    tensors = read_weights({"first": first, "second": second})
    return torch.equal(tensors["first"], tensors["second"])


def _expand(rules: tuple[Rule, ...], config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules for this model, with every layer's number filled in."""
    for rule in rules:
        if rule.when is not None and not rule.when(config):
            continue
        if "{i}" not in rule.theirs:
            yield rule
            continue
        for layer in range(config.encoder_layers if rule.ours[0].startswith("encoder.") else config.decoder_layers):
            yield replace(rule, theirs=rule.theirs.format(i=layer), ours=tuple(name.format(i=layer) for name in rule.ours))
