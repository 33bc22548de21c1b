"""Hub data sets that are streamed through the cache, from a data set folder on this machine, read as the library streams one."""

import datetime
import json
import shutil
import tracemalloc
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import pytest
from tiny_files import write_rows

from tfkit.data.columns.forms import ClassName
from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import Part, Skipped, Source
from tfkit.data.sources.hub_datasets import StreamedSource
from tfkit.data.sources.open_sources import open_source
from tfkit.data.sources.prediction_rows import first_records
from tfkit.errors import DataError
from tfkit.objectives.chat import conversation
from tfkit.objectives.multiple_choice import right_choice
from tfkit.objectives.text_regression import Regression
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, FewShotSection, MultipleChoiceSection, TaggingSection
from tfkit.recipe.schema.objective_sections import ChatSection
from tfkit.tokenizer import train_byte_bpe

ROWS = [{"text": f"text number {i}", "n": i, "when": [i]} for i in range(100)]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "rows.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    write_rows(folder / name, rows)
    return folder


def streamed(folder: Path | str, part: Any = "all", fraction: float | None = None, **fields: Any) -> StreamedSource:
    section = SourceSection.model_validate({"hub": str(folder), "streamed": True} | fields)
    return open_source(section, part, fraction, "skip" if "skip" in str(folder) else "error")


def saved(folder: Path, rows: list[dict[str, Any]], **features: Any) -> Path:
    """Save a data set of one split as the library does."""
    made = datasets.Dataset.from_list(rows, features=datasets.Features(features) if features else None)
    datasets.DatasetDict({"train": made}).save_to_disk(str(folder))
    return folder


def texts(source: Source) -> list[str]:
    return [row.text for row in source.rows()]


@pytest.mark.parametrize("kind", ["files", "saved"])
def test_the_first_rows_come_through_the_cache_and_then_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = tmp_path / "set"
    write(folder) if kind == "files" else saved(folder, ROWS)
    source = streamed(folder, rows=30)
    assert source.describe() == f"{folder}, split train, streamed: 30 rows, which are read into the cache first"
    first = list(source.rows())
    assert [row.text for row in first] == [row["text"] for row in ROWS[:30]]
    assert [first[i].place for i in (0, 29)] == [f"{folder}, split train, row {i}" for i in (0, 29)]
    assert sorted(path.name for path in source.folder.iterdir()) == ["hashes.json", "index.json", "records.jsonl"]
    assert {*json.loads((source.folder / "records.jsonl").read_text(encoding="utf-8").splitlines()[0])} == {"text"}
    for name in ("load_dataset", "load_from_disk"):
        monkeypatch.setattr(datasets, name, lambda *arguments, **options: pytest.fail("it is in the cache"))
    again = streamed(folder, rows=30)
    assert list(again.rows()) == first
    assert again.fingerprint() == source.fingerprint()
    assert "30 rows" in again.describe()
    assert again.describe().endswith("from the cache")


def test_all_rows_without_a_number_and_parts_of_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    train, held_out = (texts(streamed(folder, part, 0.3)) for part in ("train", "held_out"))
    assert sorted(train + held_out) == sorted(row["text"] for row in ROWS)
    assert 15 < len(held_out) < 45
    assert streamed(folder, "train", 0.3).fingerprint() != streamed(folder, "held_out", 0.3).fingerprint()


def test_a_folder_of_files_has_splits_and_may_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    for split in ("train", "test"):
        write(tmp_path / "set", [{"body": f"{split} é {i}", "n": i} for i in range(600)], f"{split}.jsonl")
    section = SourceSection(hub=str(tmp_path / "set"), split="test", text="body")
    source = open_source(section, "all", None)
    assert texts(source) == [f"test é {i}" for i in range(600)]
    assert "600 rows" in source.describe()
    assert sorted(texts(open_source(section, "train", 0.3)) + texts(open_source(section, "held_out", 0.3))) == sorted(texts(source))
    moved = section.model_copy(update={"hub": str(shutil.copytree(tmp_path / "set", tmp_path / "moved"))})
    assert open_source(moved, "all", None).fingerprint() == source.fingerprint()
    assert open_source(section.model_copy(update={"split": "train"}), "all", None).fingerprint() != source.fingerprint()


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    section = SourceSection(hub=str(saved(tmp_path / "saved", [{"text": "a"}, {"text": "b"}])))
    assert texts(open_source(section, "all", None)) == ["a", "b"]
    with pytest.raises(DataError, match="no such split; the folder has train"):
        open_source(section.model_copy(update={"split": "test"}), "all", None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"other, split train: cannot be loaded"):
        open_source(SourceSection(hub=str(tmp_path / "other")), "all", None)


