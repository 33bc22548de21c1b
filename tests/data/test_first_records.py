"""How many rows a source has, counted no further than a decision needs."""

from pathlib import Path

from tfkit.data.sources.first_records import count_rows, first_records
from tfkit.recipe.schema.data_sections import SourceSection


def test_rows_are_counted_until_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "four", "label": "a"}\n' * 1_200, encoding="utf-8")
    section = SourceSection(path=str(tmp_path / "rows.jsonl"))
    assert count_rows(section, "error", 4_000, 10**6) == (1_200, 6_000)
    assert count_rows(section, "error", 1_100, 10**6) == (1_100, 5_500)
    assert count_rows(section, "error", 4_000, 100) == (20, 100)
    assert len(first_records(section)) == 1_000
