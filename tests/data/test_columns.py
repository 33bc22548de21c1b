"""From the columns of a record to the roles of a row: names, paths, templates, forms, and what is said of a record that does not fit."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow, Row
from tfkit.errors import DataError
from tfkit.recipe.schema.roles import TEXT, Form, Role

PAIR = (Role("text", "text", ("text", "sentence")), Role("pair", "text", ("pair",), required=False), Role("label", "label", ("label",)))


def take(values: dict[str, Any], roles: tuple[Role, ...] = TEXT, **named: Any) -> Row | BadRow:
    return Columns(roles, named).take(Record(values, "rows.jsonl:7"))


def values(record: dict[str, Any], roles: tuple[Role, ...] = TEXT, **named: Any) -> dict[str, Any]:
    found = take(record, roles, **named)
    assert found.place == "rows.jsonl:7"
    return dict(found.values)


def message(record: dict[str, Any], roles: tuple[Role, ...] = TEXT, **named: Any) -> str:
    found = take(record, roles, **named)
    assert found.message.startswith("rows.jsonl:7: ")
    return found.message.removeprefix("rows.jsonl:7: ")


def read(form: Form, value: Any) -> Any:
    return values({"x": value}, (Role("x", form, ("x",)),))["x"]


# ---------------------------------------------------------------------------------------------------------- which column it is


def test_the_first_recognised_column_is_that_of_a_role_and_a_named_one_before_all() -> None:
    record = {"sentence": "b", "text": "a", "label": "x", "other": "c", "kind": 3}
    assert values(record, PAIR) == {"text": "a", "label": "x"}
    assert values({"sentence": "b", "label": "x"}, PAIR) == {"text": "b", "label": "x"}
    assert values(record, PAIR, text="other", label="kind", pair="sentence") == {"text": "c", "pair": "b", "label": "3"}
    row = take(record, PAIR, pair="other")
    assert row.text == "a\nc", "all that is text, and no label"


def test_paths() -> None:
    record: dict[str, Any] = {"plain": "p", "list": ["l0", "l1", "l2"], "deep": {"inner": "d"}, "grid": [["f"], ["g"]], "12": "a number"}
    record |= {"a.b": "a column whose name has a dot", "a": {"b": "never"}, "several": [{"output": ["o"]}, {"input": "s1"}]}
    found = {"plain": "p", "deep.inner": "d", "several.1.input": "s1", "several.0.output.0": "o", "list.2": "l2", "grid.1.0": "g"}
    for name, text in (found | {name: record[name] for name in ("a.b", "12")}).items():
        assert values(record, text=name) == {"text": text}
        assert values(record, text=f"<{{{name}}}>") == {"text": f"<{text}>"}
    for name in ("list.3", "list.-1", "list.x", "plain.x", "deep", "deep.", "deep.none", ".plain", "list.1.x", ""):
        assert isinstance(take(record, text=name), BadRow), "it leads nowhere"


def test_templates() -> None:
    record = {"en": "a house", "n": 3, "yes": True, "half": 0.5, "words": ["to", "be"], "deep": [{"x": "found"}]}
    found = {"translate: {en}": "translate: a house", "{{{en}}} {{}} {{en}}": "{a house} {} {en}", "{{x}}": "{x}"}
    found |= {
        "{words}": "to be",
        "{en}{en}": "a housea house",
        "{deep.0.x}": "found",
        "{en} / {n} / {yes} / {half}": "a house / 3 / true / 0.5",
    }
    assert {template: values(record, text=template)["text"] for template in found} == found


# ------------------------------------------------------------------------------------------------------------------- the forms


def test_what_each_form_takes() -> None:
    assert read("text", ["one.", "two."]) == "one. two."
    assert [read("label", value) for value in ("a", 1, -3, 1.0, 2.5, True, False)] == ["a", "1", "-3", "1", "2.5", "true", "false"]
    assert [read("label", value) for value in (0.1, 1 / 3, 1e22)] == ["0.1", "0.3333333333333333", "1e+22"]  # to the bit
    assert read("texts", ["a", ""]) == ["a", ""]
    assert read("labels", [1, "b", True]) == ["1", "b", "true"]
    assert read("messages", [{"role": "user", "content": "hello"}]) == [{"role": "user", "content": "hello"}]
    assert read("references", "one") == ["one"]
    assert read("references", ["one", "two"]) == ["one", "two"]


WRONG: dict[Form, tuple[str, list[tuple[Any, str]]]] = {  # what the form is, and values that are something else
    "text": ("text", [(None, "null"), (5, "int"), ([], "list"), (["a", 1], "list"), ({"a": "b"}, "dict")]),
    "label": ("a label", [(None, "null"), (["a"], "list"), ("", "an empty text"), (" \n", "an empty text")]),
    "texts": ("a list of texts", [(1, "int"), (["a", None], "a list with null")]),
    "labels": ("a list of labels", [(["a", ""], "a list with an empty text"), ([["a"]], "a list with list"), ({"0": "a"}, "dict")]),
    "messages": ("a list of messages", [([], "list"), (["hello"], "list"), ({"role": "user"}, "dict")]),
    "references": ("a list of texts", [(1, "int")]),
}


@pytest.mark.parametrize("form", WRONG)
def test_what_does_not_fit_is_named_with_its_column(form: Form) -> None:
    wanted, wrong = WRONG[form]
    remedy = "name another column with columns: {x: NAME}, remove the row"
    for value, said in wrong:
        assert message({"y": value}, (Role("x", form, ("x", "y")),)) == f"column 'y' holds {said}, not {wanted}; {remedy}"


def test_null_of_a_role_that_a_row_may_lack_is_as_if_it_were_not_there() -> None:
    assert values({"text": "a", "pair": None, "label": 1}, PAIR) == {"text": "a", "label": "1"}
    assert "column 'pair' holds int, not text" in message({"text": "a", "pair": 3, "label": 1}, PAIR)
    assert "column 'label' holds null, not a label" in message({"text": "a", "label": None}, PAIR)


def test_a_template_of_what_is_no_text_is_a_bad_row() -> None:
    assert values({"x": 0.1, "y": ""}, text="{y}a {x}") == {"text": "a 0.1"}
    assert "column 'a {x}' holds null, not text" in message({"x": None}, text="a {x}")
    assert "column 'a {x}' holds dict, not text" in message({"x": {}}, text="a {x}")


def test_half_characters_are_found_in_every_form() -> None:
    forms: dict[Form, Any] = {"text": "aé", "label": "aé", "texts": ["b", "aé"], "labels": ["aé"], "messages": [{"content": "aé"}]}
    forms["label_set"] = {"b": 0, "aé": 1}
    for form, value in forms.items():
        assert read(form, value) is not None
        half = json.loads(json.dumps(value).replace("\\u00e9", "\\ud800"))
        assert "column 'x' holds half a surrogate pair at character 1" in message({"x": half}, (Role("x", form, ("x",)),))


# ------------------------------------------------------------------------------------------------------------- what is missing


def test_a_missing_column_is_named_with_those_found_and_the_remedy() -> None:
    record = {"body": "a", "n": 1}
    assert message(record) == "no column 'text'; columns found: body, n; name the one that holds the text with text: NAME"
    assert message(record, PAIR).startswith("no column 'text' or 'sentence'; columns found: body, n;")
    assert message({"text": "a"}, PAIR).endswith(
        "no column 'label'; columns found: text; name the one that holds the label with columns: {label: NAME}"
    )
    assert message({}) == "no column 'text'; columns found: none; name the one that holds the text with text: NAME"
    assert message({"english": "one"}, text="english.0.text").startswith("no column 'english.0.text'; columns found: english;")
    assert ", c19, ...;" in message({f"c{i}": 0 for i in range(30)})
    assert message({"a": "x"}, text="{a} {b} {c}").startswith("no column 'b' and 'c' for the text '{a} {b} {c}'; columns found: a;")


def test_columns_are_checked_by_their_names_alone() -> None:
    Columns(PAIR).check(["sentence", "label"], "a.csv:1")
    Columns(PAIR, {"text": "deep.inner", "label": "{a}-{b}"}).check(["deep", "a", "b"], "a.csv:1")
    with pytest.raises(DataError, match=r"^a.csv:1: no column 'label'; columns found: text, pair;"):
        Columns(PAIR).check(["text", "pair"], "a.csv:1")
    with pytest.raises(DataError, match=r"no column 'b' for the label '\{a\}-\{b\}'"):
        Columns(PAIR, {"label": "{a}-{b}"}).check(["text", "a"], "a.csv:1")


NAMES = ["text", "sentence", "pair", "label", "deep", "x", "y", "deep.inner"]
CHOICES = st.sampled_from([None, *NAMES, "{x} and {y}", "{deep.inner}", "deep.inner", "{{x}}{y}"])
RECORDS = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=3) | st.integers(0, 9) | st.none() | st.just({"inner": "i"}), max_size=6)


@settings(deadline=None, max_examples=300)
@given(RECORDS, CHOICES, CHOICES)
def test_the_wanted_columns_are_enough(record: dict[str, Any], text: str | None, label: str | None) -> None:
    """Parquet files and data sets read no others; what is wrong is then said of fewer columns, and that is all."""
    named = {name: spelled for name, spelled in (("text", text), ("label", label)) if spelled is not None}
    columns = Columns(PAIR, named)
    whole = columns.take(Record(record, "x"))
    part = columns.take(Record({name: record[name] for name in columns.select_read(record)}, "x"))
    assert part == whole if isinstance(whole, Row) else isinstance(part, BadRow)
    two_texts = "text" not in named and {"text", "sentence"} <= record.keys() and "pair" not in record  # which are refused
    if isinstance(whole, Row) and not two_texts:
        columns.check(record, "x")


def test_fingerprints_follow_what_is_read() -> None:
    prints = {
        Columns(roles, named).fingerprint() for roles in (TEXT, PAIR) for named in ({}, {"text": "a"}, {"text": "{a}"}, {"text": "b"})
    }
    assert len(prints) == 8
    assert Columns(PAIR, {"text": "a"}).fingerprint() == Columns(PAIR, {"text": "a"}).fingerprint()
