"""Streams of text over real tokenizers: whole characters, and stop strings; behind odd prompts for every kind of tokenizer."""

import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from tfkit.generation.partial_text import TextStream, complete_text_after, context_of, text_after
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level() -> Backend:
    """Single bytes and a few merges, one of which joins the second half of one character with the first half of the next."""
    straddling = [a + b for a, b in [(_shown("é")[1], _shown("ü")[0]), ("h", "e"), ("l", "l")]]
    pieces = [*ALPHABET, *straddling]
    merges = [(piece[0], piece[1]) for piece in straddling]
    tokenizer = Backend(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _shown(text: str) -> str:
    """The text's bytes as the letters that byte-level BPE writes for them."""
    [(shown, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return shown


def byte_fallback() -> Backend:
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257, "b": 258, "▁a": 259, "ab": 260}
    tokenizer = Backend(models.BPE(vocab=vocab, merges=[("▁", "a"), ("a", "b")], byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def stream_of(tokenizer: Backend, prompt: str = "", stop=()) -> TextStream:
    return TextStream(tokenizer.decode, context_of(tokenizer.decode, tokenizer.encode(prompt).ids) if prompt else [], stop)


def run(stream: TextStream, ids) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.close()]


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()], ids=["byte level", "byte fallback"])
@given(text=st.text(st.sampled_from("ab éüñ世界🙂\n"), min_size=1, max_size=80))
def test_the_pieces_are_whole_characters_and_join_to_the_text(tokenizer, text):
    text = "b" + text  # the decoders drop a space that begins a text
    pieces = run(stream_of(tokenizer), tokenizer.encode(text).ids)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_characters_come_as_soon_as_they_are_whole():
    tokenizer = byte_level()
    assert run(stream_of(tokenizer), tokenizer.encode("aé🙂b").ids) == ["a", "", "é", "", "", "", "🙂", "b", ""]
    straddling = tokenizer.encode("éüb").ids
    assert len(straddling) == 4
    assert run(stream_of(tokenizer), straddling) == ["", "é", "ü", "b", ""]


def test_a_space_after_the_prompt_is_kept():
    tokenizer = byte_fallback()
    ids = tokenizer.encode("b ab").ids
    prompt = tokenizer.encode("b").ids
    assert ids[: len(prompt)] == prompt
    assert tokenizer.decode(ids[len(prompt) :]) == "ab"  # what decoding on its own would lose
    assert "".join(run(stream_of(tokenizer, "b"), ids[len(prompt) :])) == " ab"


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()], ids=["byte level", "byte fallback"])
def test_random_bytes_give_text_and_end(tokenizer):
    random_ids = random.Random(5)
    for _ in range(20):
        ids = [random_ids.randrange(256) for _ in range(100)]
        stream = stream_of(tokenizer)
        assert "".join(run(stream, ids)) == stream.text
        assert stream.text


def test_long_texts_are_decoded_by_the_window():
    tokenizer = byte_level()
    decoded = []

    def decode(ids):
        decoded.append(len(ids))
        return tokenizer.decode(ids)

    text = "a世é" * 300
    assert "".join(run(TextStream(decode), tokenizer.encode(text).ids)) == text
    assert max(decoded) < 50


def test_stop_strings():
    tokenizer = byte_level()
    for text, stop, expected in (
        *(("hello world", ["o w"], "hell"), ("hello world", ["xyz", "ld"], "hello wor")),  # spans tokens
        ("hello world", ["world!"], "hello world"),  # held back to the end, then given
        *(("aaab", ["aab"], "a"), ("hello", ["h"], ""), ("one\n\ntwo", ["\n\n"], "one")),  # the first overlaps itself
        *(("ab", ["b", "ab"], ""), ("na世界🙂!", ["界🙂"], "na世")),  # the one that begins first wins
        ("hello", [""], "hello"),  # an empty string stops nothing
    ):
        stream = stream_of(tokenizer, stop=stop)
        pieces = run(stream, tokenizer.encode(text).ids)
        assert "".join(pieces) == stream.text == expected
        assert stream.stopped is (text != expected)
        assert not stream.stopped or stream.push(0) == ""


