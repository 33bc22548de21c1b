"""The end of each command's --help, and completion in a shell."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_runs import run_here

from tfkit.cli import COMMANDS, examples
from tfkit.cli.options import Execution, Json, Recipe, flatten_options

ROOT = Path(__file__).parent.parent.parent
LINES = [line for command in COMMANDS for line in examples(command)]


def words_of(line: str) -> list[str]:
    """Return the words of the tfkit command in an example, without a pipe before it and a redirection behind it."""
    words = shlex.split(line)
    words = words[words.index("tfkit") + 1 :]
    return words[: words.index(">")] if ">" in words else words


def test_an_example_that_needs_no_data_runs_and_overrides_of_a_recipe_are_valid() -> None:
    """tests/docs/test_pages.py asks of all examples whether the program accepts them."""
    for line in (line for command in ("launch", "recipes") for line in examples(command)):
        run_here([word for word in words_of(line) if word != "--fetch"]).exits(0)
    of_a_recipe = [words for words in map(words_of, LINES) if words[0] in ("check", "plan", "pretrain") and "gpt2-stdlib" in words]
    for words in of_a_recipe:
        run_here(["check", "gpt2-stdlib", *(word for word in words if "=" in word)]).exits(0)
    assert len(of_a_recipe) > 5


@pytest.mark.parametrize(
    ("command", "said"),
    [
        *((command, "--rows N A quick try: only N of the rows, drawn by the seed.") for command in ("evaluate", "predict", "embed")),
        ("plan", '"emissions_g > 50". --stages'),
        ("", "--install-completion Install completion for the current shell: writes a script to your home folder"),
    ],
)
def test_help_says(command: str, said: str) -> None:
    assert said in " ".join(run_here([*command.split(), "--help"]).exits(0).out.split())


def test_help_ends_with_the_examples_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = run_here(["evaluate", "--help"]).exits(0).out.splitlines()
    start = next(number for number, line in enumerate(out) if line.strip() == "Examples:")
    assert [line.strip() for line in out[start + 1 :] if line.strip()] == list(examples("evaluate"))


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash")
def test_completion_installs_and_completes(tmp_path: Path) -> None:
    """In a real bash: the script is installed, is valid, and what it asks for is answered."""
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = f"{shlex.quote(sys.executable)} -m tfkit --install-completion; code=$?; exit $code"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".bash_completions" / "tfkit.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")
    assert subprocess.run(["/bin/bash", "-n", str(script)], check=False).returncode == 0
    for words, expected in (("tfkit ver", ["verify"]), ("tfkit check gpt2-s", ["gpt2-stdlib"]), ("tfkit recipes --js", ["--json"])):
        asked = {"_TFKIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run([sys.executable, "-m", "tfkit"], capture_output=True, text=True, env=environment | asked)
        assert done.stdout.split() == expected, done.stderr


def test_a_shell_without_completion_is_the_machine(tmp_path: Path) -> None:
    program = """
import shellingham, sys
def none(*_: object) -> None:
    raise shellingham.ShellDetectionFailure
shellingham.detect_shell = none
from tfkit.__main__ import main
sys.exit(main(["--install-completion"]))
"""
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 5
    assert done.stderr == "completion: this shell is not supported; run it in bash, zsh, fish or PowerShell\n"
    assert not list(tmp_path.iterdir())


def test_a_group_of_options_is_given_to_the_command_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Any] = []

    def command(recipe: Recipe, *, how: Execution, json: Json = False) -> None:
        """Do something."""
        given.append((recipe, how, json))

    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command()(flatten_options(command))
    as_typer_has_it: Any = typer.main.get_command(single)
    as_typer_has_it.main(["gpt2", "--threads", "3", "--json", "--run", "runs/a"], standalone_mode=False)
    assert given == [("gpt2", Execution(run=Path("runs/a"), threads=3), True)]
    as_typer_has_it.main(["--help"], standalone_mode=False)
    out = capsys.readouterr().out
    places = [out.index(f"--{name}") for name in ("run", "no-verify", "device", "threads", "ranks", "json", "quiet")]
    assert places == sorted(places)


def test_the_collector_does_not_visit_everything_once_more_at_the_end() -> None:
    script = (
        "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count() > 0))\nimport tfkit.__main__\nprint(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
