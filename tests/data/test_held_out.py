"""The part that is held out: by the input of a row, and of one text by position."""

from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_rows
from tiny_sources import opened, texts

from tfkit.data import Row, open_source
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import Part, hash_fraction
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.read import RecipeText
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, MultipleChoiceSection
from tfkit.recipe.schema.objective_sections import ChatSection, TextToTextSection
from tfkit.recipe.schema.roles import TEXT, Role

Roles = tuple[Role, ...]


def written(path: Path, rows: list[dict[str, Any]]) -> SourceSection:
    write_rows(path, rows)
    return SourceSection(path=str(path))


def sides(section: SourceSection, roles: Roles, split_by: str = "input") -> list[list[Row]]:
    return [list(open_source(section, part, 0.3, roles=roles, split_by=split_by).rows()) for part in ("train", "held_out")]


def asked(row: Row) -> Any:
    if "messages" in row.values:
        return row.values["messages"][0]["content"].strip()
    return next(row.values[name] for name in ("source", "context", "instruction", "text") if name in row.values).strip()


ROWS: dict[str, tuple[Roles, Any]] = {
    "text_to_text": (TextToTextSection.roles, lambda ask, answer: {"source": ask, "target": answer}),
    "choices": (MultipleChoiceSection.roles, lambda ask, answer: {"context": ask, "choices": [answer, "no"], "label": 0}),
    "exchange": (ChatSection.roles, lambda ask, answer: {"instruction": ask, "output": answer}),
    "messages": (
        ChatSection.roles,
        lambda ask, answer: {
            "messages": [
                {"role": "user", "content": ask},
                {"role": "assistant", "content": answer},
                {"role": "user", "content": f"why {answer}?"},
                {"role": "assistant", "content": "because"},
            ]
        },
    ),
    "labels": (ClassificationSection.roles, lambda ask, answer: {"text": ask, "label": answer}),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_share_their_input_are_on_one_side(tmp_path: Path, kind: str) -> None:
    roles, made = ROWS[kind]
    rows = [made(f"question {i % 50}{' ' * (i // 50)}", f"answer {i}") for i in range(200)]
    section = written(tmp_path / "a.jsonl", rows)
    train, held_out = sides(section, roles)
    inputs, others = ({asked(row) for row in side} for side in (train, held_out))
    assert len(inputs) + len(others) == 50
    assert (len(train), len(held_out)) == (4 * len(inputs), 4 * len(others))
    assert 5 < len(others) < 25
    if kind != "labels":  # version 0.1.0 split these rows by their answers, too
        assert {asked(row) for row in sides(section, roles, "row")[1]} & {asked(row) for row in sides(section, roles, "row")[0]}


def test_the_input_of_a_conversation_is_the_system_message_and_the_first_turn_of_the_user() -> None:
    def key(*turns: tuple[str, str], **columns: str) -> str | None:
        record = {"conversations": [{"from": role, "value": text} for role, text in turns], **columns}
        return Columns(ChatSection.roles).take(Record(record, "a:1")).input_key

    first = key(("human", "Hello"), ("gpt", "Hi"), ("human", "More"))
    assert first == key(("human", " Hello "), ("gpt", "Good day"))
    assert first != key(("system", "Be brief."), ("human", "Hello"), ("gpt", "Hi"))
    assert first != key(("human", "Hello"), ("gpt", "Hi"), system="Be brief.")
    assert key(("gpt", "Welcome"), ("human", "Hello"), ("gpt", "Hi")) == "Welcome\nHello"


def test_the_fingerprint_changes_only_where_a_row_changes_sides(tmp_path: Path) -> None:
    texts = written(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(50)])
    stays = next(f"{i}" for i in range(99) if (hash_fraction(b"alone") < 0.3) == (hash_fraction(f"alone\n{i}".encode()) < 0.3))
    one = written(tmp_path / "one.jsonl", [{"source": "alone", "target": stays}])
    many = written(tmp_path / "many.jsonl", [{"source": f"{i}", "target": f"answer {i}"} for i in range(50)])

    def prints(section: SourceSection, roles: Roles) -> list[str]:
        return [open_source(section, "train", 0.3, roles=roles, split_by=by).fingerprint() for by in ("input", "row")]

    assert len({*prints(texts, TEXT)}) == 1
    assert len({*prints(many, TextToTextSection.roles)}) == 2
    assert len({*prints(one, TextToTextSection.roles)}) == 1
    row = Row("a b", "", key="a b", input_key="a")
    assert "input" not in str(Part("train", 0.5))
    assert {Part("train", 0.5, "row").fingerprint([row]), str(Part("train", 0.5))} == {str(Part("train", 0.5))}


