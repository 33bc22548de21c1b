"""Layouts and columns that are recognised by content: delimiters, headers, CoNLL, keys and arrays of JSON, names of public data sets."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_sources import both_sides, first_values, opened, values, write_files

from tfkit.data import Row, open_source
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import find_labels
from tfkit.data.formats.detection import detect_json_lines
from tfkit.data.formats.file_content import content_of
from tfkit.data.sources.prediction_rows import PredictionColumns, prediction_rows
from tfkit.data.sources.split_files import evaluated_files
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, MultiLabelSection, TaggingSection
from tfkit.recipe.schema.objective_sections import ChatSection, TextToTextSection
from tfkit.recipe.schema.question_answering_section import QuestionAnsweringSection
from tfkit.recipe.schema.roles import TEXT, Role

CLASSES, TAGS, PAIRS = ClassificationSection.roles, TaggingSection.roles, TextToTextSection.roles
Roles = tuple[Role, ...]


def source(path: Path, roles: Roles = CLASSES, split_by: str = "input", **section: Any) -> Any:
    return opened(path, roles=roles, split_by=split_by, **section)


def rows(path: Path, roles: Roles = CLASSES, **section: Any) -> list[dict[str, Any]]:
    return values(path, roles, **section)


REVIEWS = [
    (f"film {i}{', ' * (i % 3)} {'bad' if i % 2 else 'good'} and long", "neg" if i % 2 else "pos") for i in range(40)
]  # pos: of tags, too


@pytest.mark.parametrize(("delimiter", "named"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), (",", "")])
@pytest.mark.parametrize("header", [True, False])
def test_delimiters_and_a_missing_header_are_recognised_and_reported(tmp_path: Path, delimiter: str, named: str, header: bool) -> None:
    lines = [f'"{text}"{delimiter}{label}' if delimiter == "," else f"{text}{delimiter}{label}" for text, label in REVIEWS]
    (tmp_path / "a.csv").write_text("\n".join([f"text{delimiter}label"] * header + lines) + "\n")
    assert rows(tmp_path / "a.csv") == first_values(tmp_path / "a.csv") == [{"text": text, "label": label} for text, label in REVIEWS]
    said = source(tmp_path / "a.csv").describe()
    assert (f"separated by {named}" in said) == bool(named)
    assert ("without a header, read as text, label" in said) == (not header)


def test_columns_without_names_have_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f"{i}\t{i % 3}\tfirst text {i}\tsecond text {i}\n" for i in range(60)))
    assert rows(tmp_path / "a.tsv")[7] == {"text": "first text 7", "pair": "second text 7", "label": "1"}
    assert rows(tmp_path / "a.tsv", columns={"text": "3", "label": "0"})[7] == {"text": "second text 7", "label": "7"}
    assert [*first_values(tmp_path / "a.tsv", columns={"text": "3", "label": "0"})[0]] == ["0", "1", "2", "3"]
    (tmp_path / "b.tsv").write_text("".join(f"A text {i}.\tUn texte {i}.\n" for i in range(60)))
    assert rows(tmp_path / "b.tsv", PAIRS)[3] == {"source": "A text 3.", "target": ["Un texte 3."]}


@pytest.mark.parametrize("first", ["id;opinion", "Kommentar,opinion", "label,2020"])
def test_a_first_row_that_may_be_a_header_is_one(tmp_path: Path, first: str) -> None:
    sign = ";" if ";" in first else ","
    (tmp_path / "a.csv").write_text("\n".join([first, *(f"text {i}{sign}{i % 2}" for i in range(40))]) + "\n")
    names = first.split(sign)
    assert rows(tmp_path / "a.csv", columns={"text": names[0], "label": names[1]})[0] == {"text": "text 0", "label": "0"}


def test_the_layout_of_a_table_with_a_long_field_is_recognised_at_once(tmp_path: Path) -> None:
    """By default the module csv refuses fields over 128 kB; a limit is that of the whole process."""
    (tmp_path / "a.csv").write_text(f"text;label\nfine;good\n{'long ' * 30_000};bad\nfine, too;good\n")
    before = csv.field_size_limit(131_072)
    try:
        assert [row["label"] for row in rows(tmp_path / "a.csv")] == ["good", "bad", "good"]
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize("empty", [";", ";;"])
def test_empty_cells_at_the_end_of_each_line_are_no_labels(tmp_path: Path, empty: str) -> None:
    lines = ["Nr;Kommentar des Kunden;Bewertung", *(f"{i};text {i};{'gut' if i % 2 else 'schlecht'}" for i in range(40))]
    (tmp_path / "a.csv").write_text("".join(f"{line}{empty}\n" for line in lines))
    assert [*first_values(tmp_path / "a.csv")[0]][:3] == ["Nr", "Kommentar des Kunden", "Bewertung"]


@pytest.mark.parametrize("first", ["Which of these numbers is a prime, and which is not?", "2 + 2 ="])
@pytest.mark.parametrize("letters", ["DBCAD", "AABBA"])
def test_a_question_its_answers_and_a_letter_need_no_header(tmp_path: Path, first: str, letters: str) -> None:
    """As in MMLU's files, also in those of five rows."""
    lines = [f'"{f"How, {n}?" if n else first}",{n},"{n}, or",{n}{n},all,{letter}' for n, letter in enumerate(letters)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    found = first_values(tmp_path / "a.csv")
    assert found[0] == {"question": first, "A": "0", "B": "0, or", "C": "00", "D": "all", "answer": letters[0]}
    assert len(found) == 5


def test_letters_alone_are_no_question_with_answers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("A\nB\nA\nC\n")
    assert {len(record) for record in first_values(tmp_path / "a.csv")} == {1}
    (tmp_path / "a.json").write_text('[[], ["a text", "b"]]')
    with pytest.raises(DataError, match=r"a\.json, item 2: expected a JSON object, found list"):
        rows(tmp_path / "a.json")


def test_an_attribution_is_no_text(tmp_path: Path) -> None:
    """As in Tatoeba's pairs for Anki, which begin with words that recur."""
    said = "CC-BY 2.0 (France) Attribution: tatoeba.org #{0} (CM) & #{0}"
    lines = [f"{'Go.' if n < 90 else f'We go, {n}.'}\t{['Va !', 'Allez.', 'Marche.'][n % 3]}\t{said.format(n)}" for n in range(300)]
    (tmp_path / "fra.txt").write_text("\n".join(lines) + "\n")
    assert rows(tmp_path / "fra.txt", PAIRS)[4] == {"source": "Go.", "target": ["Allez."]}


WORDS = {"Kaggle's names": ("Sentence #,Word,POS,Tag\n", "Sentence: {n}"), "a number in each row": ("sentence_id,token,pos,ner\n", "{n}")}


@pytest.mark.parametrize("name", [*WORDS, "blank rows"])
def test_a_word_in_each_row_of_a_table_is_joined_to_sentences(tmp_path: Path, name: str) -> None:
    header, number = WORDS.get(name, ("word,pos,tag\n", ""))
    mark = f"{number}," if number else ""
    once = number.startswith("S")
    sentences = [
        f"{mark.format(n=n)}Bonn{n},NNP,B-geo\n{',' if once else mark.format(n=n)}lies,VB,O\n" + ",,\n" * (not number) for n in range(30)
    ]
    (tmp_path / "ner.csv").write_text(header + "".join(sentences))
    assert rows(tmp_path / "ner.csv", TAGS)[7] == {"tokens": ["Bonn7", "lies"], "tags": ["B-geo", "O"]}
    named = {"tokens": header.strip().split(",")[-3], "tags": header.strip().split(",")[-2]}
    assert rows(tmp_path / "ner.csv", TAGS, columns=named)[7] == {"tokens": ["Bonn7", "lies"], "tags": ["NNP", "VB"]}
    assert rows(tmp_path / "ner.csv", (Role("text", "text", (named["tokens"],)),))[:2] == [{"text": "Bonn0"}, {"text": "lies"}]


def test_sentences_of_a_table_with_a_sentence_in_each_row_are_not_joined(tmp_path: Path) -> None:
    """Whose tokens and tags may be texts."""
    (tmp_path / "ner.csv").write_text("sentence_id,tokens,tags\n1,Bonn lies,B-geo O\n2,Rain,O\n3,It is,O O\n")
    expected = [(["Bonn", "lies"], ["B-geo", "O"]), (["Rain"], ["O"]), (["It", "is"], ["O", "O"])]
    assert rows(tmp_path / "ner.csv", TAGS) == [{"tokens": tokens, "tags": tags} for tokens, tags in expected]


def test_words_are_joined_to_sentences_also_if_the_first_row_is_bad(tmp_path: Path) -> None:
    words = "".join(f"{n // 2 + 2},w{n},T{n}\n" for n in range(6))
    (tmp_path / "ner.csv").write_text(f"sentence_id,word,tag\n1,one,field,too many\n{words}")
    found = opened(tmp_path / "ner.csv", roles=TAGS, skip=True)
    assert [row.values["tokens"] for row in found.rows()] == [["w0", "w1"], ["w2", "w3"], ["w4", "w5"]]


@pytest.mark.parametrize(("name", "texts"), [("tag", "patterns"), ("intent", "text")])
def test_each_text_of_an_intent_is_a_row_also_to_predict(tmp_path: Path, name: str, texts: str) -> None:
    intents = [{name: f"tag {n}", texts: [f"say {n}", f"tell {n}"], "responses": ["Yes."]} for n in range(3)]
    (tmp_path / "intents.json").write_text(json.dumps({"intents": intents}))
    assert rows(tmp_path / "intents.json")[2:4] == [{"text": "say 1", "label": "tag 1"}, {"text": "tell 1", "label": "tag 1"}]
    assert source(tmp_path / "intents.json").rows().__next__().place.endswith("intents.json, item 1, text 1")
    columns = PredictionColumns(ClassificationSection(kind="classification").asked_roles)
    inputs = prediction_rows(open_source(SourceSection(path=str(tmp_path / "intents.json")), "all", None, columns=columns))
    assert [one.row.values["text"] for one in inputs] == ["say 0", "tell 0", "say 1", "tell 1", "say 2", "tell 2"]


def test_as_in_0_1_nothing_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\na;b\n" * 3)
    with pytest.raises(DataError, match="columns found: text;label"):
        source(tmp_path / "a.csv", split_by="row")
    (tmp_path / "words.txt").write_text("a O\nb O\nc O\n\nd O\n")
    assert source(tmp_path / "words.txt", TEXT, split_by="row")
    with pytest.raises(DataError, match="no column 'tokens'"):
        source(tmp_path / "words.txt", TAGS, split_by="row")


CONLL = "-DOCSTART- -X- O\n\n" + "".join(f"EU{i} NNP B-ORG\nrejects VBZ O\n. . O\n\n" for i in range(5))
CONLLU = "# text = a b\n1\ta\ta\tDET\tD\t_\t2\tdet\t_\t_\n2\tb\tb\tNOUN\tN\t_\t0\troot\t_\t_\n\n" * 3
POS = "".join(f"the\tDET\nword{i}\tNOUN\n.\tPUNCT\n\n" for i in range(9))


@pytest.mark.parametrize("name", ["a.txt", "eng.train", "a.tsv", "a"])
@pytest.mark.parametrize(("text", "tags"), [(CONLL, ["B-ORG", "O", "O"]), (CONLLU, ["DET", "NOUN"]), (POS, ["DET", "NOUN", "PUNCT"])])
def test_conll_is_recognised_whatever_its_name(tmp_path: Path, name: str, text: str, tags: list[str]) -> None:
    (tmp_path / name).write_text(text)
    found = rows(tmp_path / name, TAGS)
    assert found[0]["tags"] == tags
    assert f"read as conll{'u' * (text == CONLLU)}, by its lines" in source(tmp_path / name, TAGS).describe()
    if not name.endswith(".tsv"):  # a language model reads the text
        assert rows(tmp_path / name, TEXT) == [{"text": text}]


@pytest.mark.parametrize(
    ("roles", "missing", "text"),
    [
        *((TAGS, "tokens", text) for text in ("A poem\nof lines\n\nand O\n", "one two\nthree four\n\nfive six\n", "a O\nb O\n")),
        *((CLASSES, "label", text) for text in ("a\tb\nc\td\n\ne\tf\n", "a\tb\nc\te\tf\ng\th\n", "a\tb\n", "def f():\n\tx\n\ty\n")),
    ],
)
def test_prose_is_no_conll_and_with_tabs_no_table(tmp_path: Path, roles: Roles, missing: str, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=f"no column '{missing}'"):
        rows(tmp_path / "a.txt", roles)


def test_readmes_and_licences_of_a_folder_are_no_data(tmp_path: Path) -> None:
    names = ("README.md", "readme.txt", "LICENSE.txt", "LICENCE.md", "a.txt", "sub/README.rst", "licenses.txt")
    write_files(tmp_path, {name: name for name in names})
    assert [row["text"] for row in rows(tmp_path, TEXT)] == ["a.txt", "licenses.txt"]
    assert len([*source(tmp_path, TEXT, "row").rows()]) == 7
    assert [row["text"] for row in rows(tmp_path / "README.md", TEXT)] == ["README.md"]
    assert [row["text"] for row in rows(tmp_path / "sub", TEXT)] == ["sub/README.rst"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("README.txt", "b.txt"):
            archive.writestr(name, name)
    assert [row["text"] for row in rows(tmp_path / "a.zip", TEXT)] == ["b.txt"]
    assert len([*source(tmp_path / "a.zip", TEXT, "row").rows()]) == 2


def objects(name: str) -> list[dict[str, str]]:
    return [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(4)]


def test_a_key_of_a_json_object_can_be_a_split_or_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "train": objects("train"), "dev": objects("dev"), "test": objects("test"), "notes": [{}]}))
    train, held_out = both_sides(path, CLASSES, 0.1)
    assert [row.text for row in (*train.rows(), *held_out.rows())] == [f"{name} {i}" for name in ("train", "dev") for i in range(4)]
    assert next(iter(train.rows())).place == f"{path}, train item 1"
    assert "train to train on, dev to validate on, test kept for tfkit evaluate, notes not read" in train.describe()
    assert train.fingerprint() != held_out.fingerprint()
    assert evaluated_files(str(path)) == "test"
    assert [row["text"] for row in rows(path, field="test")] == [f"test {i}" for i in range(4)]
    path.write_text(json.dumps({"good": objects("a"), "bad": objects("b")}))
    with pytest.raises(DataError, match=r"holds several arrays of objects \(good, bad\); name the one with the rows: field: NAME"):
        rows(path)
    assert [row["text"] for row in rows(path, field="bad")] == [f"b {i}" for i in range(4)]
    with pytest.raises(DataError, match="no array under 'ugly'"):
        rows(path, field="ugly")


