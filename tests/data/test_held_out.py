"""The part that is held out, and reported if it is trained on, too; and data.rows, a few rows of each part."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import write_rows
from tiny_runs import WORDS, pretrain, run_tfkit
from tiny_sources import opened, texts

from tfkit.data import Row, open_source
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import Part, hash_fraction
from tfkit.data.sources.derived_rows import draw
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.errors import DataError
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.read import RecipeText
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, MultipleChoiceSection
from tfkit.recipe.schema.objective_sections import ChatSection, TextToTextSection
from tfkit.recipe.schema.preference_sections import PREFERENCE_ROLES
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
        lambda *said: {
            "messages": [{"role": ["user", "assistant"][n % 2], "content": one} for n, one in enumerate((*said, "why?", "because"))]
        },
    ),
    "labels": (ClassificationSection.roles, lambda ask, answer: {"text": ask, "label": answer}),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_share_their_input_are_on_one_side(tmp_path: Path, kind: str) -> None:
    roles, made = ROWS[kind]
    around = [("", ""), (" ", ""), ("", "\n\n"), ("\t", " ")]  # white space at the ends distinguishes no inputs
    asks = [(f"{before}question {i}{after}", f"{i}{after}") for before, after in around for i in range(50)]
    rows = [made(ask, f"answer {number} to {end}") for number, (ask, end) in enumerate(asks)]
    section = written(tmp_path / "a.jsonl", rows)
    train, held_out = sides(section, roles)
    inputs, others = ({asked(row) for row in side} for side in (train, held_out))
    assert len(inputs) + len(others) == 50
    assert (len(train), len(held_out)) == (4 * len(inputs), 4 * len(others))
    assert 5 < len(others) < 25
    for part, fraction in (("all", 0.3), ("held_out", None)):  # which are the whole source
        assert len([*open_source(section, part, fraction, roles=roles).rows()]) == len(rows)
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


ROLES = ClassificationSection.roles


def parts(path: Path, seed: int = 1, **fields: Any) -> list[Any]:
    """The training and the held-out part of a file."""
    data = DataSection(train=[SourceSection(path=str(path))], validation=0.3, **fields)
    return [training_sources(data, ROLES, seed)[0], validation_sources(data, ROLES, seed)[0]]


def texts_of(source: Any) -> list[str]:
    return [row.text for row in source.rows({})]


@given(count=st.integers(1, 40), seed=st.integers(0, 99), most=st.integers(1, 60))
@settings(max_examples=60)
def test_a_draw_is_of_so_many_places_and_a_smaller_one_is_part_of_it(count: int, seed: int, most: int) -> None:
    drawn = draw(range(most), count, seed)
    assert len(drawn) == min(count, most)
    assert drawn <= {*range(most)}
    assert draw(range(most), max(1, count - 1), seed) <= drawn


def test_rows_of_each_part_are_drawn_by_the_seed_and_none_changes_its_part(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": f"row {number}", "label": "ab"[number % 2]} for number in range(200)])
    whole = [texts_of(part) for part in parts(tmp_path / "rows.jsonl")]
    found: set[tuple[str, ...]] = set()
    prints: set[str] = set()
    for seed in range(4):
        few = parts(tmp_path / "rows.jsonl", seed, rows=9)
        for part, of in zip(few, whole, strict=True):
            assert len(kept := texts_of(part)) == 9
            assert kept == [text for text in of if text in kept], "in their order"
            assert "; at most 9 of these rows, drawn by the seed" in part.describe()
            prints.add(part.fingerprint())
        assert texts_of(few[0]) == texts_of(parts(tmp_path / "rows.jsonl", seed, rows=9)[0])
        found.add(tuple(texts_of(few[0])))
    assert len(found) == 4
    assert len({*prints, *(part.fingerprint() for part in parts(tmp_path / "rows.jsonl"))}) == 10
    assert [texts_of(part) for part in parts(tmp_path / "rows.jsonl", rows=1000)] == whole


def test_completions_of_a_prompt_are_drawn_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": answer, "label": answer == "yes"} for n in range(50) for answer in ("yes", "no", "maybe")]
    write_rows(tmp_path / "rows.jsonl", rows)
    data = DataSection(train=[SourceSection(path=str(tmp_path / "rows.jsonl"))], rows=7)
    [source] = training_sources(data, PREFERENCE_ROLES, 3)
    drawn = [row.values["completions"] for row in source.rows()]
    assert drawn == [["yes", "no", "maybe"]] * 7


def test_a_bad_row_is_an_error_or_counted_although_it_is_not_drawn(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"row {number}", "label": "a"} for number in range(1200)]
    write_rows(tmp_path / "rows.jsonl", [*rows, {"text": "without a label"}])
    with pytest.raises(DataError, match="label"):
        texts_of(parts(tmp_path / "rows.jsonl", rows=3)[0])
    skipped: dict[str, Any] = {}
    assert len([*parts(tmp_path / "rows.jsonl", rows=3, on_bad_row="skip")[0].rows(skipped)]) == 3
    assert [count.rows for count in skipped.values()] == [1]


@pytest.mark.parametrize(("name", "rows", "is_known"), [("a.jsonl", None, True), ("a.jsonl.gz", None, False), ("a.jsonl", 5, False)])
def test_a_progress_has_a_total_only_where_the_bytes_of_the_rows_are_known(
    tmp_path: Path, name: str, rows: int | None, is_known: bool
) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": f"row {number}", "label": number % 2} for number in range(200)])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    train, held_out = parts(tmp_path / name, rows=rows)
    if is_known:
        assert train.size_bytes + held_out.size_bytes == pytest.approx((tmp_path / "a.jsonl").stat().st_size, abs=2)
    else:
        assert (train.size_bytes, held_out.size_bytes) == (None, None)


OVERLAPPING = """
model: {preset: gpt2, decoder_layers: 1, dim: 8, num_heads: 1, context_length: 16}
tokenizer: {vocab_size: 300}
data: {train: [{path: one.jsonl}, {path: two.jsonl}], validation: [{path: three.jsonl}]}
training: {steps: 1, batch_size: 2, precision: fp32}
carbon: {enabled: false}
"""


def write_numbers(path: Path, numbers: range, label: str = "no") -> None:
    write_rows(path, [{"text": f"{' '.join(WORDS)} {number}", "label": label if number % 2 else "yes"} for number in numbers])


@pytest.mark.parametrize("words", [[], ["objective={kind: classification, labels: [no, yes, maybe]}"]], ids=["texts", "classes"])
def test_held_out_rows_that_a_run_trains_on_are_reported(tmp_path: Path, in_tmp_path: None, words: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(OVERLAPPING, encoding="utf-8")
    write_numbers(tmp_path / "one.jsonl", range(20))
    write_numbers(tmp_path / "two.jsonl", range(30, 50))
    write_numbers(tmp_path / "three.jsonl", range(20, 30))
    done = pretrain(tmp_path / "clean", tmp_path / "recipe.yaml", *words).exits(0)
    assert "trained on" not in done.err
    write_numbers(tmp_path / "three.jsonl", range(15, 33), label="maybe")  # 5 and 3 of its 18 texts
    done = pretrain(tmp_path / "run", tmp_path / "recipe.yaml", *words).exits(0)
    assert "three.jsonl: 8 of 18 held-out rows are among those that are trained on" in done.err

    def evaluated(*more: str) -> tuple[Any, Any, str]:
        done = run_tfkit(tmp_path, ["evaluate", "--from", "run", "--data", "three.jsonl", "--json", "--threads", "1", *more]).exits(0)
        return done.document["trained_on"], done.document["examples"], done.err

    *counts, said = evaluated()
    assert counts == [8, 18]
    assert "8 of the 18 texts that were scored are among those that the run was trained on" in said
    assert evaluated("evaluation.max_tokens=1")[:2] == (1, 1)
    for file in (tmp_path / "cache").rglob("texts.bin"):
        if file.stat().st_size == 20 * 8:  # the hashes of a training file
            file.write_bytes(bytes(20 * 8))
    assert evaluated()[0] == 8, "hashes that are damaged are not counted"
    shutil.rmtree(tmp_path / "cache")
    assert evaluated()[0] == 8, "from the run's own files"
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "two.jsonl").unlink()
    trained_on, _, said = evaluated()
    assert (trained_on, "trained on" in said) == (None, False)
