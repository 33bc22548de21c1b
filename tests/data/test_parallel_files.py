"""Parallel files: recognised by their names, read as rows with a column from each, and never mixed into one text."""

import gzip
from pathlib import Path

import pytest
from tiny_sources import opened, values

from tfkit.data.sources.open_sources import open_source, training_sources, validation_sources
from tfkit.data.sources.prediction_rows import first_records
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, TaggingSection
from tfkit.recipe.schema.objective_sections import TextToTextSection
from tfkit.recipe.schema.roles import TEXT

LABELLED, TRANSLATED = ClassificationSection.roles, TextToTextSection.roles


def write(folder: Path, **files: list[str] | str) -> Path:
    """Write lines to files whose names have __ for a dot, and / for two underscores more."""
    for name, lines in files.items():
        path = folder / name.replace("____", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{line}\n" for line in lines).encode() if isinstance(lines, list) else lines.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return folder


def lines(name: str, count: int = 4) -> list[str]:
    return [f"{name} {number}" for number in range(count)]


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    """TweetEval's layout."""
    files = {f"{split}_text__txt": lines(split) for split in ("train", "val", "test")}
    files |= {f"{split}_labels__txt": ["1", "0", "1", "2"] for split in ("train", "val", "test")}
    return write(tmp_path, **files, mapping__txt="0\tanger\n1\tjoy\t_with_a_picture_\n2\tvery sad")


def test_texts_beside_their_labels(tweets: Path) -> None:
    expected = [{"text": f"train {n}", "label": label} for n, label in enumerate(["joy", "anger", "joy", "very sad"])]
    assert values(tweets / "train_text.txt", LABELLED) == expected
    assert values(tweets, LABELLED, files="train") == values(tweets / "train_*.txt", LABELLED) == expected
    data = DataSection(train=[SourceSection(path=str(tweets))], validation=0.5)
    [train], [held_out] = training_sources(data, LABELLED), validation_sources(data, LABELLED)
    assert [row.text for row in train.rows()] == lines("train")
    assert [row.text for row in held_out.rows()] == lines("val")
    assert "a row on each line: text, label; class names of mapping.txt; by their names train_text.txt to train on" in train.describe()
    given = SourceSection(path=str(tweets / "train_text.txt"), format="lines", beside={"label": str(tweets / "train_labels.txt")})
    explicit = given.model_copy(update={"class_names": str(tweets / "mapping.txt")})
    assert [dict(row.values) for row in open_source(explicit, "all", None, roles=LABELLED).rows()] == expected


def test_labels_are_no_text(tweets: Path) -> None:
    """A language model reads the texts of a folder alone, a file that is named as one text, and labels only if they are named."""
    assert [row["text"] for row in values(tweets, TEXT, files="train")] == lines("train")
    write(tweets, notes__txt="notes")
    assert "beside them notes.txt, not read" in opened(tweets).describe()
    for name in ("train_text.txt", "train_labels.txt"):
        assert [row["text"] for row in values(tweets / name, TEXT)] == [(tweets / name).read_text()]
    assert len(values(tweets, TEXT, format="text", files="train")) == 2
    assert [record.values for record in first_records(SourceSection(path=str(tweets / "train_labels.txt")))] == [{"text": "1\n0\n1\n2\n"}]


@pytest.mark.parametrize("suffix", ["", "__gz", "__txt"])
def test_languages_in_files_of_equally_many_lines(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "val"):
        write(tmp_path, **{f"{split}__{language}{suffix}": lines(f"{split} {language}") for language in ("cs", "pl", "en")})
    columns = {"source": "pl", "target": "en"}
    found = values(tmp_path, TRANSLATED, columns=columns, files="train")
    assert found == [{"source": f"train pl {n}", "target": [f"train en {n}"]} for n in range(4)]
    [path] = tmp_path.glob("train.pl*")
    assert values(path, TRANSLATED, columns=columns) == found
    assert [*first_records(SourceSection(path=str(path)))[0].values] == ["pl", "cs", "en"], "that of the file that is named first"
    assert {row["text"] for row in values(tmp_path / "train.*", TEXT)} == {
        "".join(f"train {language} {n}\n" for n in range(4)) for language in ("cs", "pl", "en")
    }, "a language model reads all languages, each file as a text"


def test_other_names_of_a_source_and_its_target(tmp_path: Path) -> None:
    write(
        tmp_path, a____src__txt=lines("one"), a____tgt__txt=lines("uno"), b____train__source=lines("two"), b____train__target=lines("due")
    )
    for path in ("a", "a/src.txt"):
        assert values(tmp_path / path, TRANSLATED)[1] == {"source": "one 1", "target": ["uno 1"]}
    assert values(tmp_path / "b", TRANSLATED)[1] == {"source": "two 1", "target": ["due 1"]}


def test_what_is_not_parallel_is_read_as_before(tmp_path: Path) -> None:
    write(tmp_path, a____my_text__txt=["one"], a____your_text__txt=["two"])
    write(
        tmp_path,
        b____train__de=lines("de", 5),
        b____train__en=lines("en", 4),
        c____train_text__txt=["a"],
        c____rows__jsonl='{"text": "b"}\n',
    )
    assert values(tmp_path / "a", TEXT) == [{"text": "one\n"}, {"text": "two\n"}]
    assert [record.values["text"].count("\n") for record in first_records(SourceSection(path=str(tmp_path / "b")))] == [5, 4]
    assert len(values(tmp_path / "c", TEXT)) == 2
    write(tmp_path, d____main__cs=["one"], d____main__ts=["two"], d____other__ts=["three"])
    assert len(first_records(SourceSection(path=str(tmp_path / "d")))) == 3, "programs whose suffixes are languages, too"


def test_labels_that_are_too_few_are_named(tmp_path: Path) -> None:
    write(tmp_path, train_text__txt=lines("a", 5), train_labels__txt=["1"] * 4)
    with pytest.raises(
        DataError, match=r"train_text.txt has 5 rows, but the parallel file .*train_labels.txt has 4 lines: they must agree"
    ):
        values(tmp_path, LABELLED)


@pytest.mark.parametrize(
    ("given", "labels", "said"),
    [
        (["no", "yes"], ["1", "0", "yes"], ["yes", "no", "yes"]),
        ("no\nyes\n", ["1", "0"], ["yes", "no"]),
        ("1 yes indeed\n0 no\n", ["1", "0"], ["yes indeed", "no"]),
        (["no", "yes"], ["0", "2"], "column 'label' holds '2', not a class from 0 to 1"),
        (["no", "yes"], ["9" * 5000], "column 'label' holds '9{79}, not a class from 0 to 1"),
        (["no", "yes"], ["maybe"], "column 'label' holds 'maybe', not a class from 0 to 1"),
        ("1 yes\n2 no\n", ["1"], "the numbers of the classes are not 0 to 1, each once"),
    ],
)
def test_class_names(tmp_path: Path, given: list[str] | str, labels: list[str], said: list[str] | str) -> None:
    write(tmp_path, a__csv=["text,label", *(f"text {label},{label}" for label in labels)])
    if isinstance(given, str):
        write(tmp_path, names=given)
    source = {"class_names": given if isinstance(given, list) else str(tmp_path / "names")}
    if isinstance(said, list):
        assert [row["label"] for row in values(tmp_path / "a.csv", LABELLED, **source)] == said
    else:
        with pytest.raises(DataError, match=said):
            values(tmp_path / "a.csv", LABELLED, **source)


def test_class_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a__csv=["text,label", "one,0", "two,1"])
    (tmp_path / "names").write_bytes(b"b\xe9ret\nhat\n")
    with pytest.raises(DataError, match=r"names:1: byte 1 \(0xe9\) is not UTF-8; convert the file"):
        values(tmp_path / "a.csv", LABELLED, class_names=str(tmp_path / "names"))


def test_class_names_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path, a__csv=["text,label", "one,0", "two,1"])
    fingerprints = {
        opened(tmp_path / "a.csv", roles=LABELLED, class_names=names).fingerprint() for names in (None, ["no", "yes"], ["yes", "no"])
    }
    assert len(fingerprints) == 3


def test_words_beside_their_tags(tmp_path: Path) -> None:
    """The layout of ATIS and SNIPS; what is not read is named."""
    for name, lines in {"seq.in": "fly to boston \ngo home \n", "seq.out": "O O B-city \nO B-city \n", "label": "flight\nroute\n"}.items():
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_text(lines, encoding="utf-8")
    [source] = training_sources(DataSection(train=[SourceSection(path=str(tmp_path))]), TaggingSection.roles)
    assert [dict(row.values) for row in source.rows()] == [
        {"tokens": ["fly", "to", "boston"], "tags": ["O", "O", "B-city"]},
        {"tokens": ["go", "home"], "tags": ["O", "B-city"]},
    ]
    assert "parallel files, a row on each line: tokens, tags; beside them label, not read" in source.describe()