def test_arrays_of_arrays_have_a_header_or_columns_by_number(tmp_path: Path) -> None:
    path, reviews = tmp_path / "a.json", [*map(list, REVIEWS)]
    path.write_text(json.dumps([["text", "label"], *reviews]))
    assert rows(path) == [{"text": text, "label": label} for text, label in REVIEWS]
    for bad, said in ((["too", "many", "cells"], "3 values in a row of 2 columns"), ({}, "expected an array of 2 values, found dict")):
        path.write_text(json.dumps([*reviews, bad]))
        with pytest.raises(DataError, match=rf"item 41: {said}; repair the row"):
            rows(path)
    path.write_text(json.dumps({"train": reviews, "val": [["one of these", "pos"]] * 9, "oos_test": [["what", "neg"]]}))
    for columns in ({}, {"text": "0", "label": "1"}):
        train, held_out = both_sides(path, CLASSES, 0.1, columns=columns)
        assert [row.text for row in train.rows()] == [text.strip() for text, _ in REVIEWS]
        assert len([*held_out.rows()]) == 9
    path.write_text(json.dumps([[i, f"name{i}", 2 * i] for i in range(30)]))
    assert rows(path, columns={"text": "1", "label": "2"})[3] == {"text": "name3", "label": "6"}


PUBLIC: dict[str, tuple[Roles, dict[str, Any], dict[str, str]]] = {
    "IMDB of Kaggle": (CLASSES, {"review": "a", "sentiment": "positive"}, {"text": "review", "label": "sentiment"}),
    "Yelp": (CLASSES, {"Review Text": "a", "Rating": 3}, {"text": "Review Text", "label": "Rating"}),
    "SMS spam": (CLASSES, {"v1": "ham", "v2": "a"}, {"text": "v2", "label": "v1"}),
    "tweets": (CLASSES, {"id": 1, "tweet": "a", "target": 0}, {"text": "tweet", "label": "target"}),
    "SST of Kaggle": (CLASSES, {"Phrase": "a", "Sentiment": 2}, {"text": "Phrase", "label": "Sentiment"}),
    "airlines": (CLASSES, {"text": "a", "airline_sentiment": "neutral"}, {"text": "text", "label": "airline_sentiment"}),
    "SICK": (
        CLASSES,
        {"sentence_A": "a", "sentence_B": "b", "entailment_label": "x"},
        {"text": "sentence_A", "pair": "sentence_B", "label": "entailment_label"},
    ),
    "capitals": (CLASSES, {"Text": "a", "Label": "x"}, {"text": "Text", "label": "Label"}),
    "as in 0.1": (CLASSES, {"Text": "a", "text": "b", "label": "x", "sentiment": "y", "text2": "c"}, {"text": "text", "label": "label"}),
    "E2E": (PAIRS, {"mr": "name[a]", "ref": "b"}, {"source": "mr", "target": "ref"}),
    "WikiLarge": (PAIRS, {"complex": "a", "simple": "b"}, {"source": "complex", "target": "simple"}),
    "MATH": (ChatSection.roles, {"problem": "a", "solution": "b"}, {"instruction": "problem", "output": "solution"}),
    "tags": (TAGS, {"Tokens": ["a"], "ner_tag": ["O"]}, {"tokens": "Tokens", "tags": "ner_tag"}),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_columns_of_public_data_sets_are_recognised(name: str) -> None:
    roles, record, wanted = PUBLIC[name]
    columns = Columns(roles)
    assert columns.read_of(record) == wanted
    assert isinstance(columns.take(Record(record, "a:1")), Row)
    columns.check(record, "a")
    assert set(wanted.values()) <= {*columns.select_read(record)}


def test_as_many_classes_as_rows_are_asked_about(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"a.csv": "text,label\n" + "".join(f"text {i},id-{i}\n" for i in range(30))}) / "a.csv"
    with pytest.raises(DataError, match=r"^[^,]+a.csv: 30 different labels in 30 rows, so hardly any class has two rows; name the column "):
        find_labels([*both_sides(path, CLASSES, 0.3)])
    path.write_text("text,label\n" + "".join(f"a text,id-{i % 15}\n" for i in range(30)))
    assert len(find_labels([source(path)])) == 15


