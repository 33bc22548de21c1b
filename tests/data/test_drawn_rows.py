"""data.rows: a few rows of each part, drawn by the seed."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import write_rows

from tfkit.data.sources.derived_rows import draw
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.recipe.schema.preference_sections import PREFERENCE_ROLES

ROLES = ClassificationSection.roles


def parts(path: Path, seed: int = 1, **fields: Any) -> list[Any]:
    """The training and the held-out part of a file."""
    data = DataSection(train=[SourceSection(path=str(path))], validation=0.3, **fields)
    return [training_sources(data, ROLES, seed)[0], validation_sources(data, ROLES, seed)[0]]


def texts(source: Any) -> list[str]:
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
    whole = [texts(part) for part in parts(tmp_path / "rows.jsonl")]
    found: set[tuple[str, ...]] = set()
    prints: set[str] = set()
    for seed in range(4):
        few = parts(tmp_path / "rows.jsonl", seed, rows=9)
        for part, of in zip(few, whole, strict=True):
            assert len(kept := texts(part)) == 9
            assert kept == [text for text in of if text in kept], "in their order"
            assert "; at most 9 of these rows, drawn by the seed" in part.describe()
            prints.add(part.fingerprint())
        assert texts(few[0]) == texts(parts(tmp_path / "rows.jsonl", seed, rows=9)[0])
        found.add(tuple(texts(few[0])))
    assert len(found) == 4
    assert len({*prints, *(part.fingerprint() for part in parts(tmp_path / "rows.jsonl"))}) == 10
    assert [texts(part) for part in parts(tmp_path / "rows.jsonl", rows=1000)] == whole


def test_completions_of_a_prompt_are_drawn_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": answer, "label": answer == "yes"} for n in range(50) for answer in ("yes", "no", "maybe")]
    write_rows(tmp_path / "rows.jsonl", rows)
    data = DataSection(train=[SourceSection(path=str(tmp_path / "rows.jsonl"))], rows=7)
    [source] = training_sources(data, PREFERENCE_ROLES, 3)
    drawn = [row.values["completions"] for row in source.rows()]
    assert drawn == [["yes", "no", "maybe"]] * 7


def test_a_bad_row_is_an_error_or_counted_although_it_is_not_drawn(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"row {number}", "label": "a"} for number in range(3000)]
    write_rows(tmp_path / "rows.jsonl", [*rows, {"text": "without a label"}])
    with pytest.raises(DataError, match="label"):
        texts(parts(tmp_path / "rows.jsonl", rows=3)[0])
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
