"""The mapping between the names and shapes of tfkit's tensors ("ours") and those of a family's Hugging Face class ("theirs", "foreign"), by
the rules of the family. Also classes that read weights under our names one block or one tensor at a time, to save memory.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.families.rules import Family, Rule
from tfkit.hub.weights import Tensors, Weight, read_weights
from tfkit.model.config import ClassesHeadConfig, ModelConfig, NoHeadConfig, TagsHeadConfig
from tfkit.model.init import BLOCK, put_weights
from tfkit.model.transformer import parameter_shapes

_OUTPUT = "head.output.weight"


def resolve_names(weights: Mapping[str, Weight], family: Family, config: ModelConfig) -> tuple[dict[str, Weight], ModelConfig]:
    """Return a file's tensors, without those known to be unused, under the family's names with its prefix; and the config they fit, which
    is untied if the output matrix differs from the embedding in the file, and has no pooler if the file has none. Raise ModelError if two
    different tensors in the file are for one tensor of the model.
    """
    rules = {rule.theirs: rule for rule in _expand(family, config)}
    shapes = parameter_shapes(config)
    resolved: dict[str, Weight] = {}
    clashes = []
    for name, weight in _experts_apart(weights, family, config):
        if any(re.fullmatch(pattern, name) for pattern in (*family.ignored, family.other_parts or "")):
            continue
        for old, new in family.renamed if name not in rules else ():
            name = re.sub(old, new, name)
        if name not in rules:
            bare = next((name.removeprefix(prefix) for prefix in _prefixes(family) if name.startswith(prefix)), name)
            name = next((full for prefix in _prefixes(family) if (full := prefix + bare) in rules), name)
        ours = rules[name].ours if name in rules else ()
        if ours and all(part.startswith("head.") and part not in shapes for part in ours) and not (config.tied and ours == (_OUTPUT,)):
            continue  # a parameter of a head that this model does not have
        if name in resolved and not _are_equal(resolved[name], weight):
            clashes.append(f"{weight.path}: {resolved[name].name} and {weight.name} differ, but the model has one tensor for both, {name}")
        resolved[name] = weight
    embedding, head = (next(rule.theirs for rule in family.rules if rule.ours == (ours,)) for ours in ("embedding.tokens.weight", _OUTPUT))
    if config.tied and head in resolved:
        if embedding not in resolved or _are_equal(resolved[embedding], resolved[head]):
            resolved.setdefault(embedding, resolved[head])
            del resolved[head]
        else:  # config.json says that the two matrices are tied, but those in the file differ, so they were trained separately
            untied = config.head.model_copy(update={"tied": False})
            return resolve_names(weights, family, config.model_copy(update={"head": untied}))
    if clashes:
        raise ModelError(clashes[0])
    if config.head.kind == "none" and not any(ours.startswith("head.") for name in resolved.keys() & rules for ours in rules[name].ours):
        config = config.model_copy(update={"head": NoHeadConfig(kind="none")})  # no pooler: config.json does not state whether there is one
    return resolved, config


def _experts_apart(weights: Mapping[str, Weight], family: Family, config: ModelConfig) -> Iterator[tuple[str, Weight]]:
    """Yield each weight with its name. transformers can save a layer's gate and up matrices of all experts as one tensor, with the rows of
    gate first, and the down matrices as another: of such a tensor, each matrix of each expert is yielded as a weight of its own.
    """
    rules = {rule.ours[0].rpartition(".{e}.")[2]: rule.theirs for rule in family.rules if "{e}" in rule.theirs}
    count = config.mlp.experts.count if config.mlp.experts is not None else 0
    for name, weight in weights.items():
        stack = re.fullmatch(r"(?:\w+\.)?layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj", name) if count else None
        matrices, shape = stack[2].split("_") if stack else [], weight.stored.shape
        if stack is None or len(shape) != 3 or shape[0] != count or shape[1] % len(matrices):
            yield name, weight
            continue
        rows = shape[1] // len(matrices)
        for expert in range(count):
            for index, matrix in enumerate(matrices):
                part = (expert, slice(index * rows, (index + 1) * rows))
                stored = weight.stored._replace(shape=(rows, shape[2]))
                yield rules[f"{matrix}_proj.weight"].format(i=stack[1], e=expert), replace(weight, stored=stored, part=part)


def other_parts(weights: Iterable[str], family: Family | None) -> tuple[str, ...]:
    """Return the names of the parts beside the text model, such as an image encoder, to which tensors with names in `weights` belong."""
    matches = (re.fullmatch(family.other_parts, name) for name in weights) if family and family.other_parts else ()
    return tuple(dict.fromkeys(match[1] for match in matches if match))


def expected_shapes(family: Family | None, config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of all tensors in a file of this model, by name. `family` None: the file has our names."""
    shapes = parameter_shapes(config)
    if family is None:
        return shapes
    expected = {}
    for rule in _expand(family, config):
        if all(name in shapes for name in rule.ours):
            rows = sum(shapes[name][0] for name in rule.ours)
            shape = (rows, *shapes[rule.ours[0]][1:])
            expected[rule.theirs] = shape[::-1] if rule.transposed else (1, *shape) if rule.row else shape
    return expected


