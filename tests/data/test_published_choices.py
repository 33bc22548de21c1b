"""Multiple choice in the forms of published data sets, and preferences of two responses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_files import write_rows
from tiny_sources import opened, values

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.engine.recognition.decided_recipe import _inspect_data
from tfkit.objectives.multiple_choice import right_choice
from tfkit.recipe.column_forms import choice_columns
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import FewShotSection, MultipleChoiceSection

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
    "with another label": ({"question": ASKED, "choices": {"text": TEXTS, "label": 0}, "answer": 2}, 2),
    "MMLU": ({"question": ASKED, "choices": TEXTS, "answer": 1}, 1),
}


@pytest.mark.parametrize("section", [MultipleChoiceSection, FewShotSection])
@pytest.mark.parametrize("form", FORMS)
def test_a_published_form_is_read(section: type[MultipleChoiceSection], form: str) -> None:
    values, right = FORMS[form]
    row = Columns(section.roles).take(Record(values, "a.jsonl:1"))
    assert (row.values["context"], row.values["choices"]) == (ASKED, TEXTS)
    assert right_choice(row.place, row.values["choices"], row.values["label"]) == right


def test_rows_may_have_other_numbers_of_answers(tmp_path: Path) -> None:
    rows = [{"question": {"stem": ASKED, "choices": listed("ABC"[:n], TEXTS[:n])}, "answerKey": "B"} for n in (2, 3)]
    write_rows(tmp_path / "a.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,a,b,c,answer\nWhat?,yes,no,,A\nWho?,he,she,they,C\n")
    for name, columns in (("a.jsonl", {}), ("a.parquet", {}), ("a.csv", {"choices": ["a", "b", "c"]})):
        source = opened(tmp_path / name, roles=MultipleChoiceSection.roles, columns=columns)
        assert [len(row.values["choices"]) for row in source.rows()] == [2, 3]


LABELS: dict[str, Callable[[int, str], str]] = {  # of the answer with this number and this name
    "number": lambda number, _: str(number),
    "letter": lambda number, _: "ABCD"[number],
    "end": lambda _, name: name[-1],
    "name": lambda _, name: name,
    "text": lambda number, _: TEXTS[number],
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("series", ["0123", "1234", "ABCD", "abcd"])
@pytest.mark.parametrize("stem", ["option", "Ending ", "question.sol_", ""])
def test_columns_numbered_alike_are_the_answers(tmp_path: Path, stem: str, series: str, label: str) -> None:
    """As in Winogrande, COPA, PIQA, SWAG, CosmosQA, MedMCQA, C-Eval: whatever names them, the decided columns give the right answer."""
    for count in (2, 3):
        names = [stem + end for end in series[:count]]
        rows = [
            {
                "premise": f"The thing {n} floats.",
                "question": ["cause", "effect"][n % 2],
                "label": LABELS[label](n % count, names[n % count]),
            }
            | {name: f"{text} {n}" * (label != "text") or text for name, text in zip(names, TEXTS, strict=False)}
            for n in range(30)
        ]
        write_rows(tmp_path / "a.jsonl", rows)
        section = SourceSection(path=str(tmp_path / "a.jsonl"))
        named = _inspect_data(section, "error").named.get("multiple_choice")
        if stem == "" and series == "1234" and label in ("end", "name"):  # a number is one from 0, unless a name says otherwise
            assert named is None
            return
        assert named["context"] == "{premise} {question}"
        read = values(tmp_path / "a.jsonl", MultipleChoiceSection.roles, columns=named)
        assert [right_choice("a", row["choices"], row["label"]) for row in read] == [n % count for n in range(30)]


NO_CHOICES: dict[str, dict[str, Any]] = {
    "a pair of texts": {"question": "Is it {n}?", "sentence1": "a {n}", "sentence2": "b {n}", "label": "{n%2}"},
    "two responses": {"prompt": "Say {n}.", "response_a": "a {n}", "response_b": "b {n}", "label": "{n%2}"},
    "numbers": {"question": "Is it {n}?", "feature1": 1, "feature2": 2, "feature3": 3, "label": "{n%3}"},
    "more columns than classes": {"question": "Is it {n}?", "note1": "a {n}", "note2": "b {n}", "note3": "c {n}", "label": "{n%2}"},
    "an answer that is not among them": {"question": "Is it {n}?", "note1": "a {n}", "note2": "b {n}", "answer": "No, {n} is."},
    "no context": {"s1": "a {n}", "s2": "b {n}", "title": "On {n}", "label": "{n%2}"},
}


@pytest.mark.parametrize("name", NO_CHOICES)
def test_other_columns_that_are_numbered_are_no_answers(name: str) -> None:
    held = {
        key: [
            str(value).replace("{n}", str(n)).replace("{n%2}", str(n % 2)).replace("{n%3}", str(n % 3)) if isinstance(value, str) else value
            for n in range(30)
        ]
        for key, value in NO_CHOICES[name].items()
    }
    assert choice_columns(held) == {}


def test_wrong_answers_are_read_beside_the_right_one() -> None:
    """As in SciQ."""
    held = {
        "question": ["What is it?"] * 9,
        "distractor2": ["b"] * 9,
        "distractor1": ["a"] * 9,
        "correct_answer": [f"it {n}" for n in range(9)],
    }
    named = choice_columns(held)
    assert named == {"context": "question", "choices": ["correct_answer", "distractor1", "distractor2"], "label": "correct_answer"}


def test_an_answer_that_is_missing_between_others_is_an_error() -> None:
    columns = Columns(MultipleChoiceSection.roles, {"choices": ["a", "b", "c"]})
    row = columns.take(Record({"question": ASKED, "a": "yes", "b": None, "c": "no", "answer": "A"}, "a.csv:2"))
    assert "holds a list with null" in row.message


def test_paths_that_a_recipe_names_go_before() -> None:
    named = {"context": "question.stem", "choices": ["question.choices.0.text", "question.choices.1.text"]}
    values, _ = FORMS["ARC, OpenBookQA, EXAMS"]
    row = Columns(MultipleChoiceSection.roles, named).take(Record(values, "a.jsonl:1"))
    assert row.values["choices"] == TEXTS[:2]
