"""Files, folders and tables as sources of rows: what is read, its place, its part and its fingerprint."""

import gzip
import hashlib
import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_files import write_rows
from tiny_sources import opened, rows, texts, write_files

from tfkit.data import open_source
from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import Part, Row, hash_fraction
from tfkit.data.sources.prediction_rows import all_records, first_records
from tfkit.data.sources.stdlib import EXCLUDED, StdlibSource
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.roles import TEXT


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "\ufeffone\r\ntwo\n\x00é", {"": "one\r\ntwo\n\x00é"}),
        ("a.jsonl", '\ufeff{"text": "x\\r\\ny"}\r\n\n{"text": "\\u00e9", "n": 1}', {":1": "x\r\ny", ":3": "é"}),
        ("a.csv", 'n,text\r\n1,"a ""b""\r\nc, d"\r\n2,é\r\n', {":2": 'a "b"\r\nc, d', ":4": "é"}),
        ("a.tsv", "text\tn\nx, y\t1\n", {":2": "x, y"}),
        ("blank.csv", "\ntext,label\nthe cat,1\n", {":3": "the cat"}),
        ("long.csv", f"text\n{'x' * 300_000}\n", {":2": "x" * 300_000}),
    ],
)
def test_rows_and_their_places_also_of_a_compressed_file(tmp_path: Path, name: str, content: str, expected: dict[str, str]) -> None:
    write_files(tmp_path, {name: content, f"{name}.gz": gzip.compress(content.encode())})
    for file in (tmp_path / name, tmp_path / f"{name}.gz"):
        assert {row.place: row.text for row in rows(file)} == {f"{file}{place}": text for place, text in expected.items()}


def write_parquet(path: Path, rows: list[str | None], column: str = "text") -> None:
    pyarrow.parquet.write_table(pyarrow.table({column: rows, "n": list(range(len(rows)))}), path, row_group_size=100)


def test_parquet_is_read_in_batches(tmp_path: Path) -> None:
    expected = [f"row é {i}" for i in range(600)]
    write_parquet(tmp_path / "a.parquet", expected)
    assert texts(tmp_path / "a.parquet") == expected
    assert rows(tmp_path / "a.parquet")[-1].place == f"{tmp_path}/a.parquet:600"
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert texts(tmp_path / "a.parquet.gz") == expected


def test_folders_are_searched_and_globs_taken_at_their_word(tmp_path: Path) -> None:
    names = ("b/two.py", "a.md", "b/picture.png", ".git/config.txt", "b/.hidden.txt", "c/odd.xyz")
    write_files(tmp_path, {name: name for name in names})
    assert texts(tmp_path) == ["a.md", "b/two.py"]
    assert texts(f"{tmp_path}/**/*.xyz") == ["c/odd.xyz"]
    assert texts(f"{tmp_path}/*/*") == ["b/picture.png", "b/two.py", "c/odd.xyz"]
    assert "2 files, " in (said := opened(tmp_path).describe())
    assert "4 other files skipped" in said


BAD = {  # more of them are in tests/faults/test_data.py
    "null.jsonl": (b'{"text": null}\n', r"null.jsonl:1: column 'text' holds null"),
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


def test_columns_and_rows_of_parquet_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["a", None])
    with pytest.raises(DataError, match="no column 'body'; columns found: text, n"):
        texts(tmp_path / "a.parquet", text="body")
    with pytest.raises(DataError, match=r"a\.parquet:2: column 'text' holds null"):
        texts(tmp_path / "a.parquet")


def test_nothing_found_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file matches it as a glob"):
        texts(tmp_path / "*.txt")
    with pytest.raises(DataError, match="no text, jsonl, json, csv, tsv, parquet or CoNLL file in this folder"):
        texts(tmp_path)


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
    whole = {f"{i}.txt": f"text {i}\n\n more\n" for i in range(50)}
    sides(write_files(tmp_path / "files", whole), [*whole.values()])


def test_the_fingerprint_says_that_a_row_is_on_another_side_than_in_version_0_1_0() -> None:
    assert f"{hash_fraction(b'json/decoder.py'):.6f}" == "0.450801", "on every machine"
    texts = [f"text {i} " for i in range(200)]
    moved = next(text for text in texts if hash_fraction(text.encode()) < 0.5 <= hash_fraction(text.strip().encode()))
    rows = [Row(text, "", key=text.strip()) for text in (moved, "other")]
    part = Part("train", 0.5)
    assert part.fingerprint(rows) == f"{part}\0keys"
    assert part.fingerprint(rows[1:]) == str(part)
    assert (Part("all", 0.5).fingerprint(rows), Part("train", None).fingerprint(rows)) == (str(Part("all", 0.5)), str(Part("train", None)))


