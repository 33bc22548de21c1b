"""AGENTS.md: its commands run, in their order; what it says of exit codes and errors is so; README is short."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
from tiny_runs import WORDS, run_here

from tfkit.errors import TfkitError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
BEFORE, AFTER = [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
MEASURED = ("pretrain", "finetune", "evaluate", "predict", "generate", "plan")  # carbon is not the subject


def write_data(folder: Path) -> None:
    """Write the files that the page's commands name."""
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=80)) for _ in range(40)]
    (folder / "book.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (folder / "other.txt").write_text(" ".join(draw.choices(WORDS, k=200)), encoding="utf-8")
    rows = [f"the {' '.join(draw.choices(WORDS[:6], k=4))} {label},{label}\n" for label in ("cat", "dog") * 20]
    (folder / "rows.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (folder / "new.csv").write_text("text\nthe cat ran\na dog sat\n", encoding="utf-8")


@pytest.mark.thorough
def test_the_commands_run(tmp_path: Path) -> None:
    """Each ends with 0, and prints what it promises: one JSON document, or the file behind `>`."""
    write_data(tmp_path)
    assert (len(BEFORE), len(AFTER)) == (7, 9)
    run_lines(tmp_path, BEFORE)
    assert not (tmp_path / "runs").exists()
    assert json.loads((tmp_path / "recipe.schema.json").read_text())["$defs"]["Recipe"]
    run_lines(tmp_path, AFTER)
    assert (tmp_path / "labelled.csv").read_text(encoding="utf-8").startswith("text,prediction,probability")


def run_lines(folder: Path, lines: list[str]) -> None:
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        words, file = (words[:-2], folder / words[-1]) if ">" in words else (words, None)
        unmetered = [*words, "carbon.enabled=false"] if words[0] in MEASURED else words
        out = run_here(unmetered, folder).exits(0).out
        if file:
            file.write_text(out, encoding="utf-8")
        else:
            assert isinstance(json.loads(out), dict), line


def test_an_error_is_the_document_of_the_page() -> None:
    done = run_here(["check", "smoke", "training.stepz=3", "--json"]).exits(2)
    fields = re.search(r'`\{"error": \{(.*?)\}\}`', PAGE)
    assert fields
    error = json.loads(done.out)["error"]
    assert [f'"{name}"' for name in error] == fields[1].split(", ")
    assert f"`{error['kind']}`" in PAGE


def test_every_exit_code_is_in_the_table_and_of_the_contract() -> None:
    contract = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    codes = [set(re.findall(r"\d+", cell)) for cell in re.findall(r"^ *\| ([\d ,]+) \|", contract, re.MULTILINE)]
    assert [set(re.findall(r"\d+", cell)) for cell in re.findall(r"^ *\| ([\d ,]+) \|", PAGE, re.MULTILINE)] == codes
    assert len(codes) == 11
    assert {str(kind.exit_code) for kind in TfkitError.__subclasses__()} <= set().union(*codes)


def test_the_readme_is_short_and_has_one_picture() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    assert len(re.findall(r"!\[[^\]]+\]\(", readme)) == 1
    assert all(command in readme for command in ("make demo", "make test"))
