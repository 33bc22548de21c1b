import pytest
from tiny_writers import greedy, tiny_model

from tfkit.errors import ModelError
from tfkit.generation.complete import complete
from tfkit.generation.decoding import generate
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.recipe.schema import GenerationSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe


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

    completions = complete(model, tokenizer, PROMPTS, settings, eos_ids=[tokenizer.eos_id], on_text=on_text)
    for row, (completion, expected) in enumerate(zip(completions, made, strict=True)):
        assert completion.text == tokenizer.decode(ids[row] + expected.ids)[len(tokenizer.decode(ids[row])) :] == pieces[row]
        assert (completion.tokens, completion.finish) == (len(expected.ids), expected.finish)


def test_a_stop_string_ends_the_row_where_it_begins(model, tokenizer):
    [free, *_] = complete(model, tokenizer, PROMPTS, greedy(40))
    assert free.finish == "length"
    stop = free.text[5:8]
    at = free.text.find(stop)
    [stopped, *others] = complete(model, tokenizer, PROMPTS, greedy(40, stop=["never said", stop]))
    assert (stopped.text, stopped.finish) == (free.text[:at], "stop")
    assert stopped.tokens < free.tokens
    assert len(others) == 3


def test_a_tokenizer_of_another_model(tokenizer):
    with pytest.raises(ModelError, match=r"id \d+, but the model's vocabulary has 53 entries"):
        complete(tiny_model("gpt2"), tokenizer, ["the cat"], greedy())
