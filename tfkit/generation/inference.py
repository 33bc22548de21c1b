"""Contexts for inference: evaluation mode without gradients, and forwards that can be interrupted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Interrupted(Exception):
    """A forward was interrupted."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """A context without dropout and gradients; the model's mode is restored after it.

    `no_grad` instead of `inference_mode`: tensors that a model keeps must remain usable in a training step.
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
    """A context in which a forward raises Interrupted before its next module once `should_stop()` is true: long texts may take minutes."""

    def check(module: nn.Module, arguments: Any) -> None:
        if should_stop is not None and should_stop():
            raise Interrupted

    hooks = [module.register_forward_pre_hook(check) for module in model.modules()] if should_stop is not None else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
