from pathlib import Path

import pytest
from tiny_sources import opened

from tfkit.data import cache_folder, sample_texts, trained_tokenizer
from tfkit.data.columns.rows import Source
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import TokenizerSection

SECTION = TokenizerSection(vocab_size=300)


def source_of(folder: Path, *texts: str) -> Source:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04}.txt").write_text(text)
    return opened(folder)


def test_the_tokenizer_is_trained_once(tmp_path: Path) -> None:
    source = source_of(tmp_path / "a", "some words and some more words " * 50)
    reported: list[int] = []
    first = trained_tokenizer([source], SECTION, reported.append)
    second = trained_tokenizer([source], SECTION, reported.append)
    assert reported == [31 * 50]
    assert first.tokenizer_json == second.tokenizer_json
    assert first.fingerprint() == second.fingerprint()
    assert first.size > 257


def test_a_damaged_one_is_trained_again(tmp_path: Path) -> None:
    source = source_of(tmp_path / "a", "some words and some more words " * 50)
    first = trained_tokenizer([source], SECTION)
    (file,) = cache_folder().glob("tokenizers/*/tokenizer.json")
    file.write_text(first.tokenizer_json[:100])
    with pytest.warns(RuntimeWarning, match=r"tokenizer\.json: damaged, so this part of the cache is built again"):
        assert trained_tokenizer([source], SECTION).fingerprint() == first.fingerprint()
    assert file.read_text() == first.tokenizer_json


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


def test_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    source = opened(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        trained_tokenizer([source], SECTION)
    assert not list(cache_folder().glob("tokenizers/*"))
