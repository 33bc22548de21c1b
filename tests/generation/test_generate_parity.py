"""Greedy decoding beside transformers' own, on the folder that tfkit writes."""

import pytest
import torch
from tiny_writers import PROMPTS, START, WRITERS, greedy, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tfkit.generation.decoding import generate
from tfkit.hub import load, save_model


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.4, "no_repeat_ngram": 2}])
@pytest.mark.parametrize("family", WRITERS)
def test_greedy_is_transformers_greedy(tmp_path, family, changes):
    ours = tiny_model(family)
    ids = {"pad_token_id": START, "decoder_start_token_id": START}
    save_model(tmp_path, ours.config, ours.state_dict(), None, family=family, special_ids=ids)
    both = ours.encoder is not None
    theirs = (AutoModelForSeq2SeqLM if both else AutoModelForCausalLM).from_pretrained(tmp_path)
    loaded = load(tmp_path)
    settings = greedy(25, **changes)
    made = generate(loaded.model, PROMPTS, settings, start_id=loaded.start_id)
    for prompt, completion in zip(PROMPTS, made, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=25,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram or 0,
        )
        assert completion.ids == expected[0, 1 if both else len(prompt) :].tolist()
