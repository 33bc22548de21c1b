"""The state in which a model is asked rather than trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
