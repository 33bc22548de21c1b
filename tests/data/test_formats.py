"""Every form of data file: what its rows are, and what is said of those that are wrong."""

import gzip
import io
import json
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_sources import opened, rows, texts, write_files

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats import parquet
from tfkit.data.formats.file_content import Content, content_of
from tfkit.data.formats.json_files import read_json
from tfkit.data.formats.parquet import read_parquet
from tfkit.errors import DataError
from tfkit.recipe.schema.roles import TEXT, Role

TAGS = (Role("tokens", "texts", ("tokens",)), Role("tags", "labels", ("tags", "upos")))
PAIR = (Role("source", "text", ("source", "en")), Role("target", "text", ("target", "de")))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(path: Path, files: dict[str, str | bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# ------------------------------------------------------------------------------------------------------------------------ json


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a"}, {"text": "b\\r\\nc"}]',
        '\ufeff [\r\n\t{"text":"a"} ,{ "text" : "b\\r\\nc" , "n" : [1.5e-3, {"text": "[{"}]}\n]\n\n',
        '{"version": 1.5, "note": "[{", "names": ["x", ["y"]], "none": [], "data": [{"text": "a"}, {"text": "b\\r\\nc"}], "end": null}',
    ],
)
def test_json_holds_an_array_of_objects_or_an_object_with_one(tmp_path: Path, content: str) -> None:
    found = rows(write(tmp_path / "a.json", content))
    assert [(row.text, row.place) for row in found] == [("a", f"{tmp_path}/a.json, item 1"), ("b\r\nc", f"{tmp_path}/a.json, item 2")]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_json_is_the_same_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """A chunk may end in a number, an escape, a character of several bytes, or between items."""
    items = [{"text": f'é\u2028🙂 {i} "\\', "n": -1.25e-07 * i, "deep": [[{}], True, None]} for i in range(20)]
    file = write(tmp_path / "a.json", json.dumps({"n": 12.5, "rows": items, "m": -1e-3}, ensure_ascii=chunk % 2 == 0, indent=chunk % 3))
    monkeypatch.setattr("tfkit.data.formats.json_files._CHUNK", chunk)
    assert texts(file) == [item["text"] for item in items]


