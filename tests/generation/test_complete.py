from functools import partial

import pytest
import torch
from tiny_writers import complete_texts, greedy, tiny_model

from tfkit.errors import ModelError
from tfkit.generation.decoding import generate
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_bpe(["the cat sat on the mat; das Mädchen aß Brötchen 🙂 世界"] * 3, 300, add_bos=True)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = tiny_model("llama").config.model_dump() | {"vocab_size": tokenizer.size, "context_length": 64}
    return build(ModelConfig.model_validate(config), seed=5)


PROMPTS = ["the cat", "", "世", "das Mädchen"]


@pytest.mark.parametrize("settings", [greedy(40), GenerationSection(max_new_tokens=40, seed=2)])
def test_the_text_is_that_of_the_ids(model, tokenizer, settings):
    ids = tokenizer.encode_texts(PROMPTS)
    assert ids[1] == [tokenizer.bos_id]
    made = generate(model, ids, settings, eos_ids=[tokenizer.eos_id])
    pieces = dict.fromkeys(range(len(PROMPTS)), "")

    def on_text(row, piece):
        assert piece
        pieces[row] += piece

    completions = complete_texts(model, tokenizer, PROMPTS, settings, eos_ids=[tokenizer.eos_id], on_text=on_text)
    for row, (completion, expected) in enumerate(zip(completions, made, strict=True)):
        assert completion.text == tokenizer.decode(ids[row] + expected.ids)[len(tokenizer.decode(ids[row])) :] == pieces[row]
        assert (completion.tokens, completion.finish) == (len(expected.ids), expected.finish)


def test_a_stop_string_ends_the_row_where_it_begins(model, tokenizer):
    [free, *_] = complete_texts(model, tokenizer, PROMPTS, greedy(40))
    assert free.finish == "length"
    stop = free.text[5:8]
    at = free.text.find(stop)
    [stopped, *others] = complete_texts(model, tokenizer, PROMPTS, greedy(40, stop=["never said", stop]))
    assert (stopped.text, stopped.finish) == (free.text[:at], "stop")
    assert stopped.tokens < free.tokens
    assert len(others) == 3


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    """T5's: a text ends in </s>, and begins without the space of its first piece."""
    return train_tokenizer(TokenizerSection(kind="unigram", vocab_size=180), ["the cat sat on the mat; das Mädchen aß Brötchen"] * 3)


@pytest.fixture(scope="module")
def reader(pieces):
    model = tiny_model("transformer_2017", vocab_size=pieces.size, context_length=64)
    with torch.no_grad():
        model.head.bias[-100:] = -1e3  # the sentinels, which are no text
    return model


@pytest.mark.parametrize("settings", [greedy(20, no_repeat_ngram=2), GenerationSection(max_new_tokens=20, num_beams=3, no_repeat_ngram=2)])
def test_an_encoder_decoder_reads_whole_texts_and_writes_its_own(reader, pieces, settings):
    prompts = ["the cat", "a", "das Mädchen sat"]
    ids = pieces.encode_texts(prompts)
    assert {row[-1] for row in ids} == {pieces.eos_id}
    made = generate(reader, ids, settings, eos_ids=[pieces.eos_id], start_id=pieces.pad_id)
    given = dict.fromkeys(range(len(prompts)), "")

    def on_text(row, piece):
        given[row] += piece

    completions = complete_texts(reader, pieces, prompts, settings, eos_ids=[pieces.eos_id], start_id=pieces.pad_id, on_text=on_text)
    for row, (completion, expected) in enumerate(zip(completions, made, strict=True)):
        assert completion.text == given[row] == pieces.backend.decode(expected.ids, skip_special_tokens=True)
        assert (completion.tokens, completion.finish) == (len(expected.ids), expected.finish)
    assert len({completion.text for completion in completions}) == len(prompts)


@pytest.mark.parametrize(("name", "words"), [("model", "tokenizer"), ("reader", "pieces")])
def test_beam_search_ends_texts_at_stop_strings(name, words, request):
    """They compete as texts that end there: what is short wins where length costs."""
    model, tokenizer = request.getfixturevalue(name), request.getfixturevalue(words)
    give = partial(complete_texts, model, tokenizer, ["the cat", "das Mädchen", "a mat"], start_id=tokenizer.pad_id)
    settings = {"num_beams": 4, "max_new_tokens": 20, "no_repeat_ngram": 2}
    free = give(GenerationSection(**settings))
    stop = [completion.text[4:6] for completion in free]
    assert all(stop)
    stopped = give(GenerationSection(**settings, stop=stop, length_penalty=-4.0))
    assert {completion.finish for completion in stopped} == {"stop"}
    assert not any(string in completion.text for string in stop for completion in stopped)
    assert all(completion.tokens < 20 for completion in stopped)
    late = give(GenerationSection(**settings, stop=stop, length_penalty=4.0, early_stopping="never"))
    assert sum(completion.tokens for completion in late) > sum(completion.tokens for completion in stopped)


def test_a_tokenizer_of_another_model(tokenizer):
    with pytest.raises(ModelError, match=r"id \d+, but the model's vocabulary has 53 entries"):
        complete_texts(tiny_model("gpt2"), tokenizer, ["the cat"], greedy())
