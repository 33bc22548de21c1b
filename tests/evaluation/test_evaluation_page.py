"""docs/evaluation.md: its commands are ones that a recipe reads, and its metrics are all that there are."""

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from tfkit.engine.request.evaluation_settings import read_settings
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.label_sections import FewShotSection
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.objective_sections import HIGHER, LOWER, TEXT_METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (tfkit evaluate .*)$", PAGE, re.MULTILINE)]


def test_the_page_has_its_commands() -> None:
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[4])
def test_a_command_of_the_page_is_one(command: list[str]) -> None:
    changes = parse_overrides(word for word in command[4:] if "=" in word)
    data = command[command.index("--data") + 1] if "--data" in command else None
    settings = read_settings(None, Path("runs/my"), changes, ("data", "objective", "evaluation", "generation", "carbon"), data)
    assert settings.objective.kind in ("minimal_pairs", "few_shot")
    assert settings.data.validation


@pytest.mark.parametrize("section", SECTIONS.values(), ids=lambda section: section.__name__)
def test_every_metric_is_listed_and_those_that_judge_no_training_in_brackets(section: Any) -> None:
    (kind,) = get_args(section.model_fields["kind"].annotation)
    (row,) = [line for line in PAGE.splitlines() if re.match(r"\| [^|]*`" + kind + r"`[^|]* \| .*`(loss|accuracy)`", line)]
    documented = row.split("|")[2]
    assert set(section.metrics) <= set(re.findall(r"`([a-zA-Z0-9_]+)`", documented))
    in_brackets = set(re.findall(r"`([a-zA-Z0-9_]+)`", " ".join(re.findall(r"\(([^)]*)\)", documented))))
    of_texts = TEXT_METRICS.keys() if section.answers_in_text else set()
    judging = set() if kind in ("minimal_pairs", "few_shot") else (LOWER | HIGHER) - of_texts
    assert in_brackets & set(section.metrics) == set(section.metrics) - judging


def test_every_normalization_is_described() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
    assert set(get_args(FewShotSection.model_fields["normalize"].annotation)) <= documented
