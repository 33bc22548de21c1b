import gzip
import hashlib
import json
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_files import write_rows
from tiny_sources import opened, rows, texts

from tfkit.data import open_source
from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import Part, Row, hash_fraction
from tfkit.data.sources.prediction_rows import all_records, first_records
from tfkit.data.sources.stdlib import EXCLUDED, StdlibSource
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.roles import TEXT, Role


def places(path: Path | str, **section: Any) -> list[str]:
    return [row.place for row in rows(path, **section)]


def test_a_text_file_is_one_row_with_its_line_ends_and_without_a_bom(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\n\x00é".encode())
    assert texts(file) == ["one\r\ntwo\n\x00é"]
    assert places(file) == [str(file)]


def test_jsonl_rows_know_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"body": "x\\r\\ny"}\r\n\n{"body": "\\u00e9", "n": 1}')
    assert texts(file, text="body") == ["x\r\ny", "é"]
    assert places(file, text="body") == [f"{file}:1", f"{file}:3"]


def test_csv_and_tsv_fields_may_hold_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('n,text\r\n1,"a ""b""\r\nc, d"\r\n2,é\r\n'.encode())
    (tmp_path / "a.tsv").write_text("text\tn\nx, y\t1\n")
    assert texts(tmp_path / "a.csv") == ['a "b"\r\nc, d', "é"]
    assert places(tmp_path / "a.csv") == [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:4"]
    assert texts(tmp_path / "a.tsv") == ["x, y"]


def test_a_long_csv_field_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 300_000 + "\n")
    assert len(texts(tmp_path / "a.csv")[0]) == 300_000


def write_parquet(path: Path, rows: list[str | None], column: str = "text") -> None:
    pyarrow.parquet.write_table(pyarrow.table({column: rows, "n": list(range(len(rows)))}), path, row_group_size=100)


def test_parquet_is_read_in_batches(tmp_path: Path) -> None:
    rows = [f"row é {i}" for i in range(600)]
    write_parquet(tmp_path / "a.parquet", rows)
    assert texts(tmp_path / "a.parquet") == rows
    assert places(tmp_path / "a.parquet")[-1] == f"{tmp_path}/a.parquet:600"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_gzip_of_every_format(tmp_path: Path, name: str) -> None:
    plain = tmp_path / name
    if name == "a.parquet":
        write_parquet(plain, ["hello"])
    else:
        plain.write_text({"a.txt": "hello", "a.jsonl": '{"text": "hello"}\n', "a.csv": "text\nhello\n"}[name])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert texts(packed) == ["hello"]


def test_folders_are_searched_and_globs_taken_at_their_word(tmp_path: Path) -> None:
    for name in ("b/two.py", "a.md", "b/picture.png", ".git/config.txt", "b/.hidden.txt", "c/odd.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.md", "b/two.py"]
    assert texts(f"{tmp_path}/**/*.xyz") == ["c/odd.xyz"]
    assert texts(f"{tmp_path}/*/*") == ["b/picture.png", "b/two.py", "c/odd.xyz"]
    description = opened(tmp_path).describe()
    assert "2 files" in description
    assert "4 other files skipped" in description


