"""Greedy decoding beside transformers' own, on the folder that tfkit writes."""

import pytest
import torch
from tiny_writers import DECODERS, PROMPTS, greedy, tiny_model
from transformers import AutoModelForCausalLM

from tfkit.generation.decoding import generate
from tfkit.hub import load, save_model


@pytest.mark.parametrize("family", DECODERS)
def test_greedy_is_transformers_greedy(tmp_path, family):
    ours = tiny_model(family)
    save_model(tmp_path, ours.config, ours.state_dict(), None, family=family)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    made = generate(load(tmp_path).model, PROMPTS, greedy(25))
    for prompt, completion in zip(PROMPTS, made, strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=25, pad_token_id=0)
        assert completion.ids == expected[0, len(prompt) :].tolist()
