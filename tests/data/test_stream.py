"""Texts as a stream of ids: its layout, its sentences, the cache of it, and the tokenizer that is trained on the texts."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import read_json
from tiny_sources import opened, write_files
from tiny_streams import write_texts
from tokenizers import AddedToken
from tokenizers import processors as post

from tfkit.data import PackedRows, TokenStream, cache_folder, sample_texts, token_stream, trained_tokenizer
from tfkit.data.columns.rows import Source
from tfkit.data.store import hashes
from tfkit.data.store import token_stream as build
from tfkit.data.store.token_stream import check_ids, split_sentences
from tfkit.errors import DataError, ModelError
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe, train_tokenizer
from tfkit.tokenizer.tokenizer import token_bytes

CORPUS = ["some text, some words\n" * 20]
WITH_BOS = train_byte_bpe(CORPUS, 300, add_bos=True)
PLAIN = train_byte_bpe(CORPUS, 300, add_bos=False)
SECTION = TokenizerSection(vocab_size=300)


def with_own_eos() -> Tokenizer:
    """bos and eos differ, as Llama's."""
    backend = WITH_BOS.backend.from_str(WITH_BOS.tokenizer_json)
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    return Tokenizer.from_json(backend.to_str(), {"bos_token": "<|endoftext|>", "eos_token": "</s>"})


def with_eos_template() -> Tokenizer:
    """The template itself ends each text with eos, as T5's."""
    backend = PLAIN.backend.from_str(PLAIN.tokenizer_json)
    backend.post_processor = post.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    return Tokenizer.from_json(backend.to_str(), {"eos_token": "<|endoftext|>"})


TOKENIZERS = {"shared": WITH_BOS, "appended": PLAIN, "own": with_own_eos(), "template": with_eos_template()}


def stream_of(folder: Path, texts: list[str], tokenizer: Tokenizer = WITH_BOS) -> TokenStream:
    return token_stream(opened(write_texts(folder, texts)), tokenizer)


LAYOUTS = {  # "a", "b" and the special tokens mean their own ids
    "shared": ["<e>", "a", "b", "<e>", "b", "<e>"],
    "appended": ["a", "b", "<e>", "b", "<e>"],
    "own": ["<e>", "a", "b", "</s>", "<e>", "b", "</s>"],
    "template": ["a", "b", "<e>", "b", "<e>"],
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_layout_of_the_stream(tmp_path: Path, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    names = {"<e>": "<|endoftext|>"}
    stream = stream_of(tmp_path, ["ab", "", "b"], tokenizer)
    assert stream.tokens.tolist() == [tokenizer.backend.token_to_id(names.get(name, name)) for name in LAYOUTS[kind]]
    assert stream.tokens[-1] == tokenizer.eos_id, "the last document's end needs a target"
    assert len(stream) == 2


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text(), min_size=1, max_size=8))
def test_documents_are_what_the_tokenizer_gives(tmp_path_factory: pytest.TempPathFactory, kind: str, texts: list[str]) -> None:
    tokenizer, kept = TOKENIZERS[kind], [text for text in texts if text]
    folder = tmp_path_factory.mktemp("stream")
    if not any(texts):
        return
    source = opened(write_texts(folder, texts))
    build.write_stream(folder, source, tokenizer)
    index = read_json(folder / "index.json")
    tokens = np.fromfile(folder / "tokens.bin", dtype=index["dtype"])
    starts, text_bytes = (np.fromfile(folder / name, dtype="<i8") for name in ("starts.bin", "text_bytes.bin"))
    stream = TokenStream("x", tokens, starts, text_bytes, index["separator"], index["max_id"], "", False)
    documents = [stream.document(i).tolist() for i in range(len(stream))]
    assert documents == tokenizer.encode_texts(kept)
    for text, ids, scored in zip(kept, documents, text_bytes, strict=True):
        first = 0 if tokenizer.prefix else token_bytes(tokenizer, ids[0])
        assert scored == len(text.encode()) - first
    assert index["max_id"] == tokens.max()
    assert index["bytes"] == sum(len(text.encode()) for text in kept)


