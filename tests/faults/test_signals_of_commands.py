"""SIGTERM and SIGHUP in every command: from the first moment of a start, and in the middle of what takes long. One line, nothing left."""

import importlib
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Done, pretrain, run_tfkit, strike, write_corpus, write_recipe

import tfkit.engine.tools.averaging
import tfkit.engine.tools.verification
import tfkit.hub.weights
import tfkit.recipe
from tfkit.cli import COMMANDS

STOPS = {signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    pretrain(base / "run", base / "tiny.yaml", "checkpoint={every: 4, keep: 3}", "evaluation.every=null").exits(0)
    return base


def assert_stopped(done: Done, number: int) -> None:
    assert (done.code, done.out) == (STOPS[number], "")
    assert done.err.startswith(f"stopped by {signal.Signals(number).name}: ")
    assert len(done.err.splitlines()) == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("command", "number"), [*zip(COMMANDS, itertools.cycle(STOPS), strict=False)])
def test_f03_f08_as_a_command_is_imported(tmp_path: Path, command: str, number: int) -> None:
    done = run_tfkit(tmp_path, [command, "--help"], strike(number, 1, importlib, "import_module").__call__)
    assert_stopped(done, number)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize(
    ("words", "owner", "name", "count"),
    [
        (["average", "run", "--last", "3", "--out", "mean"], tfkit.engine.tools.averaging, "verify", 2),
        (["average", "run", "--last", "3", "--out", "mean"], tfkit.hub.weights, "_mean", 5),
        (["average", "run", "--last", "3", "--out", "mean"], tfkit.durable, "sync_file", 3),
        (["verify", "run"], tfkit.engine.tools.verification, "verify", 2),
        (["check", "tiny.yaml"], tfkit.recipe, "open_recipe", 1),
    ],
    ids=["average checks", "average computes", "average writes", "verify", "check"],
)
def test_f03_f08_in_the_middle_of_a_command(base: Path, words: list[str], owner: Any, name: str, count: int, number: int) -> None:
    there = sorted(base.rglob("*"))
    here = {"run": str(base / "run"), "mean": str(base / "mean"), "tiny.yaml": str(base / "tiny.yaml")}
    done = run_tfkit(base, [here.get(word, word) for word in words], strike(number, count, owner, name).__call__)
    assert_stopped(done, number)
    assert [path for path in sorted(base.rglob("*")) if path.parent != base or path.is_dir()] == [
        path for path in there if path.parent != base or path.is_dir()
    ]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("module", ["typer", "torch"])
@pytest.mark.parametrize("number", STOPS)
def test_f03_f08_while_the_program_imports(base: Path, module: str, number: int) -> None:
    """A program of its own: the signal comes as the first thing of this name is imported."""
    script = (
        "import os, sys\n"
        "class Strike:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Strike())\n"
        "from tfkit.__main__ import main\n"
        f"sys.exit(main(['generate', '--from', {str(base / 'run')!r}, '--prompt', 'a', 'carbon.enabled=false']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert_stopped(Done(done.returncode, done.stdout, done.stderr, 0), number)


def test_f03_a_signal_that_was_swallowed_stops_the_next_stretch(tmp_path: Path) -> None:
    """As by a library that tries an import and catches whatever it raises."""

    def before() -> None:
        import_module = importlib.import_module

        def swallowing(*arguments: Any) -> Any:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception:
                return import_module(*arguments)

        importlib.import_module = swallowing

    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    done = pretrain(tmp_path / "run", recipe, before=before).refuses(143)
    assert done.err.startswith("stopped by SIGTERM: ")  # the line after it says how to continue
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("number", [*STOPS, signal.SIGINT])
def test_f05_a_second_signal_as_the_program_ends_changes_nothing(base: Path, number: int) -> None:
    """Neither a traceback of the interpreter that ends, nor the signal as its exit code."""
    words = [sys.executable, "-m", "tfkit", "generate", "--from", str(base / "run"), "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=base, text=True) as program:
        assert "sampling" in program.stderr.readline()
        program.send_signal(number)
        last = f"stopped by {signal.Signals(number).name}: "
        # While it samples, a line before says that it will stop.
        assert any(line.startswith(last) for line in iter(program.stderr.readline, ""))
        program.send_signal(number)
        assert program.stderr.read() == ""
    assert program.returncode == 128 + number