JSON_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=5)  # also halves of surrogate pairs
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JSON_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(JSON_TEXT, JSON_VALUE, max_size=3), min_size=1, max_size=4).map(json.dumps), st.integers(1, 40))
@example('[{"a": 1, "a": 2}]', 7)
@example('[{"a": 1e400, "b": -0, "c": -0.0, "d": 1.0, "e": 12345678901234567890123, "f": 1E5}]', 7)
@example('[{"a": "\\ud800", "b": "\\udc00\\ud800", "c": "\\ud83d\\ude42", "d": "\\u0000"}]', 7)
@example(f'[{{"a": {"9" * 4300}}}]', 7)
def test_the_items_of_a_json_file_are_those_of_the_json_module(text: str, chunk: int) -> None:
    content = Content("a.json", ".json", "", lambda: io.BytesIO(text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfkit.data.formats.json_files._CHUNK", chunk)
        found = [record.values for record in read_json(content, Columns()) if isinstance(record, Record)]
    assert repr(found) == repr(json.loads(text))


@pytest.mark.thorough
def test_a_json_file_is_not_held_in_memory(tmp_path: Path) -> None:
    row = json.dumps({"text": "word " * 200})
    file = write(tmp_path / "a.json", f"[{','.join([row] * 10_000)}]")
    source = opened(file)
    tracemalloc.start()
    assert sum(1 for _ in source.rows()) == 10_000
    assert tracemalloc.get_traced_memory()[1] < 5e6 < file.stat().st_size / 2
    tracemalloc.stop()


JSON_DAMAGE = {
    "cut in an item": ('[{"text": "a"}, {"text": "b', r"a.json, item 2: not JSON \(Unterminated string.*cut short, at character 26"),
    "cut in an escape": (r'[{"text": "x\u00', r"item 1: not JSON \(Invalid .* escape.*\), so writing it may have been cut short"),
    "a wrong escape at the end": (r'[{"text": "x\u00"}]', r"item 1: not JSON \(Invalid .* escape[^)]*\), at character"),
    "cut between items": ('[{"text": "a"},', r"a.json, item 2: not JSON \(Expecting value"),
    "cut before the end": ('[{"text": "a"}', r"expected ',' after item 1, found the end of the file, so writing it may have been cut "),
    "no comma": ('[{"text": "a"} {"text": "b"}]', r"expected ',' after item 1, found '\{', at character 16"),
    "a comma too many": ('[{"text": "a"},]', r"a.json, item 2: not JSON"),
    "not closed right": ('[{"text": "a"}}', r"expected ',' after item 1, found '\}'"),
    "more behind": ('[{"text": "a"}]\n[{"text": "b"}]', r"more follows after the end, at character 17 .*format: jsonl"),
    "half a character behind": (b'[{"text": "a"}]\xc3', r"more follows after the end"),
    "two arrays": ('{"old": [{"text": "a"}], "new": [{"text": "b"}]}', r"holds several arrays of objects \(old, new\)"),
    "a string": ('"text"', r"begins with neither \[ nor \{"),
    "deep": ('[{"text": "a"}, ' + "[" * 100_000, r"item 2: not JSON \(too deeply nested\)"),
    "digits": ('[{"text": "a"}, {"n": ' + "1" * 5000 + "}]", r"item 2: not JSON \(Exceeds the limit"),
    "utf-16": ('[{"text": "a"}]'.encode("utf-16"), r"a.json: this is UTF-16"),
}


@pytest.mark.parametrize("name", JSON_DAMAGE)
def test_damaged_json_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    content, message = JSON_DAMAGE[name]
    with pytest.raises(DataError, match=message):
        rows(write(tmp_path / "a.json", content), skip=True)


def test_bad_items_of_json_are_named_or_skipped(tmp_path: Path) -> None:
    content = b'[{"text": "a"}, 12, {"text": "\xe9"}, {"txt": "b"}, {"text": "c"}]'
    file = write(tmp_path / "a.json", content)
    assert [row.text for row in rows(file, skip=True)] == ["a", "c"]
    for bad, message in {
        b"[12]": r"a.json, item 1: expected a JSON object, found int",
        b'["\xe9"]': r"a.json, item 1: holds a byte \(0xe9\) that is not UTF-8; convert the file",
        b'[{"txt": "b"}]': r"a.json, item 1: no column 'text'; columns found: txt",
    }.items():
        with pytest.raises(DataError, match=message):
            rows(write(file, bad))


# --------------------------------------------------------------------------------------------------------------- conll and conllu


def test_conll_sentences_end_at_blank_lines_and_at_the_end(tmp_path: Path) -> None:
    content = "\ufeff-DOCSTART-\tO\n\n\nthe\tO\r\nnew york\tB-place\n.\tO\r\n \t\r\nok\tO\n-DOCSTART- -X- O\n#\tO\nx\u2028y\u00a0z\tO"
    found = rows(write(tmp_path / "a.conll", content), TAGS)
    assert [row.values for row in found] == [
        {"tokens": ["the", "new york", "."], "tags": ["O", "B-place", "O"]},
        {"tokens": ["ok"], "tags": ["O"]},
        {"tokens": ["#", "x\u2028y\u00a0z"], "tags": ["O", "O"]},
    ]
    assert [row.place for row in found] == [f"{tmp_path}/a.conll:{line}" for line in (4, 8, 10)]


@pytest.mark.parametrize("between", ["\t", " ", "   "])
def test_conll_with_several_columns_has_the_tag_last(tmp_path: Path, between: str) -> None:
    lines = [["EU\u00a0bloc", "NNP", "B-NP", "B-ORG"], ["\u3000", "VBZ", "B-VP", "O"]]
    file = write(tmp_path / "a.bio", "\n".join(between.join(line) for line in lines))
    assert rows(file, TAGS)[0].values == {"tokens": ["EU\u00a0bloc", "\u3000"], "tags": ["B-ORG", "O"]}
    named = rows(file, TAGS, header=["tokens", "tags", "chunk", "ner"])
    assert named[0].values["tags"] == ["NNP", "VBZ"]
    with pytest.raises(DataError, match=r"a.bio:1: 4 columns, but the header has 2"):
        rows(file, TAGS, header=["tokens", "tags"])


@pytest.mark.parametrize("name", ["a.conll", "a.tsv", "a.txt"])
def test_a_header_of_a_conll_file_is_no_word(tmp_path: Path, name: str) -> None:
    """It would be a word with the tag `tag`, which the model would learn."""
    sentences = [f"Anna\tPROPN\tB-PER\n{word}\tVERB\tO\n" for word in ("sleeps", "sings")]
    file = write(tmp_path / name, "\n".join(["Word\tPOS\ttag\n" + sentences[0], sentences[1]]))
    found = rows(file, TAGS)
    assert [row.values for row in found] == [{"tokens": ["Anna", word], "tags": ["B-PER", "O"]} for word in ("sleeps", "sings")]
    assert found[0].place == f"{file}:2"
    assert rows(file, TAGS, columns={"tokens": "Word", "tags": "POS"})[1].values["tags"] == ["PROPN", "VERB"]
    write(file, file.read_text().replace("Word\tPOS\ttag\n", ""))
    assert [row.values for row in rows(file, TAGS)] == [row.values for row in found]


def test_comments_before_the_words_of_a_conll_sentence_are_not_read(tmp_path: Path) -> None:
    content = "# id 5239d808 domain=en\nParis _ _ B-LOC\n# _ _ O\n\n#begin document\n\n# id 5a9c\tdomain=en\n# _ _ O\nsleeps _ _ O\n"
    found = [row.values for row in rows(write(tmp_path / "a.conll", content.replace("5239d808 ", "5239d808\t")), TAGS)]
    assert found == [{"tokens": ["Paris", "#"], "tags": ["B-LOC", "O"]}, {"tokens": ["#", "sleeps"], "tags": ["O", "O"]}]


def test_bad_conll_sentences_are_named_or_skipped_whole(tmp_path: Path) -> None:
    for bad, message in {
        "b\tO\tO\n": r"a.iob:4: 3 columns, but the file's first sentence has 2",
        "b\n": r"a.iob:4: 1 columns, but",
        "\u00a0\n": r"a.iob:4: 1 columns, but",
        "\tO\n": r"a.iob:4: an empty token",
        "b\t\n": r"a.iob:4: an empty tag",
        b"\xff\tO\n".decode("latin-1"): "",
    }.items():
        content = f"a\tO\n\nfine\tO\n{bad}more\tO\n\nc\tO\n".encode("latin-1" if not message else "utf-8")
        file = write(tmp_path / "a.iob", content)
        with pytest.raises(DataError, match=message or r"a.iob:4: byte 12 \(0xff\) is not UTF-8"):
            rows(file, TAGS)
        assert [row.values["tokens"] for row in rows(file, TAGS, skip=True)] == [["a"], ["c"]]
    with pytest.raises(DataError, match=r"b.conll:1: a token without a tag"):
        rows(write(tmp_path / "b.conll", "alone\nwords\n"), TAGS)


def word(number: str, form: str, tag: str) -> str:
    return "\t".join([number, form, form.lower(), tag, "X", "Case=Nom", "0", "root", "_", "SpaceAfter=No"])


CONLLU = f"""# newdoc id = made
# sent_id = made-1
# text = Don't say a = b
{word("1-2", "Don't", "_")}
{word("1", "Do", "AUX")}
{word("2", "n't", "PART")}
{word("3", "say", "VERB")}
{word("3.1", "it", "PRON")}
{word("4", "a = b", "SYM")}

# a comment that says nothing
# text = #
{word("1", "#", "SYM")}"""


def test_conllu_words_are_tokens_and_comments_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "a.conllu", CONLLU.replace("\n", "\r\n"))
    found = rows(file, TAGS)
    assert found[0].values == {"tokens": ["Do", "n't", "say", "a = b"], "tags": ["AUX", "PART", "VERB", "SYM"]}
    assert found[1].values == {"tokens": ["#"], "tags": ["SYM"]}
    assert [row.place for row in found] == [f"{file}:1", f"{file}:11"]
    assert texts(file) == ["Don't say a = b", "#"]
    assert rows(file, TAGS, columns={"tags": "deprels", "tokens": "lemmas"})[0].values["tokens"] == ["do", "n't", "say", "a = b"]
    assert [row.text for row in rows(file, skip=True, text="sent_id")] == ["made-1"]


def test_bad_conllu_sentences_are_named_or_skipped(tmp_path: Path) -> None:
    for old, new, message in (
        ("3\tsay\tsay", "3\tsay say", r"a.conllu:7: 9 columns; CoNLL-U has 10"),
        ("3\tsay", "5\tsay", r"a.conllu:7: word '5' is in the place of word 3"),
        ("3\tsay", "x\tsay", r"a.conllu:7: word 'x' is in the place of word 3"),
        ("3\tsay\tsay", "3\tsay\t", r"a.conllu:7: column 3 is empty; write _"),
    ):
        assert old in CONLLU
        file = write(tmp_path / "a.conllu", CONLLU.replace(old, new))
        with pytest.raises(DataError, match=message):
            rows(file, TAGS)
        assert [row.values["tokens"] for row in rows(file, TAGS, skip=True)] == [["#"]]


# ---------------------------------------------------------------------------------------------------- lines, and files side by side


@pytest.mark.parametrize(
    ("name", "roles", "content"),
    [
        ("a.jsonl", TEXT, '{"text": "a"}\n{"text": "b"}\n'),
        ("a.lst", TEXT, "a\nb\n"),
        ("a.csv", TEXT, "text,label\na,1\n"),
        ("a.tsv", TEXT, "text\tlabel\na\t1\n"),
        ("a.conll", TAGS, "Anna B-PER\nsleeps O\n"),
        ("a.conllu", TAGS, CONLLU),
    ],
)
def test_rows_that_end_with_carriage_returns_alone_are_refused(tmp_path: Path, name: str, roles: tuple[Role, ...], content: str) -> None:
    """A .conll file was a sentence of one word, and a .lst file a single text; other formats blamed a column or a cut line."""
    assert rows(write(tmp_path / name, content), roles)
    with pytest.raises(DataError) as caught:
        rows(write(tmp_path / name, content.replace("\n", "\r")), roles)
    assert str(caught.value).startswith(f"{tmp_path / name}:1: the lines end with a carriage return alone")
    assert rows(write(tmp_path / name, content.replace("\n", "\r\n")), roles)


def test_each_line_is_a_row_where_the_recipe_says_so(tmp_path: Path) -> None:
    content = "\ufeffone\r\n\ntwo\u2028and\x85a\x0chalf\r\r\n three \rstill"
    for name in ("a.en.gz", "a.lst"):
        file = write(tmp_path / name, gzip.compress(content.encode()) if name.endswith("gz") else content)
        found = rows(file, format="lines")
        assert [row.text for row in found] == ["one", "", "two\u2028and\x85a\x0chalf\r", " three \rstill"]
        assert found[3].place == f"{file}:4"
    assert texts(tmp_path / "a.lst") == texts(tmp_path / "a.lst", format="lines")
    assert len(texts(tmp_path / "a.en.gz")) == 1, "without a word it is one text"
    assert texts(write(tmp_path / "b.lst", "a\r")) == ["a"], "a line end, if no line comes before it"


def test_files_side_by_side_give_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.en.gz", gzip.compress(b"one\ntwo\n\nfour"))
    write(tmp_path / "a.de", "eins\r\nzwei\n\nvier\n")
    found = rows(tmp_path / "a.en.gz", PAIR, format="lines", columns={"source": "text"}, beside={"de": str(tmp_path / "a.de")})
    assert [(row.values["source"], row.values["target"]) for row in found] == [("one", "eins"), ("two", "zwei"), ("", ""), ("four", "vier")]
    write(tmp_path / "b.csv", 'source\nx\n"y\nz"\n')
    write(tmp_path / "b.lst", "0\n1\n")
    found = rows(tmp_path / "b.csv", PAIR, beside={"target": str(tmp_path / "b.lst")})
    assert [row.values["target"] for row in found] == ["0", "1"], "a record is a row, however many lines it has"


def test_several_files_are_parallel_to_as_many_of_as_many_lines(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.en": "one 1\n", "1.de": "eins 1\n", "2.en": "one 2\n", "2.de": "eins 2\n"})
    section: dict[str, Any] = {"format": "lines", "columns": {"source": "text"}}
    found = rows(tmp_path / "*.en", PAIR, beside={"de": str(tmp_path / "*.de")}, **section)
    assert [row.text for row in found] == ["one 1\neins 1", "one 2\neins 2"]
    with pytest.raises(DataError, match=r"1\.de: 1 files parallel to 2"):
        rows(tmp_path / "*.en", PAIR, beside={"de": str(tmp_path / "1.de")}, **section)
    write_files(tmp_path, {"1.de": "", "2.de": "eins\neins\n"})
    with pytest.raises(DataError, match=r"1\.en has 1 row, .*parallel file .*1\.de has 0 lines: they must agree"):
        rows(tmp_path / "*.en", PAIR, beside={"de": str(tmp_path / "*.de")}, **section)
    for lines, beside in ((3, 5), (5, 3), (1200, 1199)):
        write_files(tmp_path, {"a.txt": "x\n" * lines, "b.txt": "y\n" * beside})
        with pytest.raises(DataError, match=rf"a\.txt has {lines:,} rows, .*parallel file .*b\.txt has {beside:,} lines: they must agree"):
            rows(tmp_path / "a.txt", format="lines", beside={"de": str(tmp_path / "b.txt")})


def test_one_path_may_be_absolute_and_the_other_not(tmp_path: Path, in_tmp_path: None) -> None:
    write_files(tmp_path, {"a.en": "a\nb\n", "a.de": "c\nd\n"})
    found = set()
    for path, beside in (("a.en", "a.de"), ("a.en", tmp_path / "a.de"), (tmp_path / "a.en", "a.de")):
        source = opened(path, roles=PAIR, format="lines", beside={"de": str(beside)}, columns={"source": "text"})
        found.add(source.fingerprint())
    assert len(found) == 1


def test_files_that_cannot_be_parallel_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "x\ny\n")
    write(tmp_path / "a.de", b"eins\n\xe9\n")
    beside = {"de": str(tmp_path / "a.de")}
    with pytest.raises(DataError, match=r"a\.txt has 1 row, .* 2 lines: they must agree; if each line is a row, set format: lines"):
        rows(tmp_path / "a.txt", beside=beside)
    with pytest.raises(DataError, match=r"a\.de:2: byte 5 \(0xe9\) is not UTF-8"):
        rows(tmp_path / "a.txt", format="lines", beside=beside)
    assert len(rows(tmp_path / "a.txt", format="lines", beside=beside, skip=True)) == 1
    with pytest.raises(DataError, match=r"a\.txt:1: has a column 'text' itself"):
        rows(tmp_path / "a.txt", format="lines", beside={"text": str(tmp_path / "a.de")})
    zipped(tmp_path / "b.zip", {"a.txt": "x"})
    with pytest.raises(DataError, match=r"b\.zip: an archive cannot be parallel to a file"):
        rows(tmp_path / "a.txt", format="lines", beside={"de": str(tmp_path / "b.zip")})


# -------------------------------------------------------------------------------------------------------------- header and format


def test_a_header_replaces_one_that_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", 'one \tuno\r\n"t\two"\tdue\n')
    found = rows(file, PAIR, header=["source", "target"])
    assert [row.values for row in found] == [{"source": "one ", "target": "uno"}, {"source": "t\two", "target": "due"}]
    assert [row.place for row in found] == [f"{file}:1", f"{file}:2"]
    with pytest.raises(DataError, match=r"a\.tsv:1: 2 fields under a header of 1"):
        rows(file, header=["text"])
    with pytest.raises(DataError, match=r"a\.tsv: no column 'target' or 'de'; columns found: source, other"):
        rows(file, PAIR, header=["source", "other"])
    with pytest.raises(DataError, match=r"a\.tsv:1: the file has this header itself; remove header"):
        rows(file, PAIR, header=["one ", "uno"], columns={"source": "uno", "target": "uno"})
    with pytest.raises(DataError, match=r"a\.jsonl: header names the columns of csv, tsv, conll, lines files, but this is jsonl"):
        rows(write(tmp_path / "a.jsonl", '{"text": "a"}'), header=["text"])


def test_a_format_goes_before_the_suffix(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.json", '{"text": "a"}\n{"text": "b"}\n'), format="jsonl") == ["a", "b"]
    assert texts(write(tmp_path / "a.data", "text;\na;\n"), format="text") == ["text;\na;\n"]
    assert texts(write(tmp_path / "b.data.gz", gzip.compress(b"n,text\n1,a\n")), format="csv") == ["a"]


def test_the_fingerprint_covers_all_that_is_said_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", "x\ty\n")
    write(tmp_path / "a.de", "z\n")

    def fingerprint(**section: Any) -> str:
        roles = (Role("text", "text", ("x", "text")),)
        return opened(tmp_path / "a.tsv", roles=roles, **section).fingerprint()

    beside = str(tmp_path / "a.de")
    kinds: list[dict[str, Any]] = [{"format": "text"}, {"format": "lines"}, {"header": ["x", "b"]}, {"header": ["x", "z"]}]
    kinds += [{"format": "lines", "beside": {name: beside}} for name in ("de", "fr")]
    found = [fingerprint(**kind) for kind in kinds]
    write(tmp_path / "a.de", "w\n")
    found.append(fingerprint(**kinds[-1]))
    assert len(set(found)) == len(found)


def test_the_version_of_a_reader_is_in_the_fingerprints_of_what_it_reads_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a.tsv": "text\nx\n", "b.csv": "text\nx\n", "c.jsonl": '{"text": "x"}\n'}
    for name, content in files.items():
        write(tmp_path / name, content)
        zipped(tmp_path / f"{name}.zip", {name: content})

    def prints() -> dict[str, str]:
        sources = {path.name: opened(path) for path in tmp_path.iterdir()}
        sources["b.csv as tsv"] = opened(tmp_path / "b.csv", format="tsv")
        return {name: source.fingerprint() for name, source in sources.items()}

    before = prints()
    monkeypatch.setattr("tfkit.data.formats.readers.READER_VERSIONS", {"tsv": 99})
    after = prints()
    assert {name for name in before if before[name] != after[name]} == {"a.tsv", "a.tsv.zip", "b.csv as tsv"}
    on_bad_row = {one: opened(tmp_path / "c.jsonl", skip=one == "skip") for one in ("error", "skip")}
    first = {name: source.fingerprint() for name, source in on_bad_row.items()}
    monkeypatch.setattr("tfkit.data.columns.rows.BAD_ROWS_VERSION", 99)
    assert [name for name, source in on_bad_row.items() if source.fingerprint() != first[name]] == ["skip"]
    monkeypatch.setattr("tfkit.data.formats.readers.READER_VERSIONS", {})
    assert {name for name, found in prints().items() if found != before[name]} == {"a.tsv", "a.tsv.zip", "b.csv as tsv"}


# -------------------------------------------------------------------------------------------------------------------------- zip


def test_a_zip_is_read_as_a_folder_is(tmp_path: Path) -> None:
    line = '{"text": "%s"}\n'
    names = {"data/b.jsonl": line % "b1" + line % "b2", "data/a.json": f"[{line % 'a'}]", "data/c.txt.gz": gzip.compress(b"c")}
    extra = {"picture.png": b"\x89PNG", ".hidden.txt": "h", "__MACOSX/data/._b.jsonl": b"\0", "__MACOSX/data/._b.zip": b"\0"}
    pyarrow.parquet.write_table(pyarrow.table({"text": ["e"]}), tmp_path / "e.parquet")
    more = {"d.csv": "text\r\nd\r\n", "data/": "", "e.parquet": (tmp_path / "e.parquet").read_bytes()}
    file = zipped(tmp_path / "a.zip", {**names, **extra, **more})
    assert texts(file) == ["d", "a", "b1", "b2", "c", "e"]
    assert [row.place for row in rows(file)][1:3] == [f"{file}/data/a.json, item 1", f"{file}/data/b.jsonl:1"]
    skipped = "; 5 files in it; 4 other files skipped: picture.png, .hidden.txt, __MACOSX/data/._b.jsonl and 1 more"
    assert opened(file).describe().endswith(skipped)
    assert texts(zipped(tmp_path / "stored.zip", names, compression=zipfile.ZIP_STORED)) == ["a", "b1", "b2", "c"]
    zipped(write_files(tmp_path / "folder", {"a.txt": "y"}) / "b.zip", {"x.txt": "x"})
    assert texts(tmp_path / "folder") == ["y", "x"]


def test_a_fraction_of_every_form_is_held_out(tmp_path: Path) -> None:
    """By the text of a row: of sentences their tokens, of parallel files both sides."""
    zipped(tmp_path / "a.zip", {f"{name}.conll": "".join(f"{name}{i}\tO\n.\tO\n\n" for i in range(100)) for name in "ab"})
    write(tmp_path / "a.en", "".join(f"{i % 150}\n" for i in range(200)))
    write(tmp_path / "a.de", "".join(f"{i % 50}\n" for i in range(200)))
    beside = {"format": "lines", "beside": {"de": str(tmp_path / "a.de")}, "columns": {"source": "text"}}
    for name, section in (("a.zip", {"roles": TAGS}), ("a.en", {"roles": PAIR, **beside})):
        train, held_out = (texts(tmp_path / name, part, 0.3, **section) for part in ("train", "held_out"))
        assert sorted(train + held_out) == sorted(texts(tmp_path / name, **section))
        assert not set(train) & set(held_out)
        assert 30 < len(held_out) < 90


def test_a_folder_is_searched_for_every_format(tmp_path: Path) -> None:
    files = {"a.json": ' \n[{"text": "json"}]', "b.conllu": CONLLU, "labels.lst": "0\n1\n", "c.ndjson": '{"text": "ndjson"}'}
    write_files(tmp_path, files | {"package.json": '{"name": "x", "files": [{"text": "no row"}]}'})
    assert texts(tmp_path) == ["json", "Don't say a = b", "#", "ndjson"]
    assert "2 other files skipped" in opened(tmp_path).describe()


def test_names_in_a_zip_are_never_paths(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    file = zipped(inside / "a.zip", {"../up.txt": "up", "/root.txt": "root", "b\x1b[31m.txt": "red"})
    found = rows(file)
    assert sorted(row.text for row in found) == ["red", "root"], "the first part of ../up.txt begins with a dot"
    assert all(row.place.isprintable() for row in found)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "a.zip"]


def test_what_should_not_be_unpacked_is_refused(tmp_path: Path) -> None:
    plain = zipped(tmp_path / "a.zip", {"a.txt": " ".join(map(str, range(300)))}).read_bytes()
    central, local = plain.index(b"PK\1\2"), plain.index(b"PK\3\4")
    encrypted = bytearray(plain)
    encrypted[central + 8] |= 1
    encrypted[local + 6] |= 1

    def other(files: dict[str, str | bytes], **options: Any) -> bytes:
        return zipped(tmp_path / "b.zip", files, **options).read_bytes()

    for content, message in {
        bytes(encrypted): r"a\.zip/a\.txt: is encrypted; unpack it with its password",
        plain[: central + 24] + struct.pack("<I", 0xFFFFFFF0) + plain[central + 28 :]: r"a\.zip: unpacks to more than 250 times its ",
        plain[:-30]: r"a\.zip: damaged or cut zip file",
        plain[10:]: r"a\.zip",
        b"": r"a\.zip: damaged or cut zip file",
        plain.replace(plain[90:100], b"0123456789"): r"a\.zip/a\.txt: damaged or cut zip file",
        other({"b.zip": plain}): r"a\.zip/b\.zip: an archive in an archive is not opened",
        other({"b.png": b"x"}): r"a\.zip: no text, jsonl, json, csv, tsv, parquet or CoNLL file in this archive",
        other({"b.txt": b"x"}, compression=zipfile.ZIP_BZIP2): r"by another method than deflate",
    }.items():
        with pytest.raises(DataError, match=message):
            rows(write(tmp_path / "a.zip", content), skip=True)


ENDLESS = b'{"text": "' + bytes(50_000_000)
BOMBS: dict[str, Callable[[Path], object]] = {
    "a.jsonl.gz": lambda path: write(path, gzip.compress(ENDLESS)),
    "a.zip": lambda path: zipped(path, {"a.jsonl": ENDLESS}),
    "b.zip": lambda path: zipped(path, {"a.jsonl.gz": gzip.compress(ENDLESS)}),  # where no header states its size
    "a.tar.xz": lambda path: write(path, lzma.compress(tar_header("a.jsonl", len(ENDLESS)) + ENDLESS, preset=0)),
}


def tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()


@pytest.mark.parametrize("name", BOMBS)
def test_a_line_that_never_ends_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("tfkit.data.formats.compression._MIN_BUDGET", 1 << 20)
    BOMBS[name](tmp_path / name)
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"{name}: unpacks to more than 250 times its"):
        rows(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()


def test_a_long_line_of_a_small_archive_is_no_bomb(tmp_path: Path) -> None:
    assert len(texts(zipped(tmp_path / "a.zip", {"a.txt": "x" * 10_000_000}))[0]) == 10_000_000


def test_a_time_of_an_unknown_zone_is_an_error_of_its_row(tmp_path: Path) -> None:
    times = pyarrow.array([1], pyarrow.timestamp("us", tz="Nowhere/Else"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "t": times}), tmp_path / "a.parquet")
    [bad] = read_parquet(content_of(tmp_path / "a.parquet"), Columns((Role("text", "text", ("t",)),)))
    assert isinstance(bad, BadRow)
    assert "a.parquet:1: column 't' holds timestamp[us, tz=Nowhere/Else], not text" in bad.message


def test_parquet_whose_dictionaries_are_counted_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of files whose dictionaries could fill the memory: nested, with nulls, in several row groups, some without a dictionary."""
    texts = [None if i % 5 == 4 else f"text {i % 7}" for i in range(300)]
    table = pyarrow.table(
        {
            "text": [text or "" for text in texts],
            "messages": [[{"role": "user", "content": text}] * (i % 3) if i % 11 else None for i, text in enumerate(texts)],
            "kind": pyarrow.array(texts).dictionary_encode(),
            "numbers": [[i, None] for i in range(300)],
            "counts": pyarrow.array(
                [[(text, i)] * (i % 3) if text else None for i, text in enumerate(texts)], pyarrow.map_(pyarrow.string(), pyarrow.int64())
            ),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100, use_dictionary=["messages.list.element.content", "text"])
    every = Columns(tuple(Role(name, "text", (name,), required=False) for name in table.column_names))
    content = content_of(tmp_path / "a.parquet")
    expected = list(read_parquet(content, every))
    assert [record.values for record in expected if isinstance(record, Record)] == table.to_pylist()
    monkeypatch.setattr(parquet, "_MAX_DECODED", 0)
    assert list(read_parquet(content, every)) == expected