def test_bytes_that_a_tokenizer_loses_are_scored_all_the_same(tmp_path: Path) -> None:
    """GPT's drops spaces and has one token for all unknown characters: the bytes of a document are those of its text."""
    tokenizer = train_tokenizer(TokenizerSection(kind="bpe_eow", vocab_size=200), ["Some text, some words " * 20])
    texts = ["  Some   text\n", "世 🙂 text", "ß"]
    stream = stream_of(tmp_path, texts, tokenizer)
    first = [tokenizer.backend.id_to_token(int(stream.document(i)[0])) for i in range(3)]
    assert first == ["some</w>", "<unk>", "<unk>"], "which have no target"
    assert stream.text_bytes.tolist() == [len(text.encode()) - opening for text, opening in zip(texts, (6, 3, 2), strict=True)]


def test_the_fingerprint_follows_text_and_tokenizer(tmp_path: Path) -> None:
    prints = {stream_of(tmp_path, texts, tokenizer).fingerprint for texts in (["a"], ["b"]) for tokenizer in TOKENIZERS.values()}
    assert len(prints) == 2 * len(TOKENIZERS)


@pytest.mark.thorough
def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    backend = PLAIN.backend.from_str(PLAIN.tokenizer_json)
    backend.add_tokens([f"word{i}word" for i in range(65_600)])
    tokenizer = Tokenizer.from_json(backend.to_str(), {"eos_token": "<|endoftext|>"})
    stream = stream_of(tmp_path, ["word65599word"], tokenizer)
    assert stream.tokens.dtype == np.uint32
    assert stream.max_id == stream.tokens[0] == PLAIN.size + 65_599
    with pytest.raises(ModelError, match=r"ids up to 658\d\d, the model's vocabulary ends at 65535"):
        check_ids(stream.name, stream.max_id, 65_536)
    check_ids(stream.name, stream.max_id, stream.max_id + 1)


def test_batches_do_not_show_in_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i} " * (i % 7 + 1) for i in range(50)]
    whole = stream_of(tmp_path, texts)
    monkeypatch.setattr(build, "BATCH", 100)
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "other"))
    pieces = stream_of(tmp_path, texts)
    assert not pieces.cached
    for name in ("tokens", "starts", "text_bytes"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name))


def test_the_blocks_of_a_large_file_are_compared_when_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "BLOCK", 64)
    monkeypatch.setattr(hashes, "WHOLE", 0)
    texts = ["some text", "more words " * 50]
    whole = np.array(stream_of(tmp_path, texts).tokens)
    stream = stream_of(tmp_path, texts)
    assert stream.cached
    assert isinstance(stream.tokens, hashes.HashedArray)
    file = cache_folder() / "streams" / stream.fingerprint / "tokens.bin"
    content = bytearray(file.read_bytes())
    content[200] ^= 1  # in the fourth block: ids 96 to 127
    file.write_bytes(content)
    assert stream.tokens[3:96].tolist() == whole[3:96].tolist()
    assert stream.tokens[len(whole) - 1] == whole[-1]
    assert stream.tokens[np.array([[1, 5], [95, 128]])].tolist() == whole[[[1, 5], [95, 128]]].tolist()
    assert stream.tokens[96:96].tolist() == []
    with pytest.raises(DataError, match=r"tokens.bin: damaged between byte 192 and byte 256: .* start or resume the run again"):
        stream.tokens[90:97]
    with pytest.raises(DataError, match="damaged"):
        PackedRows([(stream, 1.0)], 8, seed=1).gather(np.arange(1), np.array([12]))
    again = stream_of(tmp_path, texts)
    assert (again.cached, np.asarray(again.tokens).tolist()) == (False, whole.tolist())


def test_no_text_is_an_error(tmp_path: Path) -> None:
    source = opened(write_texts(tmp_path, ["", ""]))
    with pytest.raises(DataError, match="no text in any row"):
        token_stream(source, WITH_BOS)
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        trained_tokenizer([source], SECTION)
    assert not [*cache_folder().glob("streams/*"), *cache_folder().glob("tokenizers/*")]


