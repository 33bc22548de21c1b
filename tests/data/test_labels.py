"""The labels of rows, columns that make up lists, and multiple choice in the forms of published data sets."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_files import write_rows
from tiny_sources import opened, texts, values

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import Row, find_labels
from tfkit.engine.recognition.decided_recipe import _inspect_data
from tfkit.errors import DataError, UsageError
from tfkit.objectives.multiple_choice import right_choice
from tfkit.recipe import read_recipe
from tfkit.recipe.column_forms import choice_columns
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, FewShotSection, MultipleChoiceSection, TaggingSection
from tfkit.recipe.schema.roles import Role

RECIPE = """
model: {preset: gpt2}
data: {train: [{path: rows.jsonl}]}
training: {steps: 1}
"""


def labels_of(folder: Path, roles: tuple[Role, ...], *files: Sequence[dict[str, Any]]) -> list[str]:
    paths = [write_rows(folder / f"{number}.jsonl", rows) for number, rows in enumerate(files)]
    return find_labels([opened(path, roles=roles) for path in paths])


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
    assert "rows.jsonl:1: no column 'sol2'" in columns.take(Record(record, "rows.jsonl:1")).message
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
        assert said in columns.take(Record(record, "rows.jsonl:1")).message
    assert isinstance(columns.take(Record({"text": "x", "label": "-"}, "rows.jsonl:1")), Row)


@pytest.mark.parametrize("names", [("question", "sentence"), ("text", "premise")])
def test_two_columns_that_may_each_be_the_text_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"may each be the text: name one with columns: \{text: NAME\}, or both with columns"):
        Columns(ClassificationSection.roles).check([*names, "label"], "rows.jsonl")
    Columns(ClassificationSection.roles).check(["sentence1", "sentence2", "text", "label"], "rows.jsonl")
    Columns(ClassificationSection.roles, {"text": names[0]}).check([*names, "label"], "rows.jsonl")


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
    def cell(value: Any, n: int) -> Any:
        return re.sub(r"\{n%?(\d?)\}", lambda found: str(n % int(found[1]) if found[1] else n), value) if isinstance(value, str) else value

    assert choice_columns({key: [cell(value, n) for n in range(30)] for key, value in NO_CHOICES[name].items()}) == {}


def test_wrong_answers_are_read_beside_the_right_one() -> None:
    """As in SciQ."""
    held = {"question": ["What is it?"] * 9, "distractor2": ["b"] * 9, "distractor1": ["a"] * 9}
    named = choice_columns(held | {"correct_answer": [f"it {n}" for n in range(9)]})
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
