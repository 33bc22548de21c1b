"""Parts that only training uses: random weights, dropout, activation checkpointing, the tie, precision."""

import copy
import math

import pytest
import torch
import torch.nn as nn
from tiny_models import MODELS, random_ids, tiny_config, tiny_model

from tfkit.model.transformer import Transformer, build

models = pytest.mark.parametrize("name", MODELS)
ALL_DROPPED = {"embedding": 0.2, "attention": 0.3, "residual": 0.4}


@models
@pytest.mark.parametrize("place", ALL_DROPPED)
@torch.no_grad()
def test_dropout_acts_in_training_only(name: str, place: str) -> None:
    model, ids = tiny_model(name, dropout={place: ALL_DROPPED[place]}), random_ids(2, 9)
    for plain in (tiny_model(name), tiny_model(name).train()):
        assert torch.equal(model(ids).hidden, plain(ids).hidden)
    model.train()
    torch.manual_seed(1)
    first = model(ids).hidden
    second = model(ids).hidden
    torch.manual_seed(1)
    assert torch.equal(model(ids).hidden, first)
    assert not torch.allclose(first, second)


@models
@pytest.mark.parametrize("dropout", [{}, ALL_DROPPED])
def test_activation_checkpointing_gives_the_same_gradients(name: str, dropout: dict[str, float]) -> None:
    model = tiny_model(name, dropout=dropout).train()
    gradients = []
    for checkpointing in (False, True):
        model.decoder.activation_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(7)
        model(random_ids(2, 9)).logits.square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_activation_checkpointing_computes_blocks_again_where_gradients_are_asked_for(training: bool) -> None:
    """Also without dropout, which is the training of preferences; an evaluation has none."""
    model = tiny_model("llama").train(training)
    model.decoder.activation_checkpointing = True
    calls: list[nn.Module] = []
    for block in model.decoder.blocks:
        block.mlp.register_forward_pre_hook(lambda module, _inputs: calls.append(module))
    with torch.no_grad():
        model(random_ids(1, 5))
    assert len(calls) == len(model.decoder.blocks)
    model(random_ids(1, 5)).logits.sum().backward()
    assert len(calls) == len(model.decoder.blocks) * 3


def test_a_tied_matrix_is_one_parameter_also_after_copies_conversions_and_loading() -> None:
    tied, untied = tiny_model("llama", head={"tied": True}), tiny_model("llama")
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 53 * 24
    assert untied.state_dict().keys() - tied.state_dict().keys() == {"head.output.weight"}
    other = copy.deepcopy(tied)
    assert other.head.weight is not tied.head.weight
    for model in (tied, other, other.to(torch.float64)):
        assert model.head.weight is model.embedding.tokens.weight
    other.load_state_dict({name: tensor + 1 for name, tensor in tied.state_dict().items()}, assign=True)
    assert torch.equal(other.head.weight, tied.embedding.tokens.weight + 1)


@models
def test_the_seed_decides_the_weights(name: str) -> None:
    one, same, other = (build(tiny_config(name), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["embedding.tokens.weight"], other["embedding.tokens.weight"])


@pytest.mark.parametrize("scaling", [False, True])
def test_random_weights_have_the_stated_spread(scaling: bool) -> None:
    init = {"std": 0.02, "residual_scaling": scaling}
    model = build(tiny_config("gpt2", dim=96, hidden_dim=None, decoder_layers=8, init=init), seed=1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1 if name.endswith("norm.weight") else 0)).all(), name
            continue
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = 0.02 / math.sqrt(2 * 8) if scaling and writes else 0.02
        assert parameter.std().item() == pytest.approx(std, rel=0.06), name
        assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name


def test_logits_are_made_when_first_read_and_once() -> None:
    model = tiny_model("llama")
    calls: list[nn.Module] = []
    model.head.register_forward_hook(lambda module, _inputs, _output: calls.append(module))
    output = model(random_ids(1, 4))
    assert not calls
    assert output.logits is output.logits
    assert len(calls) == 1


def test_parameters_are_named_for_their_place() -> None:
    """Checkpoints of our own type and the rules of the families hold these names."""
    model = Transformer(tiny_config("gpt2", decoder_layers=1))
    block = "decoder.blocks.0."
    attention = [f"{block}self_attention.op.{name}_proj" for name in "qkvo"]
    mlp = [f"{block}mlp.op.{name}_proj" for name in ("up", "down")]
    norms = [f"{block}self_attention.norm", f"{block}mlp.norm", "decoder.norm"]
    with_bias = {f"{name}.{part}" for name in (*attention, *mlp, *norms) for part in ("weight", "bias")}
    assert set(model.state_dict()) == with_bias | {"embedding.tokens.weight", "embedding.positions.weight"}