def test_a_bad_row_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    rows = write_texts(tmp_path, ["fine"] * 2000)
    with rows.open("a") as file:
        file.write('{"txt": "bad"}\n')
    source = opened(rows)  # looks at the first rows only
    with pytest.raises(DataError, match=r"rows.jsonl:2001: no column 'text'"):
        token_stream(source, WITH_BOS)
    assert not list((cache_folder() / "streams").iterdir())


def test_progress_may_stop_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BATCH", 10)
    reported: list[int] = []

    def stop(count: int) -> None:
        reported.append(count)
        if len(reported) == 3:
            raise KeyboardInterrupt

    source = opened(write_texts(tmp_path, ["ten chars!"] * 9))
    with pytest.raises(KeyboardInterrupt):
        token_stream(source, WITH_BOS, stop)
    assert reported == [10, 10, 10]
    assert not list((cache_folder() / "streams").iterdir())


PARTS = st.sampled_from(["a", "Bc", ".", "?", " ", "\n", "\t", ")", "”", "。", "é", "\u0301", "[MASK]", "\r", "\x00"])


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_tokenizer(TokenizerSection(kind="wordpiece", vocab_size=120), ["some words. Other (words)? A line\nof code.x = 1 。é"] * 9)


def test_where_sentences_end() -> None:
    for text, sentences in {
        "One. Two.": ["One.", " Two."],
        "He said “no.” Then he left!": ["He said “no.”", " Then he left!"],
        "Fruit, e.g. apples. (Pears too.)": ["Fruit, e.g. apples.", " (Pears too.)"],
        "def f(x):\n    return x.y\n\nf(1.5)\n": ["def f(x):", "\n    return x.y", "\n\nf(1.5)", "\n"],
        "no end": ["no end"],
        "": [""],
        "晴れ。雨！": ["晴れ。", "雨！"],
        "What?! Yes…  \n no": ["What?!", " Yes…", "  \n no"],
    }.items():
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


def test_streams_with_and_without_sentences_are_two_in_the_cache(tmp_path: Path, wordpiece: Tokenizer) -> None:
    texts = ["One. Two.", "some words"]
    plain, cut = streams(tmp_path, texts, wordpiece)
    assert plain.fingerprint != cut.fingerprint
    assert (plain.sentences, len(cut.sentences)) == (None, 3)
    again = streams(tmp_path, texts, wordpiece)
    assert [one.cached for one in again] == [True, True]
    assert again[1].sentences.tolist() == cut.sentences.tolist()


def source_of(folder: Path, *texts: str) -> Source:
    return opened(write_files(folder, {f"{number:04}.txt": text for number, text in enumerate(texts)}))


def test_every_setting_and_the_text_make_another_tokenizer(tmp_path: Path) -> None:
    source = source_of(tmp_path / "a", "some words and some more words " * 50)
    for changes in ({}, {"vocab_size": 270}, {"add_bos": False}, {"sample_bytes": 100}):
        trained_tokenizer([source], TokenizerSection(**{"vocab_size": 300, **changes}))
    trained_tokenizer([source, source_of(tmp_path / "b", "other")], SECTION)
    assert len(list(cache_folder().glob("tokenizers/*"))) == 5


@pytest.mark.sampled(4)
@pytest.mark.parametrize("sample", [1, 999, 5000, 20_000])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_a_sample_comes_evenly_from_the_whole_corpus(tmp_path: Path, sample: int, rows: int) -> None:
    corpus = "".join(chr(0x4E00 + i // 100) for i in range(10_000))  # 30,000 bytes; the character shows the hundredth of the corpus
    size = 10_000 // rows
    source = source_of(tmp_path / "a", *(corpus[i : i + size] for i in range(0, 10_000, size)))
    taken = "".join(sample_texts([source], sample))
    assert len(taken.encode()) <= sample
    if sample >= 999:
        assert len(taken.encode()) > 0.9 * sample
        halves = sum(ord(character) - 0x4E00 < 50 for character in taken)
        assert 0.4 < halves / len(taken) < 0.6


def test_a_corpus_within_the_sample_is_taken_whole(tmp_path: Path) -> None:
    source = source_of(tmp_path / "a", "one", "two")
    assert list(sample_texts([source, source], 12)) == ["one", "two"] * 2
