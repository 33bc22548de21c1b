"""Where sentences end, and that a stream with sentences has the ids of one without."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sources import opened
from tiny_streams import write_texts

from tfkit.data import TokenStream, token_stream
from tfkit.data.store.token_stream import split_sentences
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_tokenizer

CUTS = [
    ("One. Two.", ["One.", " Two."]),
    ("He said “no.” Then he left!", ["He said “no.”", " Then he left!"]),
    ("Fruit, e.g. apples. (Pears too.)", ["Fruit, e.g. apples.", " (Pears too.)"]),
    ("def f(x):\n    return x.y\n\nf(1.5)\n", ["def f(x):", "\n    return x.y", "\n\nf(1.5)", "\n"]),
    ("no end", ["no end"]),
    ("", [""]),
    ("晴れ。雨！", ["晴れ。", "雨！"]),
    ("What?! Yes…  \n no", ["What?!", " Yes…", "  \n no"]),
]
PARTS = st.sampled_from(["a", "Bc", ".", "?", " ", "\n", "\t", ")", "”", "。", "é", "\u0301", "[MASK]", "\r", "\x00"])


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_tokenizer(TokenizerSection(kind="wordpiece", vocab_size=120), ["some words. Other (words)? A line\nof code.x = 1 。é"] * 9)


@pytest.mark.parametrize(("text", "sentences"), CUTS)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("text", ["." * 300_000, " ." * 150_000, "." + ")" * 300_000, "a" + " " * 300_000, "." + "\n " * 150_000])
def test_a_text_that_never_ends_takes_no_longer(text: str) -> None:
    """Where the pattern tried each beginning of a run, this would take minutes."""
    start = time.process_time()
    assert "".join(split_sentences(text)) == text
    assert time.process_time() - start < 2


def streams(folder: Path, texts: list[str], tokenizer: Tokenizer) -> tuple[TokenStream, TokenStream]:
    source = opened(write_texts(folder, texts))
    return token_stream(source, tokenizer), token_stream(source, tokenizer, sentences=True)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(texts=st.lists(st.lists(PARTS, max_size=30).map("".join), min_size=1, max_size=5).filter(any))
def test_a_stream_with_sentences_has_the_ids_of_one_without(
    tmp_path_factory: pytest.TempPathFactory, wordpiece: Tokenizer, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("sentences")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFKIT_CACHE", str(folder / "cache"))
        plain, cut = streams(folder, texts, wordpiece)
    assert plain.tokens.tolist() == cut.tokens.tolist()
    assert plain.starts.tolist() == cut.starts.tolist()
    wanted = []
    for start, text in zip(cut.starts.tolist(), filter(None, texts), strict=False):
        place = start + 1
        for sentence in split_sentences(text):
            ids = wordpiece.encode_texts([sentence])[0][1:-1]
            wanted += [place] if ids else []
            place += len(ids)
    assert ([] if cut.sentences is None else cut.sentences.tolist()) == wanted


def test_streams_with_and_without_sentences_are_two_in_the_cache(
    tmp_path: Path, wordpiece: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    texts = ["One. Two.", "some words"]
    plain, cut = streams(tmp_path, texts, wordpiece)
    assert plain.fingerprint != cut.fingerprint
    assert plain.sentences is None
    again = streams(tmp_path, texts, wordpiece)
    assert [one.cached for one in again] == [True, True]
    assert again[1].sentences.tolist() == cut.sentences.tolist()
    assert len(cut.sentences) == 3
