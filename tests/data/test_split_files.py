"""Files by their names: those that are called train, valid or test, and parallel ones, which are rows with a column from each."""

import errno
import gzip
from pathlib import Path, PurePath

import pytest
from tiny_sources import both_sides, first_values, opened, values, write_files

from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.data.sources.prediction_rows import first_records
from tfkit.data.sources.split_files import evaluated_files, split_of
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, TaggingSection
from tfkit.recipe.schema.objective_sections import TextToTextSection
from tfkit.recipe.schema.roles import TEXT


def made(folder: Path, *names: str) -> Path:
    """Write files of eight rows each, which hold their names."""
    files = {name: "".join(f"{name} {number}\n" for number in range(8)) for name in names}
    return write_files(folder, {name: "text\n" * name.endswith(".csv") + rows for name, rows in files.items()})


def parts(
    path: Path | str, validation: float | list[SourceSection] | None = 0.5, split_by: str = "input", **fields: object
) -> list[set[str]]:
    """Return the files whose rows are trained on, and those whose rows are validated on."""
    data = DataSection(train=[SourceSection(path=str(path), **fields)], validation=validation, split_by=split_by)
    return [{row.text.split()[0] for one in side(data) for row in one.rows()} for side in (training_sources, validation_sources)]


def test_the_word_may_be_anywhere_in_the_name_or_be_that_of_a_folder() -> None:
    train = ("train.csv", "train-00000-of-00004.parquet", "Training Set.csv", "trainset2.csv", "test/train.csv")
    names = dict.fromkeys(train, "train") | dict.fromkeys(("test_2016_flickr.en.gz", "data/test/part-1.jsonl"), "test")
    names |= dict.fromkeys(("SNLI_dev.jsonl", "val.en.gz", "wiki.valid.tokens", "en_ewt-ud-dev.conllu"), "validation")
    names |= dict.fromkeys(("latest.csv", "contest.csv", "train_test.csv", "train.py", "test.md", "tests/a.csv"))
    assert {name: split_of(PurePath(name)) for name in names} == names


def test_a_folder_is_used_by_the_names_of_its_files(tmp_path: Path) -> None:
    folder = made(tmp_path, "train-1.csv", "train-2.csv", "valid.csv", "test.csv", "classes.csv")
    train, held_out = {"train-1.csv", "train-2.csv"}, {"valid.csv"}
    assert parts(folder) == parts(f"{folder}/*.csv") == [train, held_out]
    assert parts(folder, validation=None) == [train, set()]
    assert parts(folder, validation=[SourceSection(path=str(folder))]) == [train, held_out]
    everything = {path.name for path in folder.iterdir()}
    assert parts(folder, files="all", validation=0.9)[1] == everything
    assert parts(folder, files="test", validation=None)[0] == {"test.csv"}
    assert evaluated_files(str(folder)) == "test"
    assert {record.place.split("/")[-1].split(":")[0] for record in first_records(SourceSection(path=str(folder)))} == train
    used = "train-1.csv, train-2.csv to train on, valid.csv to validate on, test.csv kept for tfkit evaluate, classes.csv not read"
    assert both_sides(folder)[0].describe().endswith(f"by their names {used}")
    assert parts(folder, split_by="row")[0] == everything, "as in 0.1"


def test_a_fraction_is_held_out_where_no_file_is_called_valid(tmp_path: Path) -> None:
    folder = made(tmp_path, "train.csv", "test.csv")
    assert parts(folder) == [{"train.csv"}, {"train.csv"}]
    with pytest.raises(DataError, match=r"nothing here is called valid; name what to validate on, or set data\.validation"):
        parts(folder, validation=[SourceSection(path=str(folder))])
    with pytest.raises(DataError, match="nothing here is called test; name the files, or read all of them with files: all"):
        parts(folder / "train.csv", files="test")


@pytest.mark.parametrize(
    ("names", "train", "held_out", "evaluated"),
    [
        (("valid.csv", "test.csv"), {"valid.csv"}, {"valid.csv"}, "test"),
        (("a.csv", "test.csv"), {"a.csv"}, {"a.csv"}, "test"),
        (("a.csv", "dev.csv"), {"a.csv"}, {"dev.csv"}, "validation"),
        (("test.csv",), {"test.csv"}, {"test.csv"}, "all"),
        (("a.csv", "b.csv"), {"a.csv", "b.csv"}, {"a.csv", "b.csv"}, "all"),
    ],
)
def test_test_files_are_never_trained_on_beside_others(
    tmp_path: Path, names: tuple[str, ...], train: set[str], held_out: set[str], evaluated: str
) -> None:
    assert parts(made(tmp_path, *names)) == [train, held_out]
    assert evaluated_files(str(tmp_path)) == evaluated


