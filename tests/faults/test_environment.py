"""No home, any locale, any terminal or none: the commands work, and what they say can be read."""

import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Program, both, on_terminal, pretrain, run_tfkit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """A recipe, its corpus, and a finished run."""
    pretrain(base / "run", base / "tiny.yaml").exits(0)
    return base


COMMANDS = ["check", "pretrain", "evaluate", "generate", "generate-lines", "env"]


def words(command: str, base: Path, run: Path) -> list[str]:
    """The command line of a command that succeeds."""
    checkpoint = ["--from", str(base / "run"), "carbon.enabled=false", "--threads", "1"]
    return {
        "check": ["check", str(base / "tiny.yaml")],
        "pretrain": ["pretrain", str(base / "tiny.yaml"), "--run", str(run), "--threads", "1", "training.steps=3"],
        "evaluate": ["evaluate", *checkpoint],
        "generate": ["generate", "--prompt", "the cat", "--max-new-tokens", "3", *checkpoint],
        "generate-lines": ["generate", "--prompt", "Straße 🙂", "--json", "--max-new-tokens", "3", *checkpoint],
        "env": ["env"],
    }[command]


def encoded(encoding: str) -> None:
    """The standard streams as Python opens them under PYTHONIOENCODING."""
    for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
        getattr(sys, name).reconfigure(encoding=encoding, errors=errors)


def setting(*unset: str, **variables: str) -> Callable[[], None]:
    """These variables of the environment, and none of the names in `unset`."""

    def before() -> None:
        for name in unset:
            os.environ.pop(name, None)
        os.environ.update(variables)

    return before


NO_CACHE = ("TFKIT_CACHE", "XDG_CACHE_HOME")
ENVIRONMENTS: dict[str, Callable[[], None]] = {
    "HOME not set": setting("HOME", *NO_CACHE),
    "HOME missing": setting(*NO_CACHE, HOME="/nonexistent"),
    "HOME that cannot be written": setting(*NO_CACHE, HOME="/proc"),
    "LC_ALL=C": setting(LC_ALL="C"),
    "ASCII streams": both(setting(LC_ALL="C.UTF-8"), lambda: encoded("ascii")),
    "Windows code page": both(setting(LC_ALL="C.UTF-8"), lambda: encoded("cp1252")),
    "COLUMNS=20": setting(COLUMNS="20", LINES="2"),
    "COLUMNS that is no number": setting(COLUMNS="wide", LINES=""),
    "NO_COLOR": setting(NO_COLOR="1"),
    "TERM=dumb": setting(TERM="dumb"),
    "no TERM": setting("TERM", "LANG"),
    "stdin closed": lambda: (os.close(0), setattr(sys, "stdin", None)),
}
ASCII = ("LC_ALL=C", "ASCII streams")


@pytest.mark.sampled(7)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_f47_every_command_everywhere(base: Path, tmp_path: Path, command: str, environment: str) -> None:
    begin = both(setting(TMPDIR=str(tmp_path)), _as_outside_pytest, ENVIRONMENTS[environment])
    done = run_tfkit(tmp_path, words(command, base, tmp_path / "run"), begin).exits(0)
    assert done.out
    assert "\x1b" not in done.out + done.err, "no colours and no cursor where no terminal is"
    warned = [line for line in done.err.splitlines() if "warning" in line.lower()]
    touches_the_cache = command in ("pretrain", "evaluate", "env")
    assert len(warned) == (touches_the_cache and environment in ("HOME missing", "HOME that cannot be written")), done.err
    assert all(re.fullmatch(r"warning: .* cannot be written, so the cache is .*; set TFKIT_CACHE to keep it", line) for line in warned)
    if environment in ASCII:
        assert done.err.isascii()
        assert done.out.isascii() or (command, environment) == ("generate", "LC_ALL=C"), "a text is data, and stays as it is"


def _as_outside_pytest() -> None:
    """Warnings are shown and no errors; the temporary folder is looked for again."""
    warnings.simplefilter("default", RuntimeWarning)
    tempfile.tempdir = None


