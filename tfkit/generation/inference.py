"""The state in which a model is asked rather than trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Interrupted(Exception):
    """A forward was left in the middle."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; the model's mode is put back after.

    `no_grad` and not `inference_mode`: whatever a model keeps for later must stay usable by a training step.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextmanager
def interruptible(model: nn.Module, should_stop: Callable[[], bool] | None) -> Iterator[None]:
    """Inside, a forward raises Interrupted before its next module once `should_stop()` is true: reading long texts may take minutes."""

    def ask(module: nn.Module, arguments: Any) -> None:
        if should_stop is not None and should_stop():
            raise Interrupted

    hooks = [module.register_forward_pre_hook(ask) for module in model.modules()] if should_stop is not None else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