def test_parallel_files_are_divided_with_their_own(tmp_path: Path) -> None:
    made(tmp_path, "train.en.lst", "valid.en.lst", "train.de.lst", "valid.de.lst")
    said = {"beside": {"de": f"{tmp_path}/*.de.lst"}, "columns": {"source": "text", "target": "de"}}
    rows = [next(iter(side.rows())) for side in both_sides(f"{tmp_path}/*.en.lst", TextToTextSection.roles, 0.1, **said)]
    expected = [{"source": f"{split}.en.lst 0", "target": [f"{split}.de.lst 0"]} for split in ("train", "valid")]
    assert [row.values for row in rows] == expected


def test_a_single_file_is_itself_and_its_siblings_are_mentioned(tmp_path: Path) -> None:
    file = made(tmp_path, "train.csv", "valid.csv", "test.csv", "train.txt", "other_test.csv") / "train.csv"
    assert parts(file) == [{"train.csv"}, {"train.csv"}]
    used = "beside it test.csv, valid.csv, which are used if the folder is named in its place"
    assert used in opened(file, "train", 0.5).describe()
    (tmp_path / "test.csv").unlink()
    assert "beside it valid.csv, which is used if" in opened(file, "train", 0.5).describe()


def test_a_file_is_read_from_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "train.csv", "test.csv", "train_text.txt")

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert parts(tmp_path / "train.csv") == [{"train.csv"}, {"train.csv"}]
    text = str(tmp_path / "train_text.txt")
    assert [record.place for record in first_records(SourceSection(path=text))] == [text]


LABELLED, TRANSLATED = ClassificationSection.roles, TextToTextSection.roles


def lines(name: str, count: int = 4) -> str:
    return "".join(f"{name} {number}\n" for number in range(count))


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    """TweetEval's layout."""
    files = {f"{split}_text.txt": lines(split) for split in ("train", "val", "test")}
    files |= {f"{split}_labels.txt": "1\n0\n1\n2\n" for split in ("train", "val", "test")}
    return write_files(tmp_path, files | {"mapping.txt": "0\tanger\n1\tjoy\t_with_a_picture_\n2\tvery sad"})


def test_texts_beside_their_labels(tweets: Path) -> None:
    expected = [{"text": f"train {n}", "label": label} for n, label in enumerate(["joy", "anger", "joy", "very sad"])]
    assert values(tweets / "train_text.txt", LABELLED) == expected
    assert values(tweets, LABELLED, files="train") == values(tweets / "train_*.txt", LABELLED) == expected
    train, held_out = both_sides(tweets, LABELLED)
    assert [[row.text for row in side.rows()] for side in (train, held_out)] == [lines("train").splitlines(), lines("val").splitlines()]
    assert "a row on each line: text, label; class names of mapping.txt; by their names train_text.txt to train on" in train.describe()
    names, beside = str(tweets / "mapping.txt"), {"label": str(tweets / "train_labels.txt")}
    assert values(tweets / "train_text.txt", LABELLED, format="lines", beside=beside, class_names=names) == expected


def test_labels_are_no_text(tweets: Path) -> None:
    """A language model reads the texts of a folder alone, a file that is named as one text, and labels only if they are named."""
    assert [row["text"] for row in values(tweets, TEXT, files="train")] == lines("train").splitlines()
    write_files(tweets, {"notes.txt": "notes"})
    assert "beside them notes.txt, not read" in opened(tweets).describe()
    for name in ("train_text.txt", "train_labels.txt"):
        assert [row["text"] for row in values(tweets / name, TEXT)] == [(tweets / name).read_text()]
    assert len(values(tweets, TEXT, format="text", files="train")) == 2
    assert first_values(tweets / "train_labels.txt") == [{"text": "1\n0\n1\n2\n"}]