def test_what_lies_in_a_folder_on_this_machine_is_looked_at(tmp_path: Path) -> None:
    """Other rows, another number of them or another column: each is another set of records."""
    folder = write(tmp_path / "set", [{"text": row["text"], "body": "b"} for row in ROWS])
    before = streamed(folder, rows=5)
    assert texts(before)[0] == "text number 0"
    write(folder, [{"text": "another", "body": "b"}, *ROWS])
    after = streamed(folder, rows=1)
    assert (texts(after), texts(streamed(folder, rows=1, text="body"))) == (["another"], ["b"])
    assert len({before.fingerprint(), streamed(folder, rows=5).fingerprint(), after.fingerprint()}) == 3


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_is_not_there_is_named_before_anything_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_streamed: bool) -> None:
    folder = write(tmp_path / "set")
    with pytest.raises(DataError, match=r"set, split train: no column 'body'; columns found: text, n, when"):
        streamed(folder, text="body", streamed=is_streamed)
    assert not list((tmp_path / "cache").rglob("*.jsonl"))
    with pytest.raises(DataError, match=r"set, split other: cannot be loaded .*check name, config, split"):
        streamed(folder, split="other", streamed=is_streamed)
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    for name in ("org/name", "~no-such-user/name"):
        with pytest.raises(DataError, match=f"hub data set {name}: TFKIT_OFFLINE is set"):
            streamed(name, streamed=is_streamed)


def test_bad_rows_are_named_or_counted(tmp_path: Path) -> None:
    rows = [{"text": "good"}, {"text": None}, {"text": "better"}]
    folder, lenient = write(tmp_path / "set", rows), write(tmp_path / "skip", rows)
    (folder / "broken.link").symlink_to("nowhere")
    with pytest.raises(DataError, match="set, split train, row 1: column 'text' holds null"):
        list(streamed(folder).rows())
    skipped: dict[str, Skipped] = {}
    assert [row.text for row in streamed(lenient).rows(skipped)] == ["good", "better"]
    assert skipped == {"null, not text": (1, f"{lenient}, split train, row 1")}


def test_damaged_records_are_read_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    source = streamed(folder)
    expected = list(source.rows())
    for name, is_cut in product(("records.jsonl", "index.json"), (True, False)):
        file = source.folder / name
        file.write_bytes(file.read_bytes()[:-3]) if is_cut else file.unlink()
        assert "which are read into the cache first" in streamed(folder).describe(), (name, is_cut)
        assert list(streamed(folder).rows()) == expected


@pytest.mark.parametrize(("old", "new"), [(b"number 7", b"number 8"), (b"{", b"x")])
def test_records_with_another_byte_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes) -> None:
    """In a file that is too large to be hashed before it is read."""
    monkeypatch.setattr("tfkit.data.store.hashes.WHOLE", 0)
    source = streamed(write(tmp_path / "set"))
    list(source.rows())
    file = source.folder / "records.jsonl"
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(DataError, match="damaged: its records are not those that were read; delete this folder"):
        list(source.rows())


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "rows.jsonl").write_bytes((folder / "rows.jsonl").read_bytes() + b'{"text": "cut')
    source = streamed_later(str(folder))
    with pytest.raises(DataError, match=r"set, split train: the stream broke off \(.*no row of it is kept; start again"):
        list(source.rows())
    assert not list((tmp_path / "cache").rglob("records*"))


def streamed_later(name: str) -> StreamedSource:
    """Without the look at the first row."""
    return StreamedSource(name, None, "train", None, None, Columns(), Part("all", None), "error")


def test_offline_only_what_is_here_already_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    assert len(list(streamed(write(tmp_path / "set")).rows())) == 100
    monkeypatch.chdir(tmp_path)
    online = streamed("set")
    list(online.rows())
    kept = online.folder
    (tmp_path / "set" / "rows.jsonl").unlink()
    (tmp_path / "set").rmdir()  # the name is now that of a data set of the hub, and its records are in the cache under that name
    kept.rename(streamed_later("set").folder)
    assert len(list(streamed("set").rows())) == 100


def test_dates_are_text_and_bytes_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "set", [{"when": datetime.date(2024, 2, 29), "blob": b"x"}])
    assert texts(streamed(tmp_path / "set", text="on {when}")) == ["on 2024-02-29"]
    with pytest.raises(DataError, match="set, split train: a column that is read holds bytes, which is not text; name another"):
        streamed(tmp_path / "set", text="blob")


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        folder = tmp_path / str(rows)
        datasets.Dataset.from_list([{"text": f"{i} " + "x" * 2_000} for i in range(rows)]).save_to_disk(str(folder))
        source = streamed(folder)
        tracemalloc.start()
        try:
            assert sum(len(row.text) for row in source.rows()) > 2_000 * rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # imports what it needs
    assert peak(4_000) < peak(1_000) + 500_000


