"""The model of the first step, which an objective compares the trained one with: its memory and its arithmetic."""

import torch

from tfkit.adapters import needs_copy
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Objective


def reference_bytes(objective: Objective, model: Transformer, precision: torch.dtype) -> int:
    """Return the memory of the reference beside the model: that of a copy where it is read throughout, and is no base of an adapter."""
    if objective.reference_use != "throughout" or not needs_copy(model):
        return 0
    return sum(parameter.numel() for parameter in model.parameters()) * precision.itemsize


def reference_tokens(objective: Objective, trained: int, train: int, held_out: int) -> int:
    """Return the tokens that the reference reads: those of all steps, or once those of the training and the held-out rows."""
    return {"none": 0, "once": train + held_out, "throughout": trained}[objective.reference_use]
