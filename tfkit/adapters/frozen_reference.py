"""The frozen reference of a run: the model before its first step, from which preferences and rollouts measure the policy's distance."""

import contextlib
import copy
from collections.abc import Iterator

import torch

from tfkit.adapters.lora import LORA_PARAMETERS, without_updates
from tfkit.model.transformer import Transformer


class FrozenReference:
    """The model as it is when this object is created, in its own precision, unaffected by later training.

    If all trained parameters are LoRA matrices, it is the model itself with its updates off, which needs no memory: they start at zero.
    Otherwise it is a copy.
    """

    def __init__(self, model: Transformer):
        self.is_copy = needs_copy(model)
        self.model = _frozen_copy(model) if self.is_copy else model

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Transformer]:
        """A context in which the returned model computes as the reference: without updates, dropout and gradients. Ranks that share its
        weights enter the context together; within it, each computes independently.
        """
        model, training = self.model, self.model.training
        model.eval()
        try:
            with torch.no_grad(), without_updates(model), model.unsharded():
                yield model
        finally:
            model.train(training)


def needs_copy(model: Transformer) -> bool:
    """Whether the reference must be a copy of the model, since only LoRA matrices can be switched off."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return not trained or not all(name.endswith(LORA_PARAMETERS) for name in trained)


def _frozen_copy(model: Transformer) -> Transformer:
    """Return a frozen copy. Its blocks on the meta device are filled in the same way as the model's."""
    fill, model.fill_block = model.fill_block, None
    try:
        copied = copy.deepcopy(model).requires_grad_(False)
    finally:
        model.fill_block = fill
    copied.fill_block = fill
    return copied
