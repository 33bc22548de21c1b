"""Tables of text: quotes and line ends in files separated by tabs, and header lines."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_sources import opened, texts

from tfkit.errors import DataError


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


def test_a_blank_first_line_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\ntext,label\nthe cat,1\n", encoding="utf-8")
    assert texts(tmp_path / "rows.csv") == ["the cat"]


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
