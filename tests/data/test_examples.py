"""The cache of examples: what an encoder makes of each row, once, whole, and again when anything that it depends on has changed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sources import opened
from tiny_streams import write_texts

from tfkit.data import Encoded, Encoder, ExampleSet, Row, cache_folder, example_set
from tfkit.data.columns.rows import BadRow, OnBadRow, describe_skipped
from tfkit.data.store import example_sets as examples
from tfkit.data.store.token_stream import check_ids
from tfkit.errors import DataError, ModelError
from tfkit.recipe.schema.objective_facts import SECTIONS


class Letters:
    """The code points of a text, at most `length`; and how many there were. A text with a question mark is a bad row."""

    ids = ("codes",)

    def __init__(self, length: int = 10):
        self.length = length
        self.calls = 0

    def fingerprint(self) -> str:
        return f"letters of at most {self.length}"

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        self.calls += 1
        return [self._encode(row) for row in rows]

    def _encode(self, row: Row) -> Encoded | BadRow:
        if "?" in row.text:
            return BadRow("a question", f"{row.place}: asks something; correct the row")
        codes = list(map(ord, row.text[: self.length]))
        return Encoded({"codes": codes, "size": [len(row.text)]}, len(codes), len(row.text) > self.length)


def set_of(folder: Path, texts: Sequence[str], encoder: Letters | None = None, on_bad_row: OnBadRow = "error") -> ExampleSet:
    source = opened(write_texts(folder, texts), skip=on_bad_row == "skip")
    return example_set(source, encoder or Letters(), on_bad_row)


def plain(stored: ExampleSet) -> list[dict[str, list[int]]]:
    return [{name: numbers.tolist() for name, numbers in stored[i].items()} for i in range(len(stored))]


TEXTS = ["some", "a text of some length", "", "ü🙂"]


def expected(texts: Sequence[str]) -> list[dict[str, list[int]]]:
    return [{"codes": [ord(letter) for letter in text[:10]], "size": [len(text)]} for text in texts]


class Values(Letters):
    """The length of a text as an array of some type, and how often."""

    def __init__(self, dtype: str):
        super().__init__()
        self.dtype = dtype

    def fingerprint(self) -> str:
        return f"lengths as {self.dtype}"

    def _encode(self, row: Row) -> Encoded | BadRow:
        found = super()._encode(row)
        return found._replace(arrays={**found.arrays, "values": np.full(len(row.text), len(row.text) / 7, self.dtype)})


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64", "complex64", ">f4"])
def test_an_array_comes_back_in_the_type_that_the_encoder_gave_it(tmp_path: Path, dtype: str) -> None:
    stored = set_of(tmp_path, TEXTS, Values(dtype))
    for number, text in enumerate(TEXTS):
        found, wanted = stored[number]["values"], np.full(len(text), len(text) / 7, dtype)
        assert found.dtype == wanted.dtype.newbyteorder("<")
        np.testing.assert_array_equal(found, wanted)
    assert stored[0]["codes"].dtype == np.int32


@pytest.mark.parametrize("numbers", [[0.5], np.array(["a"]), np.array([object()]), np.zeros((2, 2))])
def test_what_no_type_keeps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: object) -> None:
    monkeypatch.setattr(Letters, "_encode", lambda self, row: Encoded({"codes": [1], "values": numbers}, 1))
    with pytest.raises(AssertionError, match=r"an array is a vector|int32 would truncate them"):
        set_of(tmp_path, ["a"])


def test_examples_are_what_the_encoder_gives(tmp_path: Path) -> None:
    assert isinstance(Letters(), Encoder), "as an objective is"
    stored = set_of(tmp_path, TEXTS)
    assert plain(stored) == expected(TEXTS)
    assert stored.lengths.tolist() == [4, 10, 0, 2]
    assert (stored.truncated, stored.max_id, dict(stored.skipped)) == (1, ord("🙂"), {})
    assert [stored.place(i) for i in range(4)] == [f"{tmp_path}/rows.jsonl:{i}" for i in range(1, 5)]
    assert stored.describe() == f"{tmp_path}/rows.jsonl: 4 rows, 1 of them truncated (first {tmp_path}/rows.jsonl:2)"
    hashes = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in TEXTS]
    assert stored.texts.tolist() == hashes
    with pytest.raises(ModelError, match=r"ids up to 128578, the model's vocabulary ends at 999"):
        check_ids(stored.name, stored.max_id, 1000)


def test_the_largest_id_is_that_of_every_array_of_ids(tmp_path: Path) -> None:
    """Sources and targets: what is written must be in the vocabulary, too."""
    assert set_of(tmp_path, ["a" * 150], Letters(length=200)).max_id == ord("a")
    both = Letters(length=201)
    both.ids = ("codes", "size")
    assert set_of(tmp_path, ["a" * 150], both).max_id == 150


@settings(max_examples=15)
@given(st.lists(st.text(alphabet=st.characters(exclude_characters="?", exclude_categories=("Cs",)), max_size=30), min_size=1, max_size=20))
def test_every_example_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    assert plain(set_of(tmp_path_factory.mktemp("rows"), texts)) == expected(texts)


def test_batches_do_not_show_in_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i} " * (i % 4) for i in range(50)]
    whole = plain(set_of(tmp_path, texts))
    monkeypatch.setattr(examples, "_BATCH", 7)
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "other"))
    encoder = Letters()
    pieces = set_of(tmp_path, texts, encoder)
    assert (pieces.cached, encoder.calls) == (False, 8)
    assert plain(pieces) == whole


def test_rows_from_the_cache_are_named_by_the_folder_that_their_files_are_in_now(tmp_path: Path) -> None:
    def places(name: str) -> list[str]:
        (tmp_path / name).mkdir()
        stored = set_of(tmp_path / name, ["a text of some length", "?"], on_bad_row="skip")
        assert stored.skipped["a question"].first == stored.place(0).replace(":1", ":2")
        return [stored.place(0), stored.first_truncated]

    assert places("first") == [f"{tmp_path}/first/rows.jsonl:1"] * 2
    assert places("räume und 🙂") == [f"{tmp_path}/räume und 🙂/rows.jsonl:1"] * 2


def test_the_fingerprint_follows_rows_encoder_and_bad_rows(tmp_path: Path) -> None:
    sets = [set_of(tmp_path, texts, Letters(length), skip) for texts in (["a"], ["b"]) for length in (5, 6) for skip in ("error", "skip")]
    assert len({one.fingerprint for one in sets}) == 8
    assert not any(one.cached for one in sets)
    assert set_of(tmp_path, ["a"], Letters(5)).cached


def test_bad_rows_are_refused_by_place_or_counted(tmp_path: Path) -> None:
    texts = ["one", "two?", "three", "four?"]
    with pytest.raises(DataError, match=r"rows.jsonl:2: asks something; correct the row, or skip bad rows with data.on_bad_row: skip"):
        set_of(tmp_path, texts)
    assert not list(cache_folder().glob("examples/*"))
    stored = set_of(tmp_path, texts, on_bad_row="skip")
    assert [stored.place(i)[-2:] for i in range(len(stored))] == [":1", ":3"]
    assert stored.skipped == {"a question": (2, f"{tmp_path}/rows.jsonl:2")}
    said = f"{tmp_path}/rows.jsonl: 2 bad rows skipped: 2 a question (first {tmp_path}/rows.jsonl:2)"
    assert describe_skipped(stored.name, stored.skipped) == said
    again = set_of(tmp_path, texts, on_bad_row="skip")
    assert (again.cached, again.skipped) == (True, stored.skipped)
    with pytest.raises(DataError, match=r"every row is bad; the first is .*rows.jsonl:1: asks"):
        set_of(tmp_path, ["one?", "two?"], on_bad_row="skip")


def test_a_fraction_that_has_none_of_few_rows_is_distinguished_from_an_empty_source(tmp_path: Path) -> None:
    source = opened(write_texts(tmp_path, ["one"]), "held_out", 0.01)
    with pytest.raises(DataError, match=r"held out part, 1.00% of the rows: no rows here; .* or a larger fraction of it"):
        example_set(source, Letters(), "error")


def test_rows_of_one_input_cannot_be_held_out_apart(tmp_path: Path) -> None:
    roles = SECTIONS["text_to_text"].roles
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(f'{{"source": "the same", "target": "answer {n}"}}\n' for n in range(40)), encoding="utf-8")
    for part in ("train", "held_out"):
        found = [opened(path, part, 0.3, roles=roles, split_by=by) for by in ("input", "row")]
        if next(found[0].rows(), None) is None:
            with pytest.raises(DataError, match=r"no rows here: all rows have the same input, .* with data.split_by=row, name other rows"):
                example_set(found[0], Letters(), "error")
        assert next(found[1].rows(), None) is not None