@pytest.mark.parametrize("suffix", ["", ".gz", ".txt"])
def test_languages_in_files_of_equally_many_lines(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "val"):
        for language in ("cs", "pl", "en"):
            content = lines(f"{split} {language}").encode()
            write_files(tmp_path, {f"{split}.{language}{suffix}": gzip.compress(content) if suffix == ".gz" else content})
    columns = {"source": "pl", "target": "en"}
    found = values(tmp_path, TRANSLATED, columns=columns, files="train")
    assert found == [{"source": f"train pl {n}", "target": [f"train en {n}"]} for n in range(4)]
    [path] = tmp_path.glob("train.pl*")
    assert values(path, TRANSLATED, columns=columns) == found
    assert [*first_values(path)[0]] == ["pl", "cs", "en"], "that of the file that is named first"
    whole = {row["text"] for row in values(tmp_path / "train.*", TEXT)}
    assert whole == {lines(f"train {language}") for language in ("cs", "pl", "en")}, "a language model reads each file as a text"


def test_other_names_of_a_source_and_its_target(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/src.txt": lines("one"), "a/tgt.txt": lines("uno")})
    write_files(tmp_path, {"b/train.source": lines("two"), "b/train.target": lines("due")})
    for path in ("a", "a/src.txt"):
        assert values(tmp_path / path, TRANSLATED)[1] == {"source": "one 1", "target": ["uno 1"]}
    assert values(tmp_path / "b", TRANSLATED)[1] == {"source": "two 1", "target": ["due 1"]}


def test_what_is_not_parallel_is_read_as_before(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/my_text.txt": "one\n", "a/your_text.txt": "two\n"})
    assert values(tmp_path / "a", TEXT) == [{"text": "one\n"}, {"text": "two\n"}]
    write_files(tmp_path, {"b/train.de": lines("de", 5), "b/train.en": lines("en", 4)})
    assert [record["text"].count("\n") for record in first_values(tmp_path / "b")] == [5, 4]
    write_files(tmp_path, {"c/train_text.txt": "a\n", "c/rows.jsonl": '{"text": "b"}\n'})
    assert len(values(tmp_path / "c", TEXT)) == 2
    write_files(tmp_path, {"d/main.cs": "one\n", "d/main.ts": "two\n", "d/other.ts": "three\n"})
    assert len(first_values(tmp_path / "d")) == 3, "programs whose suffixes are languages, too"


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
        (b"b\xe9ret\nhat\n", ["0", "1"], r"names:1: byte 1 \(0xe9\) is not UTF-8; convert the file"),
        (Path("~no-such-user/names"), ["0", "1"], "~no-such-user/names: cannot be read"),
    ],
)
def test_class_names(tmp_path: Path, given: list[str] | str | bytes | Path, labels: list[str], said: list[str] | str) -> None:
    write_files(tmp_path, {"a.csv": "text,label\n" + "".join(f"text {label},{label}\n" for label in labels)})
    if isinstance(given, str | bytes):
        write_files(tmp_path, {"names": given})
    source = {"class_names": given if isinstance(given, list) else str(given if isinstance(given, Path) else tmp_path / "names")}
    if isinstance(said, list):
        assert [row["label"] for row in values(tmp_path / "a.csv", LABELLED, **source)] == said
    else:
        with pytest.raises(DataError, match=said):
            values(tmp_path / "a.csv", LABELLED, **source)


def test_class_names_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.csv": "text,label\none,0\ntwo,1\n"})
    names = (None, ["no", "yes"], ["yes", "no"])
    assert len({opened(tmp_path / "a.csv", roles=LABELLED, class_names=one).fingerprint() for one in names}) == 3


def test_words_beside_their_tags(tmp_path: Path) -> None:
    """The layout of ATIS and SNIPS; what is not read is named."""
    files = {"seq.in": "fly to boston \ngo home \n", "seq.out": "O O B-city \nO B-city \n", "label": "flight\nroute\n"}
    write_files(tmp_path / "train", files)
    assert values(tmp_path, TaggingSection.roles) == [
        {"tokens": ["fly", "to", "boston"], "tags": ["O", "O", "B-city"]},
        {"tokens": ["go", "home"], "tags": ["O", "B-city"]},
    ]
    assert (
        "parallel files, a row on each line: tokens, tags; beside them label, not read"
        in opened(tmp_path, roles=TaggingSection.roles).describe()
    )