TEXT_FILE = "".join(f"Line {i} of the text.\n" + ("\n" if i % 7 == 6 else "") for i in range(100))


@pytest.mark.parametrize(("fraction", "first"), [(0.1, "Line 91"), (0.3, "Line 70"), (0.02, "Line 98")])
def test_one_text_is_cut_at_a_paragraph_or_a_line(tmp_path: Path, fraction: float, first: str) -> None:
    (tmp_path / "a.txt").write_text(TEXT_FILE)
    train, held_out = ([*opened(tmp_path / "a.txt", part, fraction).rows()] for part in ("train", "held_out"))
    assert [len(train), len(held_out)] == [1, 1]
    assert train[0].text + held_out[0].text == TEXT_FILE
    assert held_out[0].text.startswith(first)
    assert abs(len(held_out[0].text) / len(TEXT_FILE) - fraction) < 0.3 * fraction
    line = TEXT_FILE[: len(train[0].text)].count("\n") + 1
    assert (train[0].place, held_out[0].place) == (f"{tmp_path}/a.txt", f"{tmp_path}/a.txt:{line}")
    assert held_out[0].values["text"] == held_out[0].text
    descriptions = [opened(tmp_path / "a.txt", part, 0.1).describe() for part in ("train", "held_out")]
    assert [one.rpartition("; ")[2] for one in descriptions] == ["all but the last 10.00% of the text", "the last 10.00% of the text"]
    assert len({opened(tmp_path / "a.txt", "train", 0.1, split_by=by).fingerprint() for by in ("input", "row")}) == 2


def test_a_text_without_lines_is_cut_between_words_and_one_without_words_anywhere(tmp_path: Path) -> None:
    for text in ("word " * 40, "x" * 40):
        (tmp_path / "a.txt").write_text(text)
        [train], [held_out] = (texts(tmp_path / "a.txt", part, 0.1) for part in ("train", "held_out"))
        assert train + held_out == text
        assert held_out == text[len(text) * 9 // 10 :]


def test_several_texts_are_cut_only_where_the_hash_would_leave_a_part_empty(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"{i}\n" * 50)
    assert 0 < len(texts(tmp_path, "held_out", 0.3)) < 20
    names = [f"{i}.txt" for i in range(20) if hash_fraction((f"{i}\n" * 50).strip().encode() + b"\n") >= 0.1][:2]
    few = tmp_path / "few"
    few.mkdir()
    for name in names:
        (tmp_path / name).rename(few / name)
    assert texts(few, "held_out", 0.1) == [f"{name.removesuffix('.txt')}\n" * 5 for name in sorted(names)]


def test_a_recipe_that_an_earlier_version_wrote_out_is_split_as_then() -> None:
    rest = "model: {preset: gpt2}\ntraining: {steps: 1}\ndata: {train: [{path: a}], validation: 0.1"
    whole = f"{rest}, on_bad_row: error, max_lost: null, length_groups: true}}\n"
    assert RecipeText(Path("a.yaml"), f"{rest}}}\n").read().data.split_by == "input"
    assert RecipeText(Path("a.yaml"), whole).read().data.split_by == "row"
    assert RecipeText(Path("a.yaml"), whole).read(parse_overrides(["data.split_by=input"])).data.split_by == "input"