def test_the_fingerprint_follows_content_and_choice_but_not_the_place(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{folder}/{name}.txt": text for folder in "ab" for name, text in (("x", "one"), ("y", "two"))})
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


def test_the_first_rows_are_looked_at_before_anything_is_built(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n' * 500 + '{"txt": "b"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:501: no column 'text'; columns found: txt; name the one that holds the text with"):
        opened(file)
    assert opened(file, skip=True)


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


def tsv(folder: Path, text: str, name: str = "rows.tsv", **section: Any) -> list[Any]:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    source = opened(folder / name, skip=True, text="sentence", **section)
    skipped: dict[str, Any] = {}
    return [row.text for row in source.rows(skipped)] + [one.rows for one in skipped.values()]


def test_a_quote_of_a_tsv_is_a_character_unless_its_field_goes_over_lines(tmp_path: Path) -> None:
    """As GLUE's files are: without quoting. A quotation over two rows is two rows where a quote elsewhere shows what kind of file it is."""
    head = "sentence\tlabel\n"
    over_two, between = '"I saw him.\t1\nHe went home."\t0\n', "plain\t1\n" * 300
    for other in ('It is "fine"\t1\n', 'so "he said\t0\n'):
        assert tsv(tmp_path, f"{head}{over_two}{other}")[:2] == ['"I saw him.', 'He went home."']
        assert tsv(tmp_path, f"{head}{other}{over_two}")[1:] == ['"I saw him.', 'He went home."']
        assert tsv(tmp_path, f"{head}{over_two}{between}{other}")[0] == "I saw him.\t1\nHe went home.", "too far away"
    assert tsv(tmp_path, f'{head}"It is a black eye," he said\t1\nno "end\t0\n') == ['"It is a black eye," he said', 'no "end']
    assert tsv(tmp_path, f'{head}"quoted ""twice"""\t1\nplain\t0\n') == ['quoted "twice"', "plain"]
    assert tsv(tmp_path, f'{head}"over\ntwo lines"\t1\nplain\t0\n') == ["over\ntwo lines", "plain"]
    assert tsv(tmp_path, f'{head}"never closed\nfirst\t1\nsecond\t0\n') == ["first", "second", 1]
    assert tsv(tmp_path, 'a "b\t1\n"c\t0\n', header=["sentence", "label"]) == ['a "b', '"c']
    assert tsv(tmp_path, f"{head}carriage\rreturn\t1\r\nplain\t0\r\n") == ["carriage\rreturn", "plain"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('sentence\tlabel\n"a\tb\nc"\t1\nnext\t0\n', ["a\tb\nc", "next"]),
        ('label\tsentence\n1\t"line one\nfoo\tbar"\n0\tnext\n', ["line one\nfoo\tbar", "next"]),
        ('label\tsentence\n1\t"line one\nline two"\n0\tnext\n', ["line one\nline two", "next"]),
        ('label\tsentence\r\n1\t"a\r\n\r\n""b""\tc\r\nd\r\n"\r\n0\tnext', ['a\r\n\r\n"b"\tc\r\nd\r\n', "next"]),
        ('sentence\tlabel\n"a\nb"\t"c\nd"\nnext\t0\n', ["a\nb", "next"]),
        ('label\tsentence\n1\t"' + "line\n" * 900 + '"\n', ["line\n" * 900]),
    ],
)
def test_a_quoted_field_of_a_tsv_may_hold_line_ends_and_tabs(tmp_path: Path, text: str, found: list[str]) -> None:
    """As pandas and spreadsheets write them."""
    assert tsv(tmp_path, text) == found


def test_a_quote_that_is_closed_some_rows_on_does_not_take_them(tmp_path: Path) -> None:
    rows_between = "".join(f"row {number}\t1\n" for number in range(50))
    file = f'sentence\tlabel\n"no label here\n{rows_between}And so he left."\t1\n'
    assert tsv(tmp_path, file) == [*(f"row {number}" for number in range(50)), 'And so he left."', 1]
    with pytest.raises(DataError, match=r"rows\.tsv:2: 1 fields under a header of 2"):
        texts(tmp_path / "rows.tsv", text="sentence")
    first = file.replace("no label here", "a label here\t0")
    assert tsv(tmp_path, first) == ['"a label here', *(f"row {number}" for number in range(50)), 'And so he left."']
    over_columns = 'label\tsentence\tsource\n"I think so.\tHe said so."\t1\n'
    assert tsv(tmp_path, over_columns) == ['He said so."']


def test_the_place_of_a_bad_row_of_a_tsv_behind_what_was_looked_at(tmp_path: Path) -> None:
    """A quote that is never closed, and a line that is not UTF-8 and was seen while its end was looked for: each has its own place."""
    content = b'label\ttext\n1\t"a\nb"\n0\t"never closed\n0\tgood\n0\t\xe9\n0\tfine\nalone\n'
    file = tmp_path / "a.tsv"
    file.write_bytes(content)
    source = opened(file, skip=True)
    skipped: dict[str, Any] = {}
    found = [(row.text, row.place.rpartition(":")[2]) for row in source.rows(skipped)]
    assert found == [("a\nb", "2"), ('"never closed', "4"), ("good", "5"), ("fine", "7")]
    assert {kind: one.first for kind, one in skipped.items()} == {"not UTF-8": f"{file}:6", "wrong number of fields": f"{file}:8"}


@pytest.mark.parametrize("kind", ["csv", "csv with a given header", "json", "parquet"])
def test_a_column_that_is_there_twice_is_refused_if_it_is_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"rows.{kind.partition(' ')[0]}"

    def write(*names: str) -> dict[str, Any]:
        lines = [list(names), ["the cat", "a mat", "a hat"]]
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table([[cell] for cell in lines[1]], names=lines[0]), file)
            return {}
        is_given = "given" in kind
        file.write_text(json.dumps(lines) if kind == "json" else "\n".join(map(",".join, lines[is_given:])), encoding="utf-8")
        return {"header": lines[0]} if is_given else {}

    with pytest.raises(DataError, match=rf"{file.name}(:1|, item 1)?: two columns are called 'text', and only one would be used"):
        opened(file, **write("text", "label", "text"))
    assert texts(file, **write("text", "note", "note")) == ["the cat"]