@pytest.mark.parametrize("is_streamed", [False, True])
def test_classes_have_their_names_and_rows_that_nobody_labelled_none(tmp_path: Path, is_streamed: bool) -> None:
    """A data set stores them as numbers, -1 where there is no label; what is written down are the names."""
    kinds = datasets.ClassLabel(names=["neg", "pos"])
    rows = [{"text": "a", "label": 1, "tags": [0, 1]}, {"text": "b", "label": -1, "tags": [1]}, {"text": "c", "label": 0, "tags": [-1]}]
    saved(tmp_path / "set", rows, text=datasets.Value("string"), label=kinds, tags=datasets.Sequence(kinds))
    section = SourceSection(hub=str(tmp_path / "set"), streamed=is_streamed)
    source = open_source(section, "all", None, "skip", ClassificationSection.roles)
    skipped: dict[str, Skipped] = {}
    assert [(row.text, row.values["label"]) for row in source.rows(skipped)] == [("a", "pos"), ("c", "neg")]
    assert [(kind, one.rows) for kind, one in skipped.items()] == [("null, not a label", 1)]
    words = Columns(TaggingSection.roles, {"tokens": "tags"})
    tagged = open_source(section, "all", None, "skip", columns=words)
    assert [row.values["tags"] for row in tagged.rows({})] == [["neg", "pos"], ["pos"]]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_number_of_a_class_is_read_as_an_answer_and_as_a_value(tmp_path: Path, is_streamed: bool) -> None:
    """COPA's classes are called after its columns, MedMCQA's by small letters; few_shot's answers are those of the user, in their order."""
    kinds = datasets.ClassLabel(names=["choice1", "choice2"])
    names = ("premise", "choice1", "choice2", "label")
    rows = [dict(zip(names, row, strict=True)) for row in (("why", "so", "or", 1), ("why", "a", "b", 0), ("why", "c", "d", -1))]
    saved(tmp_path / "set", rows, **dict.fromkeys(names[:3], datasets.Value("string")), label=kinds)
    columns = {"choices": ["choice1", "choice2"]}
    section = SourceSection(hub=str(tmp_path / "set"), streamed=is_streamed, columns=columns)
    for kind in (MultipleChoiceSection, FewShotSection):
        found = list(open_source(section, "all", None, "skip", kind.roles).rows({}))
        assert [right_choice(row.place, row.values["choices"], row.values["label"]) for row in found] == [1, 0]
    section = section.model_copy(update={"columns": {"text": "premise"}})
    found = list(open_source(section, "all", None, "skip", ClassificationSection.roles).rows({}))
    assert [row.values["label"] for row in found] == ["choice2", "choice1"]
    written = [*(row.values["label"] for row in found), ClassName("4 star", 3), ClassName("4", 3), "4.5"]
    numbers = ClassificationSection(kind="classification", regression=True)
    objective = Regression(numbers, train_byte_bpe(["why not? " * 20], 260, add_bos=False), 8, None)
    assert [objective.target(found[0]._replace(values={"label": one})) for one in written] == [1, 0, 3, 4, 4.5]


def test_the_names_of_classes_are_in_the_fingerprint_of_a_stream(tmp_path: Path) -> None:
    prints = set()
    for names in (["neg", "pos"], ["pos", "neg"]):
        rows, label = [{"text": "a", "label": 0}, {"text": "b", "label": 1}], datasets.ClassLabel(names=names)
        folder = saved(tmp_path / names[0], rows, text=datasets.Value("string"), label=label)
        section = SourceSection(hub=str(folder), streamed=True)
        prints.add(open_source(section, "all", None, roles=ClassificationSection.roles).fingerprint())
    assert len(prints) == 2


def test_two_texts_of_a_stream_without_a_schema_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [{"question": "a", "sentence": "b", "label": "x"}])
    for is_streamed in (True, False):
        section = SourceSection(hub=str(folder), streamed=is_streamed)
        with pytest.raises(DataError, match=r"split train.*'sentence' and 'question' may each be the text: name one"):
            open_source(section, "all", None, roles=ClassificationSection.roles)


def test_what_is_looked_at_first_is_not_what_a_run_with_fewer_columns_kept(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(30)]
    folder = write(tmp_path / "set", rows)
    section = SourceSection(hub=str(folder), streamed=True, rows=30)
    assert len(list(open_source(section, "all", None).rows())) == 30
    assert [record.values for record in first_records(section, most=7)] == rows[:7]


def test_dates_beside_the_text_of_a_message(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a", "at": datetime.datetime(2024, 1, 2)}, {"role": "assistant", "content": "b", "at": None}]
    section = SourceSection(hub=str(saved(tmp_path / "set", [{"conversation": said}])))
    source, again = (open_source(section, "all", None, roles=ChatSection.roles) for _ in range(2))
    (row,) = source.rows()
    assert [message["content"] for message in conversation(row)] == ["a", "b"]
    assert source.fingerprint() == again.fingerprint()
