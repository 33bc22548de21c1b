"""Context managers for inference: evaluation mode without gradients, and interruptible forward passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Interrupted(Exception):
    """Error of a forward pass that was interrupted (see `interruptible`)."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Disable dropout and gradients within the with block; the model's mode is restored afterwards.

    This uses `no_grad`, not `inference_mode`, because tensors that a model caches within the block must remain usable in a training step.
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
    """Let forward passes within the with block raise Interrupted, before their next module, once `should_stop()` is true. `should_stop`
    None: forward passes are never interrupted.
    """

    def check(module: nn.Module, arguments: Any) -> None:
        if should_stop is not None and should_stop():
            raise Interrupted

    hooks = [module.register_forward_pre_hook(check) for module in model.modules()] if should_stop is not None else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
