"""docs/data.md: its sources are sections of a recipe, for objectives that read what they name, and its formats are all that there are."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tfkit.data.formats.readers import FORMATS
from tfkit.data.formats.suffixes import FORMAT_OF
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_facts import SECTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SOURCES = re.findall(r"^\|[^|]+\| ([a-z_, ]+) \| `(\{.*\})` \|$", PAGE, re.MULTILINE)
assert len(SOURCES) == 9, "the page has its table"


@pytest.mark.parametrize(("objectives", "source"), SOURCES)
def test_a_source_of_the_page_is_one(objectives: str, source: str) -> None:
    section = SourceSection.model_validate(YAML(typ="safe").load(source))
    for kind in objectives.split(", "):
        roles = {role.name for role in SECTIONS[kind].roles}
        assert roles >= section.columns.keys()
        assert section.text is None or "text" in roles


def test_every_format_and_suffix_is_described() -> None:
    rows = re.findall(r"^\| (.*?) \| (`[a-z].*?) \| ", PAGE, re.MULTILINE)[1:]  # without the table's head
    documented = {suffix: name for suffixes, names in rows for suffix, name in _paired(suffixes, names)}
    assert {suffix: name for suffix, name in documented.items() if suffix.startswith(".")} == FORMAT_OF
    assert {name for _, names in rows for name in re.findall("[a-z]+", names)} == FORMATS.keys()


def _paired(suffixes: str, names: str) -> list[tuple[str, str]]:
    """Each suffix with its format: one for all, or one for each."""
    found, formats = re.findall(r"\.[a-z0-9]+", suffixes), re.findall("[a-z]+", names)
    return [(suffix, formats[i] if len(formats) > 1 else formats[0]) for i, suffix in enumerate(found)]
