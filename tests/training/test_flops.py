"""The arithmetic of a step against torch's own counter."""

from typing import Any

import pytest
import torch
from tiny_training import GPT2, LLAMA, fresh
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.training.flops import matmul_parameters, training_flops_per_token


@pytest.mark.parametrize("values", [GPT2, LLAMA, LLAMA | {"head_dim": 10}], ids=["gpt2", "llama", "wide heads"])
def test_matrix_products_as_torch_counts_them(values: dict[str, Any]) -> None:
    model = fresh(values)
    ids = torch.zeros(3, 12, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        CausalLM("joined").loss(model, Batch(ids, ids))["lm"].backward()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = counts.pop("aten.bmm")
    tokens = ids.numel()
    assert sum(counts.values()) == 6 * matmul_parameters(model.config) * tokens
    # The plain kernel computes the whole square; a causal one needs half of it.
    assert training_flops_per_token(model.config, 12) * tokens == sum(counts.values()) + attention / 2


def test_gpt2_small() -> None:
    """124,439,808 parameters, of which positions (786,432), norms and biases multiply no token; the tied matrix does, once."""
    from tfkit.families import PRESETS
    from tfkit.model.config import ModelConfig

    config = ModelConfig.model_validate(PRESETS["gpt2"][1])
    assert matmul_parameters(config) == 12 * 12 * 768**2 + 50257 * 768 == 123_532_032
    assert training_flops_per_token(config, 1024) == 6 * 123_532_032 + 6 * 12 * 768 * 1024
