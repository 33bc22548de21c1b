"""A model whose blocks get their weights one after the other has the bits of one that is made whole: random ones and those of a file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tfkit.adapters import add_lora
from tfkit.families import PRESETS
from tfkit.hub import load, open_tensors, save_model
from tfkit.model.config import ClassesHeadConfig, ModelConfig
from tfkit.model.stack import Block
from tfkit.model.transformer import Transformer, build, with_fewer_positions, with_more_entries
from tfkit.recipe.schema.sections import LoraSection

TINY: dict[str, Any] = {"dim": 24, "num_heads": 3, "hidden_dim": 40}
MODELS = {
    "gpt2": {"context_length": 24, "decoder_layers": 3},  # whose file has q, k and v as one, transposed
    "llama-7b": {"context_length": 24, "decoder_layers": 2},  # untied: its output matrix is drawn after the blocks
    "bert-base-uncased": {"context_length": 24, "encoder_layers": 2},
    "t5-small": {"encoder_layers": 2, "decoder_layers": 2, "head_dim": 8},  # with numbers between the blocks of its two stacks
}


def config_of(preset: str) -> ModelConfig:
    name = preset if preset in PRESETS else next(one for one in PRESETS if one.startswith(preset.split("-")[0]))
    return ModelConfig.model_validate(PRESETS[name][1] | {"vocab_size": 60} | TINY | MODELS[preset])


def filled(model: Transformer) -> Transformer:
    """Give the blocks their weights, in their order, as ranks that share them do."""
    blocks = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, Block)}
    assert all(parameter.is_meta for block in blocks.values() for parameter in block.parameters())
    for name, block in blocks.items():
        model.fill_block(name, block)
    return model


def assert_same(found: Transformer, whole: Transformer) -> None:
    ours, theirs = dict(found.named_parameters()), dict(whole.named_parameters())
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        assert torch.equal(ours[name], parameter), name
        assert ours[name].requires_grad == parameter.requires_grad, name
        assert ours[name].is_contiguous(), name


@pytest.mark.parametrize("preset", MODELS)
@pytest.mark.parametrize("adapter", [False, True])
def test_random_blocks(preset: str, adapter: bool) -> None:
    whole, later = (build(config_of(preset), 3, defer_blocks=part) for part in (False, True))
    if adapter:
        for model in (whole, later):
            add_lora(model, LoraSection(rank=2, targets=["q_proj", "down_proj"]), 1)
    assert_same(filled(later), whole)


@pytest.mark.parametrize("preset", MODELS)
def test_blocks_of_a_file(preset: str, tmp_path: Path) -> None:
    model = build(config_of(preset), 3)
    save_model(tmp_path, model.config, model.state_dict(), None)
    assert_same(filled(load(tmp_path, defer_blocks=True).model), load(tmp_path).model)
    with pytest.raises(ValueError, match=r"to the CPU in float32, not to cpu in torch\.bfloat16"):
        load(tmp_path, defer_blocks=True, dtype=torch.bfloat16)
    with open_tensors(tmp_path) as tensors:
        assert {*tensors} == {*model.state_dict()}
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensors[name], tensor), name


def test_blocks_of_a_file_beside_a_new_head_and_other_tables(tmp_path: Path) -> None:
    model = build(config_of("gpt2"), 3)
    save_model(tmp_path, model.config, model.state_dict(), None)
    head = ClassesHeadConfig(kind="classes", count=3, pool="last")
    whole, later = (load(tmp_path, head=head, seed=5, defer_blocks=part) for part in (False, True))
    assert later.new_parameters == whole.new_parameters != ()
    assert_same(
        filled(with_fewer_positions(with_more_entries(later.model, 64, 7), 12)),
        with_fewer_positions(with_more_entries(whole.model, 64, 7), 12),
    )
