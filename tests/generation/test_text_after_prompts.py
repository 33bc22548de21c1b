"""Completions behind odd prompts, for every kind of tokenizer: the streamed text is that of the whole decoded; stop strings are found."""

import random
from functools import partial

import pytest

from tfkit.generation.partial_text import TextStream, complete_text_after, context_of, text_after
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_tokenizer

KINDS = ["byte_bpe", "bpe_byte_fallback", "unigram", "wordpiece", "bpe_eow"]
CORPUS = ["the cat sat on the mat, and a dog ran.", "das Mädchen läuft", "日本語の本", "def f(x):\n    return x", "a b c d e f g"] * 8
PARTS = [
    *("the cat", " ", "  ", "\n", "\t", "த", "தமிழ்", "龘", "靐龗", "🙂", "e\u0301", "ä", "日本", ".", "##", "▁", "\ufffd", "\u200b"),
    *("x", "<s>"),
]
PROMPTS_EACH = 400


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TokenizerSection(kind=request.param, vocab_size=420), CORPUS)


def odd_text(rng: random.Random) -> str:
    return "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 9)))


def streamed(tokenizer: Tokenizer, prompt: list[int], ids: list[int], stop: list[str] | None = None) -> TextStream:
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    stream = TextStream(decode, context_of(decode, prompt), stop or [], tokenizer.byte_ids)
    pieces = [stream.push(token) for token in ids]
    pieces.append(stream.close())
    assert "".join(pieces) == stream.text
    return stream


def special_ids(tokenizer: Tokenizer) -> list[int]:
    return [token for token, added in tokenizer.backend.get_added_tokens_decoder().items() if added.special]


@pytest.mark.sampled(3)
def test_a_stream_is_what_the_whole_decodes_to(tokenizer: Tokenizer) -> None:
    rng = random.Random(4)
    special, compared = special_ids(tokenizer), 0
    for _ in range(PROMPTS_EACH):
        ids = tokenizer.encode_texts([odd_text(rng) + odd_text(rng)])[0]
        ids = [*ids[: rng.randrange(len(ids) + 1)], *rng.choices(special or ids, k=rng.choice([0, 0, 0, 1, 9])), *ids]
        cut = rng.randrange(len(ids) + 1)
        prompt, completion = ids[:cut], ids[cut:] + [rng.randrange(tokenizer.size) for _ in range(rng.choice([0, 0, 6]))]
        before, whole = (tokenizer.decode(part, skip_special_tokens=True) for part in (prompt, prompt + completion))
        if before.endswith("\ufffd") or not whole.startswith(before):
            continue  # cut inside a character, or a wrong byte that changes the prompt's own last characters
        compared += 1
        assert streamed(tokenizer, prompt, completion).text == whole[len(before) :]
    assert compared > PROMPTS_EACH * 0.4


@pytest.mark.sampled(3)
def test_stop_strings_are_found_behind_every_prompt(tokenizer: Tokenizer) -> None:
    rng = random.Random(5)
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    found = 0
    for _ in range(PROMPTS_EACH):
        ids = tokenizer.encode_texts([f"{odd_text(rng)}தமிழ்{odd_text(rng)}cat"])[0]
        cut = rng.randrange(len(ids))
        prompt, made = ids[:cut], ids[cut:]
        before, whole = decode(prompt), decode(ids)
        text = whole[len(before) :]
        if before.endswith("\ufffd") or not text:
            continue
        stop = rng.choice([piece for piece in (text[-1:], text[2:4], "cat") if piece])
        stream = streamed(tokenizer, prompt, made, [stop])
        assert stream.stopped is (stop in text)
        assert stream.text == text.partition(stop)[0]
        assert text_after(decode, context_of(decode, prompt), made) == text
        assert complete_text_after(decode, context_of(decode, prompt), made) == text.rstrip("\ufffd")
        found += stream.stopped
    assert found > PROMPTS_EACH * 0.25


def test_wrong_bytes_behind_a_prompt_change_nothing_of_what_follows() -> None:
    tokenizer = train_tokenizer(TokenizerSection(kind="bpe_byte_fallback", vocab_size=420), CORPUS)
    [prompt], [made] = tokenizer.encode_texts(["the தமிழ்"]), tokenizer.encode_bare([" the cat"])
    wrong = tokenizer.backend.token_to_id("<0xAE>")
    assert set(prompt[-3:]) <= tokenizer.byte_ids
    assert streamed(tokenizer, prompt, [wrong, *map(int, made)]).text == tokenizer.decode([wrong, *map(int, made)])
    assert streamed(tokenizer, prompt, [wrong, *map(int, made)], ["cat"]).stopped


def test_a_long_row_of_special_tokens_is_no_context(tokenizer: Tokenizer) -> None:
    special = special_ids(tokenizer)
    if not special:
        pytest.skip("no special tokens")
    prompt = [*tokenizer.encode_bare(["the cat"])[0].tolist(), *special[:1] * 20]
    [made] = tokenizer.encode_bare([" sat"])
    whole, before = (tokenizer.decode(ids, skip_special_tokens=True) for ids in ([*prompt, *made.tolist()], prompt))
    assert streamed(tokenizer, prompt, [*special[:1] * 50, *made.tolist()]).text == whole[len(before) :]