@pytest.mark.parametrize("environment", ["LC_ALL=C", "ASCII streams"])
def test_f47_errors_and_warnings_are_ascii_too(base: Path, tmp_path: Path, environment: str) -> None:
    recipe = tmp_path / "Straße.yaml"
    recipe.write_text("modèle: {preset: gpt2}\ntraining: {steps: “3”}\n", encoding="utf-8")
    done = run_tfkit(tmp_path, ["check", str(recipe)], ENVIRONMENTS[environment])
    assert done.refuses(2, "Stra\\xdfe.yaml:1:1: mod\\xe8le: unknown, did you mean model").err.isascii()


def test_f47_stdin_closed_where_prompts_come_from_it(base: Path, tmp_path: Path) -> None:
    done = run_tfkit(tmp_path, ["generate", "-", "--from", str(base / "run")], ENVIRONMENTS["stdin closed"]).refuses(3)
    assert done.err == "stdin: closed, so no prompt can be read from it; give --prompt TEXT or --input F\n"


# -- terminals


def shown(arguments: list[str], columns: int, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
    """The exit code of a command whose stdin, stdout and stderr are a terminal of this many columns, and what it wrote there."""
    begin = both(setting(TERM="xterm", LC_ALL="C.UTF-8"), before)
    return on_terminal(lambda end: Program(arguments, begin, stdin=end, stdout=end, stderr=end), columns)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("command", "columns"), [*((command, 20) for command in COMMANDS), ("pretrain", 80)])
def test_f47_on_a_terminal(base: Path, tmp_path: Path, command: str, columns: int) -> None:
    code, out = shown(words(command, base, tmp_path / "run"), columns)
    assert code == 0, out
    assert out.strip()
    assert "Traceback" not in out
    if command == "pretrain":
        drawn = re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", out)
        live = [line for line in drawn if re.match(r"step \d+/", line)]
        assert live, out
        assert all(len(line) < columns for line in live)
        assert "step 3/3" in out


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_f47_a_terminal_without_colours(base: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    bad = ["check", str(base / "tiny.yaml"), "training.step=3"]
    code, plain = shown(bad, 80)
    assert (code, "\x1b[31m" in plain) == (2, True), "red, where colours are wanted"
    code, plain = shown(bad, 80, setting(**variables))
    assert (code, "\x1b[3" in plain) == (2, False)
    code, plain = shown(words("pretrain", base, tmp_path / "run"), 80, setting(**variables))
    assert (code, "\x1b[3" in plain) == (0, False)
    assert "TERM" not in variables or not re.search("\x1b|####", plain)


def test_f47_a_terminal_in_the_locale_c(base: Path, tmp_path: Path) -> None:
    code, out = shown(words("pretrain", base, tmp_path / "run"), 100, setting(LC_ALL="C"))
    assert (code, out.isascii()) == (0, True), out


# -- the program itself, with the worst of all at once

BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "20", "TERM": "dumb"}


@pytest.mark.parametrize("command", [pytest.param(command, marks=[pytest.mark.slow] * (command != "check")) for command in COMMANDS])
def test_f47_a_fresh_process_in_a_bare_environment(base: Path, tmp_path: Path, command: str) -> None:
    program = ["sh", "-c", 'exec "$0" -m tfkit "$@" <&-', sys.executable, *words(command, base, tmp_path / "run")]
    done = subprocess.run(program, capture_output=True, cwd=ROOT, env=BARE | {"TMPDIR": str(tmp_path)}, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (done.stdout + done.stderr).isascii()
    assert b"Traceback" not in done.stderr
    assert b".py:" not in done.stderr, "no warning of a library as Python writes it"


def test_f47_a_current_folder_that_was_deleted(base: Path, tmp_path: Path) -> None:
    """As by a runner that cleans its workspace. The libraries of torch would end the process without an error of ours."""
    (tmp_path / "gone").mkdir()
    delete = both(lambda: os.chdir(tmp_path / "gone"), (tmp_path / "gone").rmdir)
    done = run_tfkit(tmp_path, words("generate", base, tmp_path / "run"), delete)
    done.exits(5, "the current folder was deleted; change to another one")