@given(text=st.text("ab", max_size=30), stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_no_piece_has_to_be_taken_back(text, stop):
    tokenizer = byte_level()
    cut = min((at for at in map(text.find, stop) if at >= 0), default=len(text))
    first_end = min((at + len(s) for s in stop if (at := text.find(s)) >= 0), default=None)
    stream = stream_of(tokenizer, stop=stop)
    given_out = "".join(run(stream, tokenizer.encode(text).ids))
    assert text.startswith(given_out)
    assert not any(s in given_out for s in stop)
    if first_end is None:
        assert given_out == text
    else:  # the string that is complete first decides, and it may begin after another that is complete later
        assert len(given_out) >= cut


def test_a_prompt_is_not_searched_for_stop_strings():
    tokenizer = byte_level()
    assert "".join(run(stream_of(tokenizer, "stop", ["stop", "pa"]), tokenizer.encode("abc").ids)) == "abc"


KINDS = ["byte_bpe", "bpe_byte_fallback", "unigram", "wordpiece", "bpe_eow"]
CORPUS = ["the cat sat on the mat, and a dog ran.", "das Mädchen läuft", "日本語の本", "def f(x):\n    return x", "a b c d e f g"] * 8
PARTS = [
    *("the cat", " ", "  ", "\n", "\t", "த", "தமிழ்", "龘", "靐龗", "🙂", "e\u0301", "ä", "日本", ".", "##", "▁", "\ufffd", "\u200b"),
    *("x", "<s>"),
]
PROMPTS_EACH = 400


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest) -> Tokenizer:
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
def test_a_stream_is_what_the_whole_decodes_to(trained: Tokenizer) -> None:
    rng = random.Random(4)
    special, compared = special_ids(trained), 0
    for _ in range(PROMPTS_EACH):
        ids = trained.encode_texts([odd_text(rng) + odd_text(rng)])[0]
        ids = [*ids[: rng.randrange(len(ids) + 1)], *rng.choices(special or ids, k=rng.choice([0, 0, 0, 1, 9])), *ids]
        cut = rng.randrange(len(ids) + 1)
        prompt, completion = ids[:cut], ids[cut:] + [rng.randrange(trained.size) for _ in range(rng.choice([0, 0, 6]))]
        before, whole = (trained.decode(part, skip_special_tokens=True) for part in (prompt, prompt + completion))
        if before.endswith("\ufffd") or not whole.startswith(before):
            continue  # cut inside a character, or a wrong byte that changes the prompt's own last characters
        compared += 1
        assert streamed(trained, prompt, completion).text == whole[len(before) :]
    assert compared > PROMPTS_EACH * 0.4


@pytest.mark.sampled(3)
def test_stop_strings_are_found_behind_every_prompt(trained: Tokenizer) -> None:
    rng = random.Random(5)
    decode = partial(trained.decode, skip_special_tokens=True)
    found = 0
    for _ in range(PROMPTS_EACH):
        ids = trained.encode_texts([f"{odd_text(rng)}தமிழ்{odd_text(rng)}cat"])[0]
        cut = rng.randrange(len(ids))
        prompt, made = ids[:cut], ids[cut:]
        before, whole = decode(prompt), decode(ids)
        text = whole[len(before) :]
        if before.endswith("\ufffd") or not text:
            continue
        stop = rng.choice([piece for piece in (text[-1:], text[2:4], "cat") if piece])
        stream = streamed(trained, prompt, made, [stop])
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


def test_a_long_row_of_special_tokens_is_no_context(trained: Tokenizer) -> None:
    special = special_ids(trained)
    if not special:
        pytest.skip("no special tokens")
    prompt = [*trained.encode_bare(["the cat"])[0].tolist(), *special[:1] * 20]
    [made] = trained.encode_bare([" sat"])
    whole, before = (trained.decode(ids, skip_special_tokens=True) for ids in ([*prompt, *made.tolist()], prompt))
    assert streamed(trained, prompt, [*special[:1] * 50, *made.tolist()]).text == whole[len(before) :]