BAD = {  # more of them are in tests/faults/test_data.py
    "null.jsonl": (b'{"text": null}\n', r"null.jsonl:1: column 'text' holds null"),
    "number.jsonl": (b'{"text": 5}\n', r"number.jsonl:1: column 'text' holds int"),
    "half.jsonl": (b'{"text": "a\\ud800"}\n', r"half.jsonl:1: .*surrogate pair at character 1"),
    "latin.txt": (b"\xef\xbb\xbfab\xe9", r"latin.txt: byte 5 \(0xe9\) is not UTF-8"),
    "latin.csv": (b"text\na\n\xe9\n", r"latin.csv:3: byte 7 \(0xe9\) is not UTF-8"),
    "column.csv": (b"txt,n\na,1\n", r"column.csv:1: no column 'text'; columns found: txt, n"),
    "fields.csv": (b"text,n\na,1\nb\n", r"fields.csv:3: 1 fields under a header of 2"),
    "empty.txt": (b"", "no rows"),
    "empty.jsonl": (b"\n\n", "no rows"),
    "header.csv": (b"text\n", "no rows"),
    "cut.txt.gz": (gzip.compress(b"hello" * 100)[:-20], r"cut.txt.gz: damaged or cut gzip"),
    "not.txt.gz": (b"hello", r"not.txt.gz: damaged or cut gzip"),
    "bad.parquet": (b"PAR1 no more", r"bad.parquet: damaged or no Parquet file"),
    "whole.json": (b'{"text": "a"}', r"one object, without an array of objects in it; .*format: jsonl"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_named_with_file_and_row(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(tmp_path / name)


def test_a_damaged_parquet_page_and_a_missing_column(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, [f"{i} some text" for i in range(5000)])
    with pytest.raises(DataError, match="no column 'body'; columns found: text, n"):
        texts(file, text="body")
    content = bytearray(file.read_bytes())
    content[100:3000] = bytes(2900)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet"):
        texts(file)
    write_parquet(file, ["a", None])
    with pytest.raises(DataError, match=r"a\.parquet:2: column 'text' holds null"):
        texts(file)


def test_nothing_found_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file matches it as a glob"):
        texts(tmp_path / "*.txt")
    with pytest.raises(DataError, match="no text, jsonl, json, csv, tsv, parquet or CoNLL file in this folder"):
        texts(tmp_path)


def test_the_parts_of_a_fraction_share_the_rows(tmp_path: Path) -> None:
    rows = [f"row {i % 900}" for i in range(1000)]
    file = tmp_path / "a.jsonl"
    write_rows(file, [{"text": row} for row in rows])
    train, held_out = texts(file, "train", 0.2), texts(file, "held_out", 0.2)
    assert sorted(train + held_out) == sorted(rows)
    assert not set(train) & set(held_out), "equal rows must fall on one side"
    assert 140 < len(held_out) < 260
    assert texts(file, "all", 0.2) == texts(file, "held_out") == rows


def test_rows_that_differ_in_white_space_at_the_ends_are_on_one_side(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [
        {"ask": f"{a}question {i}", "say": f"answer{b}"} for i in range(100) for a, b in (("", ""), (" ", ""), ("", "\n\n"), ("\t", " "))
    ]
    write_rows(file, rows)
    roles = (Role("source", "text", ("ask",)), Role("target", "text", ("say",)))
    parts = (texts(file, part, 0.3, roles=roles) for part in ("train", "held_out"))
    train, held_out = ({" ".join(text.split()) for text in part} for part in parts)
    assert len(train) + len(held_out) == 100
    assert len(held_out) > 15


def test_rows_without_white_space_at_the_ends_are_divided_as_ever(tmp_path: Path) -> None:
    """By the hash of their text; a whole file by the hash of its text with the line end that ends it. So are their fingerprints."""

    def sides(path: Path, texts: list[str]) -> list[str]:
        assert {row.text for row in opened(path, "held_out", 0.5).rows()} == {text for text in texts if hash_fraction(text.encode()) < 0.5}
        return [opened(path, part, 0.5).fingerprint() for part in ("train", "held_out")]

    lines = [f"line {i}\n  more" for i in range(50)]
    write_rows(tmp_path / "a.jsonl", [{"text": line} for line in lines])
    before = sides(tmp_path / "a.jsonl", lines)
    columns = Columns(TEXT).fingerprint()
    digest = hashlib.blake2b(f"files\0{columns}\0Part(name='train', fraction=0.5)".encode(), digest_size=16)
    digest.update(f"a.jsonl\0{(tmp_path / 'a.jsonl').stat().st_size}\0".encode() + (tmp_path / "a.jsonl").read_bytes())
    assert before[0] == digest.hexdigest(), "the fingerprint of version 0.1.0"
    (tmp_path / "files").mkdir()
    for i in range(50):
        (tmp_path / "files" / f"{i}.txt").write_text(f"text {i}\n\n more\n")
    sides(tmp_path / "files", [f"text {i}\n\n more\n" for i in range(50)])


def test_the_fingerprint_says_that_a_row_is_on_another_side_than_in_version_0_1_0() -> None:
    texts = [f"text {i} " for i in range(200)]
    moved = next(text for text in texts if hash_fraction(text.encode()) < 0.5 <= hash_fraction(text.strip().encode()))
    rows = [Row(text, "", key=text.strip()) for text in (moved, "other")]
    part = Part("train", 0.5)
    assert part.fingerprint(rows) == f"{part}\0keys"
    assert part.fingerprint(rows[1:]) == str(part)
    assert (Part("all", 0.5).fingerprint(rows), Part("train", None).fingerprint(rows)) == (str(Part("all", 0.5)), str(Part("train", None)))


def test_the_hash_that_divides_is_the_same_on_every_machine() -> None:
    assert f"{hash_fraction(b'json/decoder.py'):.6f}" == "0.450801"


def test_the_fingerprint_follows_content_and_choice_but_not_the_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("one")
        (tmp_path / folder / "y.txt").write_text("two")
    first = opened(tmp_path / "a").fingerprint()
    assert first == opened(tmp_path / "b").fingerprint()
    others = [opened(tmp_path / "a", part, 0.5).fingerprint() for part in ("train", "held_out")]
    (tmp_path / "b/y.txt").write_text("twp")
    others.append(opened(tmp_path / "b").fingerprint())
    (tmp_path / "b/y.txt").write_text("two")
    (tmp_path / "b/y.txt").rename(tmp_path / "b/z.txt")
    others.append(opened(tmp_path / "b").fingerprint())
    assert len({first, *others}) == 5


def test_the_standard_library_is_found_and_divided() -> None:
    sources = {part: open_source(SourceSection(stdlib=True), part, None) for part in ("train", "held_out", "all")}
    paths = {part: set(source.paths) for part, source in sources.items()}
    assert paths["train"] | paths["held_out"] == paths["all"]
    assert not paths["train"] & paths["held_out"]
    assert 0.01 < len(paths["held_out"]) / len(paths["all"]) < 0.1
    assert not {folder for path in paths["all"] for folder in path.split("/")[:-1]} & EXCLUDED
    assert sources["all"].paths == tuple(sorted(paths["all"]))
    row = next(row for row in sources["all"].rows() if row.place.endswith("/json/decoder.py"))
    assert row.text == (Path(sysconfig.get_path("stdlib")) / "json/decoder.py").read_text(encoding="utf-8")
    assert f"Python {sys.version.split()[0]}" in sources["train"].describe()


def test_a_python_without_sources_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.py files"):
        StdlibSource.find(Part("all", 0.05), "error", tmp_path)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"body": f"{split} é {i}", "n": i}) for i in range(600)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_local_data_set_folder_needs_no_network(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    section = SourceSection(hub=str(hub_folder), split="test", text="body")
    source = open_source(section, "all", None)
    assert [row.text for row in source.rows()] == [f"test é {i}" for i in range(600)]
    assert "600 rows" in source.describe()
    train, held_out = (list(open_source(section, part, 0.3).rows()) for part in ("train", "held_out"))
    assert len(train) + len(held_out) == 600
    moved = shutil.copytree(hub_folder, hub_folder.with_name("moved"))
    again = open_source(SourceSection(hub=str(moved), split="test", text="body"), "all", None)
    assert again.fingerprint() == source.fingerprint()
    assert again.fingerprint() != open_source(section.model_copy(update={"split": "train"}), "all", None).fingerprint()


def test_a_saved_data_set_is_read(hub_folder: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a", "b"]})}).save_to_disk(hub_folder / "saved")
    section = SourceSection(hub=str(hub_folder / "saved"))
    assert [row.text for row in open_source(section, "all", None).rows()] == ["a", "b"]
    (hub_folder / "other").mkdir()
    (hub_folder / "other" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"other, split train: cannot be loaded"):
        open_source(SourceSection(hub=str(hub_folder / "other")), "all", None)
    with pytest.raises(DataError, match="no such split; the folder has train"):
        open_source(section.model_copy(update={"split": "test"}), "all", None)


def test_hub_errors_are_named(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no column 'text'; columns found: body, n"):
        open_source(SourceSection(hub=str(hub_folder)), "all", None)
    with pytest.raises(DataError, match="split nowhere: cannot be loaded"):
        open_source(SourceSection(hub=str(hub_folder), split="nowhere", text="body"), "all", None)
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    with pytest.raises(DataError, match="TFKIT_OFFLINE is set"):
        open_source(SourceSection(hub="someone/something"), "all", None)


def test_the_first_rows_are_looked_at_before_anything_is_built(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n' * 500 + '{"txt": "b"}\n')
    with pytest.raises(
        DataError, match=r"a\.jsonl:501: no column 'text'; columns found: txt; name the one that holds the text with text: NAME"
    ):
        opened(file)
    assert opened(file, skip=True)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"source": "to French: {english} ({note})"},
            r"1: no column 'note' for the source 'to French: .*'; columns found: english, french; ",
        ),
        (
            {"source": "english", "target": "francais"},
            r"1: no column 'francais'; columns found: english, french; .* columns: \{target: NAME\}",
        ),
        ({"source": "english.0.text", "target": "french"}, r"[12]: no column 'english.0.text'"),
        (
            {"target": "french"},
            r"1: no column 'source' or 'src'; columns found: english, french; .* holds the source with columns: \{source: NAME\}",
        ),
    ],
)
def test_a_missing_column_is_named_with_what_is_there(tmp_path: Path, name: str, columns: dict[str, str], message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"english": "one", "french": "un"}\n')
    (tmp_path / "a.csv").write_text("english,french\none,un\n")
    roles = (Role("source", "text", ("source", "src")), Role("target", "text", ("target", "french")))
    with pytest.raises(DataError, match=rf"{name}:{message}"):
        opened(tmp_path / name, roles=roles, columns=columns)


def test_bad_rows_are_counted_by_kind_at_once(tmp_path: Path) -> None:
    """Of the first thousand rows, and of those that are encoded together: the first of each kind has its place."""
    rows = [{"text": "a"}, {"text": 1}, {"body": "b"}, {"text": [2]}, {"text": 3}, *[{"text": "c"}] * 2000, {"text": 4}]
    write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "a.jsonl")
    first, counts = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/a.jsonl:2: column 'text' holds int, not text")
    assert counts == (
        f"4 bad rows in the 1,000 rows that were read: 2 int, not text (first {tmp_path}/a.jsonl:2), "
        f"1 no column 'text' (first {tmp_path}/a.jsonl:3), 1 list, not text (first {tmp_path}/a.jsonl:4)"
    )
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"on_bad_row: skip$"):
        opened(tmp_path / "a.jsonl")


def test_records_are_read_until_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "four", "label": "a"}\n' * 1_200, encoding="utf-8")
    section = SourceSection(path=str(tmp_path / "rows.jsonl"))
    assert len([*all_records(section, "error", 4_000)]) == 1_200
    assert len([*all_records(section, "error", 1_100)]) == 1_100
    assert len(first_records(section)) == 1_000
