import json
import sys

import pytest

from tfkit.__main__ import main
from tfkit.recipe import bundled_recipes


def test_the_list_has_a_summary_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [recipe.name for recipe in bundled_recipes()]
    assert all(len(line.split()) > 3 for line in lines)
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [recipe["summary"] for recipe in listed] == [recipe.summary for recipe in bundled_recipes()]


def test_a_terminal_gets_no_line_that_it_would_break(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[0] != " "] == [recipe.name for recipe in bundled_recipes()]
    shown = " ".join(" ".join(lines).split())
    assert all(recipe.summary in shown for recipe in bundled_recipes())


@pytest.mark.parametrize("name", ["gpt2-stdlib", "pretrain/gpt2-stdlib"])
def test_one_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (bundled,) = [recipe for recipe in bundled_recipes() if recipe.name == "pretrain/gpt2-stdlib"]
    assert main(["recipes", name]) == 0
    assert capsys.readouterr().out == bundled.path.read_text(encoding="utf-8")
    assert main(["recipes", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == bundled.path.read_text(encoding="utf-8")


def test_an_unknown_one_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "nope"]) == 2
    err = capsys.readouterr().err
    assert all(recipe.name in err for recipe in bundled_recipes())
