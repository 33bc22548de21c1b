"""GPT's and GPT-2's further heads: scores of choices, classes and rewards of texts of unequal lengths, tags; files as they lie about."""

from pathlib import Path

import pytest
import torch
from tiny_files import read_by
from tiny_references import CASES, IDS, LARGE, TOLERANCE, difference, save_reference
from transformers import AutoModelForSequenceClassification, GPT2ForSequenceClassification

from tfkit.families import PRESETS
from tfkit.hub import load, save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build

CLASSES = [name for name, case in CASES.items() if "ForSequence" in case.model.__name__ and case.inputs.keys() == {"input_ids"}]
LENGTHS = (23, 9)
_RIGHT = torch.tensor([[place < length for place in range(23)] for length in LENGTHS])
SIDES = {"right": _RIGHT, "left": _RIGHT.flip(1)}  # where the padding is; True = real token


@pytest.mark.sampled(5)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CLASSES)
@torch.no_grad()
def test_classes_of_texts_of_unequal_lengths(tmp_path: Path, case: str, side: str) -> None:
    """Of every decoder that has such a class."""
    theirs = save_reference(tmp_path, case)
    real = SIDES[side]
    ids = IDS.masked_fill(~real, theirs.config.pad_token_id)
    positions = (real.long().cumsum(1) - 1).clamp(min=0)  # transformers' GPT would count the padding
    expected = theirs(ids, attention_mask=real.long(), position_ids=positions).logits
    model = load(tmp_path).model
    logits = model(ids, padding_mask=real).logits
    assert difference(logits, expected) < TOLERANCE
    for row in range(2):  # and each as it is alone
        assert difference(model(ids[row][real[row]][None]).logits[0], logits[row]) < TOLERANCE
    if side == "right":
        assert difference(model(ids).logits[1], expected[1]) > 100 * TOLERANCE  # at the padding is something else


@pytest.mark.parametrize("case", ["gpt with two heads", "gpt2 with two heads"])
@torch.no_grad()
def test_a_choice_is_scored_at_the_last_real_token(tmp_path: Path, case: str) -> None:
    theirs = save_reference(tmp_path, case)
    real = SIDES["right"]
    last = torch.tensor(LENGTHS) - 1
    expected = theirs(IDS[None], mc_token_ids=last[None]).mc_logits  # what is after a token changes nothing
    scores = load(tmp_path).model(IDS, padding_mask=real).extra_logits
    assert difference(scores.squeeze(-1), expected[0]) < TOLERANCE


@torch.no_grad()
def test_a_reward_model_made_here_is_opened_by_transformers(tmp_path: Path) -> None:
    """InstructGPT's: GPT-3 with a number in place of the logits; without windows transformers has a class for it."""
    tiny = {"vocab_size": 97, "decoder_layers": 2, "dim": 24, "num_heads": 3, "context_length": 40, "init": {"std": LARGE}}
    reward = {"head": {"kind": "classes", "count": 1, "pool": "last"}, "attention": {"qkv_bias": True, "out_bias": True}}
    model = build(ModelConfig.model_validate(PRESETS["gpt3-1.3b"][1] | tiny | reward), seed=3).eval()
    save_model(tmp_path, model.config, model.state_dict(), None, family="gpt3", special_ids={"pad_token_id": 1})
    theirs = read_by(AutoModelForSequenceClassification, tmp_path)
    assert type(theirs) is GPT2ForSequenceClassification
    assert theirs.score.weight.shape == (1, 24)
    real = SIDES["right"]
    ids = IDS.masked_fill(~real, 1)
    rewards = model(ids, padding_mask=real).logits
    assert difference(rewards, theirs(ids, attention_mask=real.long()).logits) < TOLERANCE
    assert load(tmp_path).config == model.config
