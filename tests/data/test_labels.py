"""The labels of rows, and columns that make up lists."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_rows
from tiny_sources import opened, texts

from tfkit.data.columns.labels import find_labels
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import Row
from tfkit.errors import DataError, UsageError
from tfkit.recipe import read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.label_sections import ClassificationSection, MultipleChoiceSection, TaggingSection
from tfkit.recipe.schema.roles import Role

RECIPE = """
model: {preset: gpt2}
data: {train: [{path: rows.jsonl}]}
training: {steps: 1}
"""


def labels_of(folder: Path, roles: tuple[Role, ...], *files: Sequence[dict[str, Any]]) -> list[str]:
    sources = []
    for number, rows in enumerate(files):
        path = folder / f"{number}.jsonl"
        write_rows(path, rows)
        sources.append(opened(path, roles=roles))
    return find_labels(sources)


def test_labels_are_numbers_by_their_value_and_then_words(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": label} for label in ("10", 9, "b", "a", -1, True, 1.0, "B")]
    assert labels_of(tmp_path, ClassificationSection.roles, rows[:4], rows[4:]) == ["-1", "1", "9", "10", "B", "a", "b", "true"]
    odd = [{"text": "x", "label": label} for label in ("1", "--5", "-", "001", "01", "0", "9" * 2000)]
    assert labels_of(tmp_path, ClassificationSection.roles, odd) == ["0", "001", "01", "1", "-", "--5", "9" * 2000]


def test_tags_are_found_in_every_row_of_every_source(tmp_path: Path) -> None:
    first, second = [{"words": ["a", "b"], "upos": ["X", "NOUN"]}], [{"tokens": ["c"], "ner_tags": [3]}]
    assert labels_of(tmp_path, TaggingSection.roles, first, second) == ["3", "NOUN", "X"]
    with pytest.raises(DataError, match=r"0.jsonl: only the label 'X' in all rows, so there is nothing to classify"):
        labels_of(tmp_path, TaggingSection.roles, [{"tokens": ["a"], "tags": ["X"]}])


def test_several_columns_are_a_list_of_texts() -> None:
    columns = Columns(MultipleChoiceSection.roles, {"choices": ["sol1", "{sol2}!", "more.0"], "context": "goal"})
    record = {"goal": "why", "sol1": "so", "sol2": "or so", "more": ["or not"], "label": 1}
    row = columns.take(Record(record, "rows.jsonl:1"))
    assert row.values == {"context": "why", "choices": ["so", "or so!", "or not"], "label": "1"}
    columns.check(record, "rows.jsonl:1")
    del record["sol2"]
    bad = columns.take(Record(record, "rows.jsonl:1"))
    assert "rows.jsonl:1: no column 'sol2'" in bad.message
    with pytest.raises(DataError, match="no column 'sol2'"):
        columns.check(record, "rows.jsonl:1")


def test_rows_with_equal_texts_have_equal_text_whatever_their_labels() -> None:
    """So that a held-out part never has the text of a training row: rows are distinguished by it."""
    columns = Columns(TaggingSection.roles)
    rows = [columns.take(Record({"tokens": ["the", "cat"], "tags": tags}, "x")) for tags in (["X", "Y"], ["Y", "X"])]
    assert [row.text for row in rows if isinstance(row, Row)] == ["the cat"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective={kind: classification, labels: [a, b, a]}"], "objective.labels: 'a' is given twice: remove one"),
        (["objective={kind: classification, labels: [a, b], regression: true}"], "labels are classes, but regression has none"),
        (["objective={kind: classification}", "data.train.0.columns={label: [a, b]}"], "label is read from one column: name one"),
        (["objective={kind: multiple_choice}"], "'_start_' is not a special token of the tokenizer: add it to tokenizer.special_tokens"),
        (["objective={kind: multiple_choice}", "model.head={tied: true}"], "needs the score of a choice: add choices: true"),
        (["objective={kind: tagging}", "model={preset: t5-small}"], "the objective tagging trains encoders and decoders"),
    ],
)
def test_what_contradicts_the_objective_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_recipe(str(tmp_path / "r.yaml"), parse_overrides(words))
    assert message in str(error.value)


def test_what_says_that_nobody_labelled_a_row_is_no_class() -> None:
    """A dash in SNLI's column, NaN as pandas writes a cell that is empty; a dash elsewhere is a label as any other."""
    columns = Columns(ClassificationSection.roles)
    for record, said in (({"text": "x", "gold_label": "-"}, "a dash alone"), ({"text": "x", "label": float("nan")}, "holds nan")):
        bad = columns.take(Record(record, "rows.jsonl:1"))
        assert said in bad.message
    assert isinstance(columns.take(Record({"text": "x", "label": "-"}, "rows.jsonl:1")), Row)


@pytest.mark.parametrize(
    ("names", "of"), [(["question", "sentence"], ("question", "sentence")), (["text", "premise"], ("text", "premise"))]
)
def test_two_columns_that_may_each_be_the_text_are_refused(names: list[str], of: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"may each be the text: name one with columns: \{text: NAME\}, or both with columns"):
        Columns(ClassificationSection.roles).check([*names, "label"], "rows.jsonl")
    Columns(ClassificationSection.roles).check(["sentence1", "sentence2", "text", "label"], "rows.jsonl")
    Columns(ClassificationSection.roles, {"text": of[0]}).check([*names, "label"], "rows.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv"])
def test_two_columns_that_may_each_be_the_text_are_refused_in_every_format(tmp_path: Path, name: str) -> None:
    rows = [{"question": "a", "sentence": "b", "label": label} for label in "xy"]
    between = "," if name.endswith("csv") else "\t"
    table = "".join(between.join(row) + "\n" for row in (rows[0].keys(), *(row.values() for row in rows)))
    lines = {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "rows.json": json.dumps(rows)}
    (tmp_path / name).write_text(lines.get(name, table), encoding="utf-8")

    def read(**columns: str) -> list[str]:
        return texts(tmp_path / name, roles=ClassificationSection.roles, skip=True, columns=columns)

    wanted = r"the columns 'sentence' and 'question' may each be the text: .* both with columns: \{text: sentence, pair: question\}"
    with pytest.raises(DataError, match=rf"{name}.*: {wanted}"):
        read()
    assert read(text="question") == ["a", "a"]
    assert read(text="sentence", pair="question") == ["b\na", "b\na"]


def test_a_row_that_has_two_texts_among_others_that_do_not_is_found(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": "x"}, {"sentence": "b", "label": "y"}, {"sentence": "c", "question": "d", "label": "x"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"rows.jsonl:3: the columns 'sentence' and 'question' may each"):
        opened(tmp_path / "rows.jsonl", roles=ClassificationSection.roles)
