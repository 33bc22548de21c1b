"""Exceptions of a command become the exit codes of the contract, and a bug of ours 1. The command is a real one that is made to raise."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import pretrain, run_here, run_tfkit
from typer.testing import CliRunner

import tfkit.cli.check
from tfkit import console
from tfkit.__main__ import main
from tfkit.cli import COMMANDS, app
from tfkit.cli.program import set_crash_folder
from tfkit.model.transformer import Transformer

ROOT = Path(__file__).parent.parent.parent


def ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> int:
    def check() -> None:
        """Raise it."""
        before()
        raise error

    monkeypatch.setattr(tfkit.cli.check, "check", check)
    return main(["check"])


def test_a_reader_that_has_had_enough_is_no_error_but_a_broken_pipe_inside_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(console.ReaderGone(), monkeypatch) == 0
    assert capsys.readouterr().err == ""
    assert ends_with(BrokenPipeError("a socket"), monkeypatch) == 1


def test_the_typer_app_ends_as_the_program_does() -> None:
    refused = CliRunner().invoke(app, ["check", "nowhere", "--json"])
    assert (refused.exit_code, json.loads(refused.stdout)["error"]["kind"]) == (2, "usage")
    assert CliRunner().invoke(app, ["verify", "nowhere"]).exit_code == 4
    assert CliRunner().invoke(app, ["--version"]).stdout == f"tfkit {tfkit.__version__}\n"


def test_what_the_operating_system_refuses_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(PermissionError(errno.EACCES, "Permission denied", "/there"), monkeypatch) == 5
    assert capsys.readouterr().err == "/there: Permission denied: check the path, its permissions and its disk\n"
    assert main(["verify", "a" * 300]) == 5
    assert "File name too long: check the path" in capsys.readouterr().err
    assert ends_with(FileNotFoundError(errno.ENOENT, "No such file", "/there"), monkeypatch) == 1, "who looked for it?"


def test_a_bug_prints_its_traceback_or_leaves_it_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(ZeroDivisionError("by\nzero"), monkeypatch) == 1
    err = capsys.readouterr().err
    assert (err[:9], err.endswith("tfkit: a bug: ZeroDivisionError: by\n")) == ("Traceback", True)
    assert ends_with(AssertionError(), monkeypatch, lambda: set_crash_folder(tmp_path)) == 1
    log = tmp_path / "crash.log"
    assert capsys.readouterr().err == f"tfkit: a bug: AssertionError (the traceback is in {log})\n"
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert ends_with(AssertionError(), monkeypatch, lambda: set_crash_folder(tmp_path / "gone")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_command_line() -> None:
    for words, said in (
        (["chek"], "Did you mean 'check'"),
        (["qqq"], "Commands: pretrain"),
        (["--foo"], "--foo"),
        (["check", "--json=3"], "--json"),
        (["pretrain", "smoke", "--run", ""], "the argument after --run is empty"),
        (["evaluate", "--from="], "the argument after --from is empty"),
        (["report", ""], "the argument after report is empty"),
        (["check", "r.yaml", "\n", ""], r"the argument after '\n' is empty"),
        ([], "Usage: tfkit"),
    ):
        run_here(words).refuses(2, said)


def test_quiet_holds_for_one_call_only() -> None:
    assert [main(["recipes", "--quiet"]), main(["recipes"]), console._quiet] == [0, 0, False]


def test_help() -> None:
    for words in (["--help"], ["-h"], ["check", "--help"]):
        done = run_here(words).exits(0)
        assert (done.out.startswith("Usage: tfkit"), done.err) == (True, "")
        assert words[0] == "check" or all(f"  {name} " in done.out for name in COMMANDS)


def program(arguments: list[str], **options: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "tfkit", *arguments], cwd=ROOT, **options)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("arguments", [["--help"], ["check", "--schema"]])
def test_a_closed_pipe_ends_quietly(arguments: list[str]) -> None:
    process = program(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


def test_ctrl_c_while_it_waits(tmp_path: Path) -> None:
    fifo = tmp_path / "r.yaml"
    os.mkfifo(fifo)
    process = program(["check", str(fifo)], stderr=subprocess.PIPE)
    with fifo.open("wb"):  # opens once the program reads from it
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, b"interrupted\n")


# -- 1, a bug: one line, and its traceback in the run folder


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    pretrain(base / "run", base / "tiny.yaml").exits(0)
    return base


def a_bug() -> None:
    """The model divides by zero."""
    Transformer.forward = lambda *_, **__: 1 // 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("command", ["pretrain", "evaluate", "generate"])
def test_a_bug_in_a_run_folder(base: Path, tmp_path: Path, command: str) -> None:
    run = tmp_path / "run"
    checkpoint = ["--from", str(base / "run"), "carbon.enabled=false", *(["--prompt", "the"] if command == "generate" else [])]
    words = [str(base / "tiny.yaml")] if command == "pretrain" else checkpoint
    done = run_tfkit(tmp_path, [command, *words, "--run", str(run), "--quiet", "--threads", "1"], a_bug).refuses(1)
    trace = f"(the traceback is in {run / 'crash.log'})"
    assert done.err.endswith(f"tfkit: a bug: ZeroDivisionError: integer division or modulo by zero {trace}\n")
    assert len(done.err.splitlines()) == 1
    assert "Traceback" in (run / "crash.log").read_text(encoding="utf-8")
