"""recipes/README.md: a row for each recipe, with the numbers of its header, or a note that it was not run yet."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent / "recipes"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [a-z]+/", line)
]


def test_every_recipe_has_its_row_in_order() -> None:
    assert [row[0] for row in ROWS] == [path.relative_to(ROOT).with_suffix("").as_posix() for path in sorted(ROOT.rglob("*.yaml"))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_run_in_the_table_is_the_one_of_the_header(row: list[str]) -> None:
    name, command, minutes, kwh, grams, metric, baseline = row
    folder, _, stem = name.partition("/")
    assert command == f"`tfkit {'finetune' if folder == 'finetune' else 'pretrain'} {stem}`"
    text = (ROOT / f"{name}.yaml").read_text(encoding="utf-8")
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    if minutes == "not yet":
        assert (kwh, grams) == ("", "")
        assert "Run on" not in header
    else:
        value = metric.split()[0]
        assert f"in {minutes}," in header
        assert f"{kwh} kWh, {grams} gCO2e" in header
        assert value in header
        assert baseline
