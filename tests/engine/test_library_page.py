"""docs/library.md: its examples run, in order, in one process; what it names is there."""

import inspect
import os
import re
from pathlib import Path

import pytest
from tiny_runs import Process

import tfkit
from tfkit import console
from tfkit.engine import listener

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.thorough
def test_the_examples_run(tmp_path: Path) -> None:
    """Each with the lines that it has in the page, which a traceback names."""
    blocks = [("\n" * PAGE[: found.start(1)].count("\n") + found[1]) for found in BLOCK.finditer(PAGE)]
    assert len(blocks) == 7

    def program(_: list[str]) -> int:
        os.chdir(tmp_path)
        names: dict[str, object] = {"__name__": "library"}
        for block in blocks:
            exec(compile(block, "docs/library.md", "exec"), names)
        return 0

    done = Process(tmp_path, [], program=program).wait().exits(0)
    assert "finished 12 " in done.out
    # Of the listener `console` alone.
    assert [line[:7] for line in done.err.splitlines() if line.startswith("step ")] == ["step 3/", "step 3:"]


def test_every_function_is_in_the_table_with_arguments_it_has() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", PAGE, re.MULTILINE))
    assert rows.keys() == set(tfkit.__all__) - {"__version__"}
    for name, arguments in rows.items():
        assert set(re.findall(r"\w+", arguments)) <= inspect.signature(getattr(tfkit, name)).parameters.keys(), name


def test_every_option_is_described() -> None:
    options = {
        parameter.name
        for name in set(tfkit.__all__) - {"__version__", "load"}
        for parameter in inspect.signature(getattr(tfkit, name)).parameters.values()
    }
    assert [name for name in sorted(options) if not re.search(rf"[`({{]{name}\b|\b{name}=", PAGE)] == []


def test_the_console_and_the_silent_listener_have_every_method() -> None:
    """As the protocol has it: a type checker compares a user's listener with the class that it is derived from."""
    for protocol, name in ((listener.ProgressBar, "advance"), (listener.Live, "update")):
        assert inspect.signature(getattr(listener.Silent, name)) == inspect.signature(getattr(protocol, name))
    methods = [name for name in vars(listener.Listener) if not name.startswith("_")]
    assert set(methods) == {"say", "decided", "warn", "progress", "live"}
    for name in methods:
        expected = [*inspect.signature(getattr(listener.Listener, name)).parameters.values()][1:]
        assert [*inspect.signature(getattr(listener.Silent, name)).parameters.values()][1:] == expected
        assert [one.name for one in inspect.signature(getattr(console, name)).parameters.values()] == [one.name for one in expected]
