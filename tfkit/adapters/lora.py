"""LoRA (Hu et al. 2021, arXiv 2106.09685): the product of two low-rank matrices, B A, is trained as an update of a frozen matrix W.

    y = W x + b + alpha / rank * B A dropout(x)        A (rank, in), B (out, rank)

B starts at zero, so that the model starts unchanged. Merged into W, the update adds no computation. If only updates are trained, the model
with its updates off serves as the reference model of PPO and GRPO. This module also finds the matrices to update and the parameters to
freeze, by the patterns in a recipe's fields `training.adapter.targets` and `training.frozen`.
"""

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.errors import UsageError
from tfkit.model.init import put_weights
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.objective_facts import OWN_HEADS
from tfkit.recipe.schema.sections import LoraSection

A, B = LORA_PARAMETERS = ("lora_a", "lora_b")  # the parameters that LoraLinear has in addition to weight and bias
_STACKS = ("encoder.", "decoder.")


class LoraLinear(nn.Linear):
    """A linear layer with an update; it keeps the parameters of the layer that it replaces, and their names."""

    def __init__(self, linear: nn.Linear, section: LoraSection):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.dropout = section.alpha / section.rank, section.dropout
        self.has_update = True  # False: the layer computes without its update
        self.lora_a = nn.Parameter(self.weight.new_empty(section.rank, self.in_features))
        self.lora_b = nn.Parameter(self.weight.new_zeros(self.out_features, section.rank))

    def draw(self, generator: torch.Generator) -> None:
        """Draw A uniformly between -1 / sqrt(in) and 1 / sqrt(in), as in peft."""
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5), generator=generator)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output, with the update if `has_update`: (..., in) -> (..., out)."""
        if not self.has_update:
            return super().forward(input)
        dropped = F.dropout(input, self.dropout, self.training)
        return super().forward(input) + self.scale * F.linear(F.linear(dropped, self.lora_a), self.lora_b)  # in -> rank -> out


def add_lora(model: Transformer, section: LoraSection, seed: int, new: Iterable[str] = ()) -> None:
    """Freeze the model, and add updates, drawn with `seed`, to the matrices that the recipe's targets match.

    The parameters in `new`, which the checkpoint lacks, and a task's head (classes, tags or spans) are trained in full. Raise UsageError
    for a target that matches no matrix, and for a name in `new` outside the head, such as that of an embedding with new entries.
    """
    if foreign := [name for name in new if not name.startswith("head.")]:
        raise UsageError(
            f"training.adapter: {', '.join(foreign)} would be trained, but with an adapter only updates of matrices and a head can be: "
            "train all weights, or use only tokens that the vocabulary has"
        )
    model.requires_grad_(False)
    has_task_head = model.config.head.kind in OWN_HEADS
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in {*new} or (has_task_head and name.startswith("head.")))
    generator = torch.Generator().manual_seed(seed)
    if model.fill_block is not None:
        model.fill_block = partial(_fill_with_updates, model.fill_block, generator)
    for name, linear in find_targets(model, section.targets).items():
        layer = LoraLinear(linear, section)
        if not layer.lora_a.is_meta:
            layer.draw(generator)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer)


def _fill_with_updates(fill: Callable[[str, nn.Module], None], generator: torch.Generator, prefix: str, block: nn.Module) -> None:
    """Fill a block with its weights and LoRA updates. One generator draws all updates, so blocks must be filled in the model's order."""
    fill(prefix, block)
    for layer in layers_of(block).values():
        put_weights(layer, {A: torch.empty(layer.lora_a.shape), B: torch.zeros(layer.lora_b.shape)})
        layer.draw(generator)


def layers_of(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the layers of a model or block that have an update, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


@contextlib.contextmanager
def without_updates(model: nn.Module) -> Iterator[None]:
    """A context in which all layers of a model compute without their updates."""
    layers = layers_of(model).values()
    before = [layer.has_update for layer in layers]
    try:
        for layer in layers:
            layer.has_update = False
        yield
    finally:
        for layer, has_update in zip(layers, before, strict=True):
            layer.has_update = has_update


class Merged(Mapping[str, Tensor]):
    """The parameters in `tensors` with the model's updates merged, W + alpha / rank * B A; each is computed when it is looked up."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]):
        self._tensors = tensors
        self._updates = {f"{name}.weight": (layer.scale, f"{name}.{A}", f"{name}.{B}") for name, layer in layers_of(model).items()}
        factors = {name for _, a, b in self._updates.values() for name in (a, b)}
        self._names = dict.fromkeys(name for name in tensors if name not in factors)

    def __getitem__(self, name: str) -> Tensor:
        weight = self._tensors[name].detach()
        if name not in self._updates:
            return weight
        scale, a, b = self._updates[name]
        return weight + scale * (self._tensors[b].detach() @ self._tensors[a].detach())

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def find_targets(model: Transformer, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the linear layers of encoder and decoder that match a pattern: the end of a module's name, or a glob.

    In a mixture of experts, only matrices of attention match, since transformers holds a layer's experts in one tensor, and peft would
    mistake the matrix of a dense MLP for a part of such a tensor.

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
            kind = "no matrix of the model's stacks" + (" outside its MLPs, which get no updates in a mixture of experts" if sparse else "")
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
    """Join the names for a message, with * in place of a layer's index."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))


class FrozenReference:
    """The model as it is before the first step, from which PPO and GRPO measure the policy's distance; training does not change it.

    If all trained parameters are LoRA matrices, the reference is the model itself with its updates off, since updates start at zero;
    this needs no additional memory. Otherwise the reference is a copy in the model's precision.
    """

    def __init__(self, model: Transformer):
        self.is_copy = needs_copy(model)
        self.model = _frozen_copy(model) if self.is_copy else model

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Transformer]:
        """A context in which the model that it yields computes as the reference: without updates, dropout and gradients. Ranks that hold
        shards of its weights must enter the context together; within it, each rank computes independently.
        """
        model, training = self.model, self.model.training
        model.eval()
        try:
            with torch.no_grad(), without_updates(model), model.unsharded():
                yield model
        finally:
            model.train(training)


def needs_copy(model: Transformer) -> bool:
    """Whether the reference model must be a copy. If only LoRA matrices are trained, the model without them serves instead."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return not trained or not all(name.endswith(LORA_PARAMETERS) for name in trained)


def _frozen_copy(model: Transformer) -> Transformer:
    """Return a frozen copy of a model. Its blocks on the meta device are filled later, by the model's `fill_block`."""
    fill, model.fill_block = model.fill_block, None
    try:
        copied = copy.deepcopy(model).requires_grad_(False)
    finally:
        model.fill_block = fill
    copied.fill_block = fill
    return copied
