"""Multiple choice in the forms of published data sets, and preferences of two responses."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.sources.open_sources import open_source
from tfkit.objectives.multiple_choice import right_choice
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.judging_sections import FewShotSection
from tfkit.recipe.schema.label_sections import MultipleChoiceSection

ASKED, TEXTS = "What floats?", ["a stone", "a cork", "an anvil"]


def listed(labels: str, texts: list[str] = TEXTS) -> list[dict[str, str]]:
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


FORMS: dict[str, tuple[dict[str, Any], int]] = {
    "ARC, OpenBookQA, EXAMS": ({"id": "1", "question": {"stem": ASKED, "choices": listed("ABC")}, "answerKey": "B"}, 1),
    "ARC, some rows": ({"id": "1", "question": {"stem": ASKED, "choices": listed("123")}, "answerKey": "2"}, 1),
    "on the Hub": ({"question": ASKED, "choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "C"}, 2),
    "on the Hub, some rows": ({"question": ASKED, "choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": "1"}, 0),
    "OpenBookQA on the Hub": ({"question_stem": ASKED, "choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "A"}, 0),
    "without labels": ({"question": ASKED, "choices": [{"text": text} for text in TEXTS], "answer": 2}, 2),
    "MMLU": ({"question": ASKED, "choices": TEXTS, "answer": 1}, 1),
}


@pytest.mark.parametrize("section", [MultipleChoiceSection, FewShotSection])
@pytest.mark.parametrize("form", FORMS)
def test_a_published_form_is_read(section: type[MultipleChoiceSection], form: str) -> None:
    values, right = FORMS[form]
    row = Columns(section.roles).take(Record(values, "a.jsonl:1"))
    assert isinstance(row, Row), row
    assert (row.values["context"], row.values["choices"]) == (ASKED, TEXTS)
    assert right_choice(row.place, row.values["choices"], row.values["label"]) == right


def test_rows_may_have_other_numbers_of_answers(tmp_path: Path) -> None:
    rows = [{"question": {"stem": ASKED, "choices": listed("ABC"[:n], TEXTS[:n])}, "answerKey": "B"} for n in (2, 3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,a,b,c,answer\nWhat?,yes,no,,A\nWho?,he,she,they,C\n")
    for name, columns in (("a.jsonl", {}), ("a.parquet", {}), ("a.csv", {"choices": ["a", "b", "c"]})):
        source = open_source(SourceSection(path=str(tmp_path / name), columns=columns), "all", None, roles=MultipleChoiceSection.roles)
        assert [len(row.values["choices"]) for row in source.rows()] == [2, 3]


def test_an_answer_that_is_missing_between_others_is_an_error() -> None:
    columns = Columns(MultipleChoiceSection.roles, {"choices": ["a", "b", "c"]})
    row = columns.take(Record({"question": ASKED, "a": "yes", "b": None, "c": "no", "answer": "A"}, "a.csv:2"))
    assert isinstance(row, BadRow)
    assert "holds a list with null" in row.message


def test_paths_that_a_recipe_names_go_before() -> None:
    named = {"context": "question.stem", "choices": ["question.choices.0.text", "question.choices.1.text"]}
    values, _ = FORMS["ARC, OpenBookQA, EXAMS"]
    row = Columns(MultipleChoiceSection.roles, named).take(Record(values, "a.jsonl:1"))
    assert isinstance(row, Row)
    assert row.values["choices"] == TEXTS[:2]