@pytest.mark.parametrize("sign", ";|")
def test_quotes_in_files_of_other_delimiters_are_quotes_only_where_that_fits(tmp_path: Path, sign: str) -> None:
    lines = [f'"well" said, {i}{sign}{i % 2}' if i % 3 else f'"two{sign}parts {i}"{sign}{i % 2}' for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join([f"text{sign}label", *lines]) + "\n")
    found = rows(tmp_path / "a.csv")
    assert [row["text"] for row in found[:3]] == [f"two{sign}parts 0", '"well" said, 1', '"well" said, 2']
    assert len(found) == 40


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize(
    "row", [{"text": "a", "label": "b"}, {"text": "c", "label": "d", "turns": [{"from": "x"}]}, {"text": "e", "label": "f", "at": {"x": 1}}]
)
def test_json_lines_may_be_called_json(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    """Also if a row holds the array of objects that would be the rows of a single JSON object."""
    compress: Callable[[bytes], bytes] = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(compress(b"\n" + b"\n\n".join([json.dumps(row).encode()] * 3)))
    assert rows(tmp_path / name) == [{"text": row["text"], "label": row["label"]}] * 3
    assert rows(tmp_path) == rows(tmp_path / name)
    assert "read as jsonl, by its lines" in source(tmp_path / name).describe()
    with pytest.raises(DataError):
        source(tmp_path / name, split_by="row")  # as in tfkit 0.1


@pytest.mark.parametrize("text", ['{"text": "a"}', '{"rows": [\n{"text": "a"},\n{"text": "b"}\n]}', '{"rows": [{"text": "a"}]}\n\n'])
def test_one_json_object_is_no_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert not detect_json_lines(content_of(tmp_path / "a.json"))


FLAGS = "ID\tTweet\tjoy\tfear\n" + "".join(f"t{i}\ta text of number {i}\t{i % 2}\t{i % 3 // 2}\n" for i in range(30))
NAMED = {"text": "Tweet", "labels": ["joy", "fear"]}


@pytest.mark.parametrize("name", ["a.txt", "SMSSpamCollection", "a.train"])
def test_a_text_of_a_table_is_one_where_labels_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FLAGS)
    found = rows(tmp_path / name, MultiLabelSection.roles, columns=NAMED)
    assert found[1] == {"text": "a text of number 1", "labels": {"joy": True, "fear": False}}
    assert "read as tsv, by its lines" in source(tmp_path / name, MultiLabelSection.roles, columns=NAMED).describe()
    assert rows(tmp_path / name, TEXT) == [{"text": FLAGS}]  # a language model reads the text
    assert list(first_values(tmp_path / name)[0]) == ["ID", "Tweet", "joy", "fear"]
    with pytest.raises(DataError, match="no column"):
        source(tmp_path / name, MultiLabelSection.roles, columns=NAMED, split_by="row")


