"""Files that are called train, valid or test."""

import errno
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from tiny_sources import opened

from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.data.sources.prediction_rows import first_records
from tfkit.data.sources.split_files import evaluated_files, split_of
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.objective_sections import TextToTextSection

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Files of eight rows each, which hold their names."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            rows = [f"{name} {number}" for number in range(8)]
            (tmp_path / name).write_text("text\n" + "\n".join(rows) + "\n" if name.endswith(".csv") else "\n".join(rows))
        return tmp_path

    return make


def parts(path: Path | str, validation: float | list[SourceSection] | None = 0.5, **fields: object) -> tuple[set[str], set[str]]:
    """Return the files whose rows are trained on, and those whose rows are validated on."""
    data = DataSection(train=[SourceSection(path=str(path), **fields)], validation=validation)
    sides = (training_sources(data), validation_sources(data))
    train, held_out = ({row.text.split()[0] for source in side for row in source.rows()} for side in sides)
    return train, held_out


def test_the_word_may_be_anywhere_in_the_name_or_be_that_of_a_folder() -> None:
    names = {
        "train.csv": "train",
        "train-00000-of-00004.parquet": "train",
        "SNLI_dev.jsonl": "validation",
        "val.en.gz": "validation",
        "wiki.valid.tokens": "validation",
        "en_ewt-ud-dev.conllu": "validation",
        "test_2016_flickr.en.gz": "test",
        "Training Set.csv": "train",
        "trainset2.csv": "train",
        "data/test/part-1.jsonl": "test",
        "test/train.csv": "train",
        "latest.csv": None,
        "contest.csv": None,
        "train_test.csv": None,
        "train.py": None,
        "test.md": None,
        "tests/a.csv": None,
    }
    assert {name: split_of(PurePath(name)) for name in names} == names


def test_a_folder_is_used_by_the_names_of_its_files(made: Made) -> None:
    folder = made("train-1.csv", "train-2.csv", "valid.csv", "test.csv", "classes.csv")
    train, held_out = {"train-1.csv", "train-2.csv"}, {"valid.csv"}
    assert parts(folder) == (train, held_out)
    assert parts(f"{folder}/*.csv") == (train, held_out)
    assert parts(folder, validation=None) == (train, set())
    assert parts(folder, validation=[SourceSection(path=str(folder))]) == (train, held_out)
    everything = {path.name for path in folder.iterdir()}
    assert parts(folder, files="all", validation=0.9)[1] == everything
    assert parts(folder, files="test", validation=None)[0] == {"test.csv"}
    assert evaluated_files(str(folder)) == "test"
    assert {record.place.split("/")[-1].split(":")[0] for record in first_records(SourceSection(path=str(folder)))} == train
    said = training_sources(DataSection(train=[SourceSection(path=str(folder))], validation=0.1))[0].describe()
    assert said.endswith(
        "by their names train-1.csv, train-2.csv to train on, valid.csv to validate on, test.csv kept for tfkit evaluate, "
        "classes.csv not read"
    )


def test_a_fraction_is_held_out_where_no_file_is_called_valid(made: Made) -> None:
    folder = made("train.csv", "test.csv")
    assert parts(folder) == ({"train.csv"}, {"train.csv"})
    with pytest.raises(DataError, match=r"nothing here is called valid; name what to validate on, or set data\.validation"):
        parts(folder, validation=[SourceSection(path=str(folder))])


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
    made: Made, names: tuple[str, ...], train: set[str], held_out: set[str], evaluated: str
) -> None:
    folder = made(*names)
    assert parts(folder) == (train, held_out)
    assert evaluated_files(str(folder)) == evaluated


def test_parallel_files_are_divided_with_their_own(made: Made) -> None:
    folder = made("train.en.lst", "valid.en.lst", "train.de.lst", "valid.de.lst")
    section = SourceSection(path=f"{folder}/*.en.lst", beside={"de": f"{folder}/*.de.lst"})
    data = DataSection(train=[section], validation=0.1)
    columns = {"source": "text", "target": "de"}
    data = data.model_copy(update={"train": [section.model_copy(update={"columns": columns})]})
    rows = [next(source(data, TextToTextSection.roles)[0].rows()) for source in (training_sources, validation_sources)]
    assert [row.values for row in rows] == [
        {"source": f"{split}.en.lst 0", "target": [f"{split}.de.lst 0"]} for split in ("train", "valid")
    ]


def test_a_single_file_is_itself_and_its_siblings_are_mentioned(made: Made) -> None:
    folder = made("train.csv", "valid.csv", "test.csv", "train.txt", "other_test.csv")
    assert parts(folder / "train.csv") == ({"train.csv"}, {"train.csv"})
    said = opened(folder / "train.csv", "train", 0.5).describe()
    assert "beside it test.csv, valid.csv, which are used if the folder is named in its place" in said
    (folder / "test.csv").unlink()
    said = opened(folder / "train.csv", "train", 0.5).describe()
    assert "beside it valid.csv, which is used if" in said


def test_a_file_is_read_from_a_folder_that_may_not_be_listed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made("train.csv", "test.csv", "train_text.txt")

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert parts(folder / "train.csv") == ({"train.csv"}, {"train.csv"})
    assert [record.place for record in first_records(SourceSection(path=str(folder / "train_text.txt")))] == [
        str(folder / "train_text.txt")
    ]


def test_as_in_0_1_every_file_is_read(made: Made) -> None:
    folder = made("train.csv", "valid.csv", "test.csv")
    data = DataSection(train=[SourceSection(path=str(folder))], validation=0.5, split_by="row")
    assert {row.text.split()[0] for row in training_sources(data)[0].rows()} == {"train.csv", "valid.csv", "test.csv"}
    with pytest.raises(DataError, match="nothing here is called test; name the files, or read all of them with files: all"):
        parts(made("train.csv").parent / folder.name / "train.csv", files="test")
