"""Texts around the border between the two sets of wavelengths of longrope, which Phi-3 128 k and Phi-4-mini have: here 16 tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import edit_config
from tiny_references import IDS, TOLERANCE, difference, save_reference
from torch import Tensor
from transformers import PreTrainedModel

from tfkit.errors import DataError, ModelError
from tfkit.generation.decoding import generate
from tfkit.hub import load
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.output_sections import GenerationSection

BORDER = 16
CASE = "phi3 with longrope, short"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("longrope")
    theirs = save_reference(folder, CASE)
    edit_config(folder, original_max_position_embeddings=BORDER)
    return load(folder).model, type(theirs).from_pretrained(folder)


def alone(model: Transformer, row: int, length: int) -> Tensor:
    return model(IDS[row : row + 1, :length]).logits[0]


@pytest.mark.parametrize("length", [BORDER - 1, BORDER, BORDER + 1, 23])
@torch.no_grad()
def test_a_text_has_the_wavelengths_of_its_length(models: tuple[Transformer, PreTrainedModel], length: int) -> None:
    ours, theirs = models
    assert difference(ours(IDS[:, :length]).logits, theirs(IDS[:, :length]).logits) < TOLERANCE
    short, long = ours(IDS[:, :BORDER]).logits, ours(IDS[:, : BORDER + 1]).logits[:, :BORDER]
    assert difference(short, long) > 0.1  # the other set, at all tokens


@torch.no_grad()
def test_texts_do_not_change_each_others_wavelengths(models: tuple[Transformer, PreTrainedModel]) -> None:
    """In a batch, padded on either side, and in a packed row. (In a batch of transformers the longest text decides for all.)"""
    ours, _ = models
    short = 9
    for first in (0, 23 - short):
        mask = torch.ones_like(IDS, dtype=torch.bool)
        mask[0] = False
        mask[0, first : first + short] = True
        ids = IDS.clone()
        ids[0, first : first + short] = IDS[0, :short]
        logits = ours(ids, padding_mask=mask).logits
        assert difference(logits[0, first : first + short], alone(ours, 0, short)) < TOLERANCE
        assert difference(logits[1], alone(ours, 1, 23)) < TOLERANCE
    packed = torch.cat((IDS[:1, :short], IDS[1:, :20]), dim=1)
    documents = torch.tensor([[0] * short + [1] * 20])
    logits = ours(packed, document_ids=documents).logits[0]
    assert difference(logits[:short], alone(ours, 0, short)) < TOLERANCE
    assert difference(logits[short:], alone(ours, 1, 20)) < TOLERANCE


@torch.no_grad()
def test_a_text_that_is_generated_does_not_cross_the_border(models: tuple[Transformer, PreTrainedModel]) -> None:
    """At the border transformers computes the text anew, with the other wavelengths, and goes on."""
    ours, theirs = models
    prompts = [IDS[0, :9].tolist(), IDS[1, :15].tolist(), IDS[0, :BORDER].tolist(), IDS[1, : BORDER + 1].tolist(), IDS[0].tolist()]
    new = [BORDER - 9, 1, 1, 12, 12]
    for at_once in (None, 2):
        found = generate(ours, prompts, GenerationSection(max_new_tokens=12, temperature=0.0), at_once=at_once)
        assert [(len(one.ids), one.finish) for one in found] == [(count, "length") for count in new]
        for prompt, one in zip(prompts, found, strict=True):
            ids = torch.tensor([prompt])
            text = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None)
            assert one.ids == text[0, len(prompt) :][: len(one.ids)].tolist()
    with pytest.raises(DataError, match="the model's context holds 64"):
        generate(ours, [[5] * 64], GenerationSection(max_new_tokens=2))


@pytest.mark.parametrize("rope", [{}, {"factor": 9.0}, {"factor": 0.5}, {"attention_factor": 2.0}], ids=str)
@torch.no_grad()
def test_the_factor_of_the_attention(tmp_path: Path, rope: dict[str, Any]) -> None:
    theirs = save_reference(tmp_path, CASE)
    stated = {name: theirs.config.rope_parameters[name] for name in ("rope_type", "short_factor", "long_factor", "rope_theta")}
    edit_config(tmp_path, rope_parameters=stated | rope, original_max_position_embeddings=BORDER)
    expected = type(theirs).from_pretrained(tmp_path)(IDS).logits
    assert difference(load(tmp_path).model(IDS).logits, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_factor": [1.0]}, "short_factors has 1 values, but a head has 4 pairs"),
        ({"long_factor": [1.0] * 5}, "long_factors has 5 values, but a head has 4 pairs"),
        ({"attention_factor": None, "factor": "two"}, "no valid attention_factor of longrope"),
        ({"attention_factor": None, "factor": -1.0}, "no valid attention_factor of longrope"),
        ({"attention_factor": None, "original_max_position_embeddings": 0.5}, "no valid attention_factor of longrope"),
        ({"long_factor": ["a"] * 4}, "long_factors"),
    ],
)
def test_factors_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    theirs = save_reference(tmp_path, CASE)
    original = changes.get("original_max_position_embeddings", BORDER)
    edit_config(tmp_path, rope_parameters=theirs.config.rope_parameters | changes, original_max_position_embeddings=original)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)
