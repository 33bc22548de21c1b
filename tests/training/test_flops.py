"""The arithmetic of a step against torch's own counter."""

from typing import Any

import pytest
import torch
from tiny_training import GPT2, LLAMA, fresh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tfkit.adapters import add_lora, freeze
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema.sections import LoraSection
from tfkit.training.flops import adapted_flops_per_token, matmul_parameters, training_flops_per_token


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


@pytest.mark.parametrize("heads", [3, 1])
def test_each_stack_of_an_encoder_decoder_works_on_its_own_tokens(heads: int) -> None:
    """The decoder's own attention is causal; the encoder's and the one between them are whole squares."""
    model = fresh(GPT2, encoder_layers=3, num_kv_heads=heads)
    source, target = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        CausalLM("joined").loss(model, Batch(source, target, decoder_input_ids=target))["lm"].backward()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = counts.pop("aten.bmm")
    half = 3 * 2 * 6 * 24 * 8 * 8  # rows, layers, what the plain kernel computes and a causal one need not
    assert training_flops_per_token(model.config, 20, 8 / 20) * 60 == pytest.approx(sum(counts.values()) + attention - half, rel=1e-12)


@pytest.mark.parametrize("values", [GPT2, LLAMA], ids=["tied", "with an output matrix"])
def test_what_is_frozen_above_what_is_trained_has_no_gradient_of_its_own(values: dict[str, Any]) -> None:
    """The upper block's matrices, and the output's where it is its own; below the lowest that is trained nothing is spared."""
    model = fresh(values)
    freeze(model, ["decoder.blocks.1.*", *(["head.*"] if values is LLAMA else [])])
    assert _counted(model) == training_flops_per_token(model.config, 12) + adapted_flops_per_token(_named(model), model.config)


def test_the_matrices_of_updates_are_counted() -> None:
    """Over an embedding that is trained, as the lowest, so that every block passes a gradient on."""
    model = fresh(LLAMA)
    add_lora(model, LoraSection(rank=2, targets=["q_proj", "up_proj"]), seed=1)
    model.embedding.requires_grad_()
    assert _counted(model) == training_flops_per_token(model.config, 12) + adapted_flops_per_token(_named(model), model.config)


def _named(model: Transformer) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _counted(model: Transformer) -> float:
    """FLOPs a token of a step, as torch counts them, of the plain kernel's square the half."""
    ids = torch.zeros(3, 12, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        CausalLM("joined").loss(model, Batch(ids, ids))["lm"].backward()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = counts.pop("aten.bmm")
    return (sum(counts.values()) + attention / 2) / ids.numel()


def test_gpt2_small() -> None:
    """124,439,808 parameters, of which positions (786,432), norms and biases multiply no token; the tied matrix does, once."""
    from tfkit.families import PRESETS
    from tfkit.model.config import ModelConfig

    config = ModelConfig.model_validate(PRESETS["gpt2"][1])
    assert matmul_parameters(config) == 12 * 12 * 768**2 + 50257 * 768 == 123_532_032
    assert training_flops_per_token(config, 1024) == 6 * 123_532_032 + 6 * 12 * 768 * 1024
