"""The first records of a source, and all of them as far as a decision needs them."""

from pathlib import Path

from tfkit.data.sources.open_sources import all_records, first_records
from tfkit.recipe.schema.data_sections import SourceSection


def test_records_are_read_until_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "four", "label": "a"}\n' * 1_200, encoding="utf-8")
    section = SourceSection(path=str(tmp_path / "rows.jsonl"))
    assert len([*all_records(section, "error", 4_000)]) == 1_200
    assert len([*all_records(section, "error", 1_100)]) == 1_100
    assert len(first_records(section)) == 1_000