def test_scores_without_a_header_are_labels_and_numbers_of_rows_are_not(tmp_path: Path) -> None:
    """As in the multilingual STS benchmark. A whole number in each row may count the rows."""
    for name, third in {"scores": "{}.{}", "numbers": "{}{}"}.items():
        lines = [f"A text {i} of it.,Another {i} of it.,{third.format(i % 5, i)}" for i in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    assert rows(tmp_path / "scores.csv")[7] == {"text": "A text 7 of it.", "pair": "Another 7 of it.", "label": "2.7"}
    assert "read as text, pair, label" in source(tmp_path / "scores.csv").describe()
    assert "read as source, target, 2" in source(tmp_path / "numbers.csv", PAIRS).describe()


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_contexts_with_questions_are_rows_of_question_answering(tmp_path: Path, suffix: str) -> None:
    """CMRC has answers without positions, and other names. Whoever reads the contexts alone reads each once."""
    asked = [{"query_text": "who", "answers": ["cat"]}, {"query_text": "where", "answers": ["sat", "no such"]}]
    contexts = [{"context_text": "the cat sat", "qas": asked}, {"context_text": "a dog", "qas": []}]
    (tmp_path / f"a.{suffix}").write_text(json.dumps(contexts) if suffix == "json" else "\n".join(map(json.dumps, contexts)))
    found = rows(tmp_path / f"a.{suffix}", QuestionAnsweringSection.roles)
    assert [(row["question"], row["context"], [one["text"] for one in row["answers"]]) for row in found] == [
        ("who", "the cat sat", ["cat"]),
        ("where", "the cat sat", ["sat", "no such"]),
    ]
    assert [row["text"] for row in rows(tmp_path / f"a.{suffix}", TEXT, text="context_text")] == ["the cat sat", "a dog"]


WESTERN = ["El ingenioso hidalgo, señor de él", "£5m for “this” deal – he’s", "São Paulo não é", "va à Paris été créée", "Þetta er æðið"]
OTHERS = [
    ("Было очень хорошо", "cp1251"),
    ("było łatwo", "cp1250"),
    ("还没使用", "gbk"),
    ("abc\0é", "latin-1"),
    ("é", "latin-1"),
    ("aÿ", "cp1252"),
]


def test_texts_in_windows_1252_are_read_and_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for short in WESTERN:
        text = " ".join([short] * 20)
        path.write_bytes(text.encode("cp1252"))
        assert rows(path, TEXT) == [{"text": text}]
        assert "a.txt not in UTF-8, read as Windows-1252" in source(path, TEXT).describe()
    path.write_text("señor", encoding="utf-8")
    assert "Windows" not in source(path, TEXT).describe()


def test_what_is_too_short_to_judge_or_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(WESTERN[0].encode("cp1252"))
    (tmp_path / "a.csv").write_bytes(("text,n\n" + f"{WESTERN[0]};,1\n" * 20).encode("cp1252"))
    for name in ("a.txt", "a.csv"):
        with pytest.raises(DataError, match="is not UTF-8; convert the file"):
            rows(tmp_path / name, TEXT)
    (tmp_path / "b.txt").write_text("a text")
    assert "Windows" not in source(tmp_path / "*.txt", TEXT, skip=True).describe()
    (tmp_path / "b.txt").write_bytes(f"one\n{WESTERN[0] * 20}".encode("cp1252"))
    assert "Windows" not in source(tmp_path / "b.txt", TEXT, skip=True, format="lines").describe()


FOREIGN = {f"{text} in {encoding}": " ".join([text] * 80).encode(encoding) for text, encoding in OTHERS}
FOREIGN["damaged, with a mark"] = b"\xef\xbb\xbfcaf\xe9" + b" and more" * 30
FOREIGN["damaged"] = "déjà vu caf".encode() + b"\xe9" + b" and more" * 30


@pytest.mark.parametrize("name", FOREIGN)
def test_files_in_other_encodings_and_damaged_utf8_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_bytes(FOREIGN[name])
    with pytest.raises(DataError, match="is not UTF-8" if name.startswith("damaged") else "is not UTF-8; convert the file"):
        rows(tmp_path / "a.txt", TEXT)


def test_folders_of_texts_are_classes_where_a_label_is_read(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {f"{label}/{number}.txt": f"text {number}" for label, first in (("sport", 0), ("art", 1)) for number in range(first, 12, 2)},
    )
    assert {row["text"]: row["label"] for row in rows(tmp_path)} == {f"text {n}": ["sport", "art"][n % 2] for n in range(12)}
    assert "the classes art, sport, by folder" in source(tmp_path).describe()
    assert "label" not in rows(tmp_path, TEXT)[0]
    with pytest.raises(DataError, match="no column 'label'"):
        rows(tmp_path / "art")
    (tmp_path / "art").rename(tmp_path / "test")  # the folder of a split, not of a class
    with pytest.raises(DataError, match="no column 'label'"):
        rows(tmp_path, files="all")


@pytest.mark.parametrize(
    ("line", "label"),
    [("__label__good {}", "good"), ("__label__good __label__long {}", "good|long"), ("__label__good {} __label__odd", "good|odd")],
)
def test_labels_that_are_marked_as_fasttext_marks_them(tmp_path: Path, line: str, label: str) -> None:
    texts = [f"film  {number}, and long" for number in range(4)]
    (tmp_path / "train").write_text("".join(line.format(text) + "\n" for text in texts) + "\n", encoding="utf-8")
    assert rows(tmp_path / "train") == [{"text": text, "label": label} for text in texts]
    assert "read as fasttext, by its lines" in source(tmp_path / "train").describe()
    assert len(rows(tmp_path / "train", TEXT)) == 1, "a text, where texts are read alone"
    with (tmp_path / "train").open("a", encoding="utf-8") as file:
        file.write("a line without a label\n")
    with pytest.raises(DataError):
        rows(tmp_path / "train")
