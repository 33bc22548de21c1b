"""benchmarks/run_hashes.py: its recipes leave nothing to a default and use everything that there is, and it names a run that differs."""

import json
import os
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from run_hashes import CASES, main, recipe
from tiny_runs import Process

from tfkit.families import FAMILIES, PRESETS
from tfkit.recipe.reading.validate import section_types, tags
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.optimizer_sections import ScheduleSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.schema.vocabularies import VOCABULARIES

NESTED = ("model", "tokenizer", "data")  # a preset with changes; what a kind reads; sources
ONLY_WITH_ANSWERS = {"text_metrics", "bleu_tokenize"}


def kinds(annotation: Any) -> set[str]:
    return {tag for record in section_types(annotation) for tag in tags(record)}


@pytest.mark.parametrize("name", CASES)
def test_every_value_is_written_out(name: str) -> None:
    whole = recipe(name)
    for section, field in Recipe.model_fields.items():
        if section not in NESTED and isinstance(values := whole[section], dict):  # or a list, which is given whole
            record = next(one for one in section_types(field.annotation) if not tags(one) or values["kind"] in tags(one))
            assert {*record.model_fields} - {*values} <= ONLY_WITH_ANSWERS, section


def test_the_cases_use_everything() -> None:
    whole = [recipe(name) for name in CASES]

    def used(section: str, field: str = "kind") -> set[Any]:
        return {values[section].get(field) for values in whole if section in values} - {None}

    sections = Recipe.model_fields
    assert used("objective") == {kind for kind, section in SECTIONS.items() if section.scored_by != "likelihood"}
    assert used("optimizer") == kinds(sections["optimizer"].annotation)
    assert used("schedule") == {*typing.get_args(ScheduleSection.model_fields["kind"].annotation)}
    assert used("tokenizer") == {*VOCABULARIES}
    assert {PRESETS[preset][0].name for preset in used("model", "preset")} == {*FAMILIES}


def test_a_run_that_differs_in_one_thing_is_named_with_it_alone(tmp_path: Path) -> None:
    def program(words: list[str]) -> int:
        os.chdir(tmp_path)
        sys.argv = ["run_hashes.py", *words]
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    def make(out: str, *words: str) -> tuple[int, str]:
        done = Process(tmp_path, [out, "--only", "gpt2", *words], program=program).wait()
        return done.code, done.out.splitlines()[-1]

    assert make("one.json") == (0, "1 runs")
    made = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert all(made["gpt2"][field] for field in ("files", "metrics", "evaluate"))
    made["lora"] = {"exit": 1}
    made["gpt2"]["metrics"][0]["loss"] += 1e-9
    (tmp_path / "changed.json").write_text(json.dumps(made), encoding="utf-8")
    assert make("two.json", "--against", "changed.json") == (1, "gpt2: metrics")