def rules_of(family: str, config: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules that map our parameters to a family's Hugging Face class; for "tfkit", rules that map each name to itself."""
    shapes, known = parameter_shapes(config), FAMILIES.get(family)
    if known is None:
        return tuple(Rule(name, (name,)) for name in shapes)
    rules = (rule for rule in _expand(known, config) if all(name in shapes for name in rule.ours))
    if config.head.kind == "none":  # the names of the class without a head have no prefix
        rules = (replace(rule, theirs=rule.theirs.removeprefix(known.prefix)) for rule in rules)
    return tuple(rules)


def missing_of_head(weights: Mapping[str, Weight], family: Family | None, config: ModelConfig) -> frozenset[str]:
    """Return the names, as in files, of the head's tensors that are not in `weights`, a result of `resolve_names`."""
    names = {rule.theirs: rule.ours for rule in _expand(family, config)} if family else {}
    lacking = expected_shapes(family, config).keys() - weights.keys()
    return frozenset(name for name in lacking if all(ours.startswith("head.") for ours in names.get(name, (name,))))


def is_head_incomplete(tensors: Tensors, config: ModelConfig) -> bool:
    """Return whether a parameter of the model's head, even one for which the family has no name, is not in `tensors` (our names)."""
    return any(name.startswith("head.") and name not in tensors for name in parameter_shapes(config))


def without_own_head(weights: Mapping[str, Weight], family: Family, config: ModelConfig, own: ModelConfig) -> dict[str, Weight]:
    """Return the weights without those of the file's head that the requested head lacks, or whose names mean other parameters in it.

    For example, RoBERTa has `classifier.dense` only in a head for classes, and BERT's `classifier` may be a head for classes or for tags.
    `config`: with the requested head; `own`: with the file's head.
    """
    wanted, stored = ({rule.theirs: rule.ours for rule in _expand(family, model)} for model in (config, own))
    others = {name for name, ours in stored.items() if ours[0].startswith("head.") and wanted.get(name) != ours}
    return {name: weight for name, weight in weights.items() if not {name, *(prefix + name for prefix in _prefixes(family))} & others}


def label_tensors(family: Family | None, config: ModelConfig) -> frozenset[str]:
    """Return the names, as in files, of the head's tensors that have a row for each class or tag."""
    head = config.head
    if not isinstance(head, ClassesHeadConfig | TagsHeadConfig):
        return frozenset()
    one_more = config.model_copy(update={"head": head.model_copy(update={"count": head.count + 1})})
    larger = expected_shapes(family, one_more)
    return frozenset(name for name, shape in expected_shapes(family, config).items() if larger[name] != shape)


def without_other_heads(weights: Mapping[str, Weight], config: ModelConfig) -> dict[str, Weight]:
    """Return the weights of a file that has our names, except those of a head that the model of `config` does not have."""
    shapes = parameter_shapes(config)
    return {name: weight for name, weight in weights.items() if name in shapes or not name.startswith("head.")}


def from_foreign(foreign: Tensors, family: Family, config: ModelConfig) -> Tensors:
    """Convert the tensors of a file from the family's names and layout to ours. The file must fit the model."""
    shapes = parameter_shapes(config)
    tensors: Tensors = {}
    for rule in _expand(family, config):
        if rule.theirs in foreign:
            tensor = foreign[rule.theirs]
            tensor = tensor.t() if rule.transposed else tensor[0] if rule.row else tensor
            tensor = apart(tensor, rule, config)
            tensors |= dict(zip(rule.ours, tensor.split([shapes[name][0] for name in rule.ours]), strict=True))
    return tensors


def their_names(family: Family | None, config: ModelConfig) -> dict[str, str]:
    """Return a dict from our name of each parameter to the full name of the tensor that contains it in a file."""
    if family is None:
        return {name: name for name in parameter_shapes(config)}
    return {ours: rule.theirs for rule in _expand(family, config) for ours in rule.ours}


def to_foreign(tensors: Mapping[str, Tensor], family: Family | None, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield our tensors under the names and in the layout of the family (None: unchanged). Each tensor is read only when it is needed."""
    if family is None:
        yield from tensors.items()
        return
    for rule in _expand(family, config):
        if all(name in tensors for name in rule.ours):  # otherwise the rule is for a bias or a head that this model does not have
            parts = [tensors[name] for name in rule.ours]
            tensor = by_head(torch.cat(parts) if len(parts) > 1 else parts[0], rule, config)
            yield rule.theirs, tensor.t() if rule.transposed else tensor[None] if rule.row else tensor


def by_head(tensor: Tensor, rule: Rule, config: ModelConfig) -> Tensor:
    """Reorder the rows of our concatenated matrices (q | k | v) into the file's order, which may be by head (q1 | k1 | v1 | q2 ...)."""
    return tensor.unflatten(0, (len(rule.ours), config.num_heads, -1)).transpose(0, 1).flatten(0, 2) if rule.by_head else tensor


def apart(tensor: Tensor, rule: Rule, config: ModelConfig) -> Tensor:
    """Reorder rows from the order of the file into that of our concatenated matrices. This is the inverse of `by_head`."""
    return tensor.unflatten(0, (config.num_heads, len(rule.ours), -1)).transpose(0, 1).flatten(0, 2) if rule.by_head else tensor


def _are_equal(first: Weight, second: Weight) -> bool:
    if first.stored[:2] != second.stored[:2]:  # dtype and shape
        return False
    tensors = read_weights({"first": first, "second": second})
    return torch.equal(tensors["first"], tensors["second"])


def _prefixes(family: Family) -> tuple[str, ...]:
    return tuple(prefix for prefix in (family.prefix, *family.prefixes.values()) if prefix)


def _expand(family: Family, config: ModelConfig) -> Iterator[Rule]:
    """Yield the rules that apply to this model, one for each layer {i} and expert {e}. The prefix of Hugging Face's
    names is that of the class with the model's head.
    """
    prefix = family.prefixes.get(config.head.kind, family.prefix)
    for rule in family.rules:
        if rule.when is not None and not rule.when(config):
            continue
        if prefix != family.prefix and rule.theirs.startswith(family.prefix):
            rule = replace(rule, theirs=prefix + rule.theirs.removeprefix(family.prefix))
        if "{i}" not in rule.theirs:
            yield rule
            continue
        experts = config.mlp.experts.count if config.mlp.experts is not None else 0
        for layer in range(config.encoder_layers if rule.ours[0].startswith("encoder.") else config.decoder_layers):
            for expert in range(experts) if "{e}" in rule.theirs else (0,):
                names = tuple(name.format(i=layer, e=expert) for name in rule.ours)
                yield replace(rule, theirs=rule.theirs.format(i=layer, e=expert), ours=names)


def read_ours(weights: Mapping[str, Weight], family: Family | None, config: ModelConfig) -> Tensors:
    """Read tensors from files that fit the model, and return them under our names. `family` None: the files have our names, too."""
    foreign = read_weights(weights)
    return from_foreign(foreign, family, config) if family else foreign


class LazyBlocks:
    """The weights of a model's blocks. Each call reads those of one block from the files. `others`: the weights outside the blocks."""

    def __init__(self, weights: Mapping[str, Weight], family: Family | None, config: ModelConfig):
        self._family, self._config = family, config
        self._blocks: dict[str, dict[str, Weight]] = {}
        for ours, theirs in their_names(family, config).items():
            if (block := BLOCK.match(ours)) and theirs in weights:
                self._blocks.setdefault(block[0], {})[theirs] = weights[theirs]
        in_blocks = {name for tensors in self._blocks.values() for name in tensors}
        self.others = {name: weight for name, weight in weights.items() if name not in in_blocks}

    def __call__(self, prefix: str, block: nn.Module) -> None:
        """Load the weights of `block`, whose parameters' names in the model begin with `prefix`."""
        tensors = read_ours(self._blocks[prefix], self._family, self._config)
        put_weights(block, {name.removeprefix(prefix): tensor.contiguous() for name, tensor in tensors.items()})


class NamedTensors(Mapping[str, Tensor]):
    """All weights of a model by our names, in files that are known to fit it. Each access reads one tensor from a file."""

    def __init__(self, weights: Mapping[str, Weight], family: Family | None, config: ModelConfig):
        self._weights, self._family, self._config = weights, family, config
        self._theirs, self._names = their_names(family, config), parameter_shapes(config)

    def __getitem__(self, name: str) -> Tensor:
        theirs = self._theirs[name]
        return read_ours({theirs: self._weights[theirs]}, self._family, self._config)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
