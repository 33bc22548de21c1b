"""The frozen reference of a run: the model of its first step, by which preferences and rollouts measure how far the policy has moved."""

import contextlib
import copy
from collections.abc import Iterator

import torch

from tfkit.adapters.lora import LORA_PARAMETERS, without_updates
from tfkit.model.transformer import Transformer


class FrozenReference:
    """The model as it is when this object is made, in its own arithmetic, whatever it learns later.

    Of a model whose trained parameters are all LoRA matrices it is that model with its updates off: these begin at zero, so it takes no
    memory. Of any other it is a copy.
    """

    def __init__(self, model: Transformer):
        self.is_copy = needs_copy(model)
        self.model = _frozen_copy(model) if self.is_copy else model

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Transformer]:
        """A context in which the returned model computes as the reference: without updates, dropout and gradients. Ranks that share it
        enter the context together, and compute then, each for itself.
        """
        model, training = self.model, self.model.training
        model.eval()
        try:
            with torch.no_grad(), without_updates(model), model.whole_at_work():
                yield model
        finally:
            model.train(training)


def needs_copy(model: Transformer) -> bool:
    """Whether the reference of a model is a copy: it has trained parameters that cannot be switched off."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return not trained or not all(name.endswith(LORA_PARAMETERS) for name in trained)


def _frozen_copy(model: Transformer) -> Transformer:
    """Return a copy; blocks on the meta device get their weights as those of the model do."""
    fill, model.fill_block = model.fill_block, None
    try:
        copied = copy.deepcopy(model).requires_grad_(False)
    finally:
        model.fill_block = fill
    copied.fill_block = fill
    return copied
