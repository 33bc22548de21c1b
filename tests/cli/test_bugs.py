"""Exit code 1: a bug of ours ends a real command with one line, and its traceback is in the run folder."""

import os
from pathlib import Path

import pytest
from tiny_runs import pretrain, run_tfkit

from tfkit.model.transformer import Transformer


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    assert pretrain(base / "run", base / "tiny.yaml").code == 0
    return base


def a_bug() -> None:
    """The model divides by zero."""
    Transformer.forward = lambda *_, **__: 1 // 0  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "generate"])
def test_a_bug_in_a_run_folder(base: Path, tmp_path: Path, command: str) -> None:
    run = tmp_path / "run"
    checkpoint = ["--from", str(base / "run"), "carbon.enabled=false", *(["--prompt", "the"] if command == "generate" else [])]
    words = [str(base / "tiny.yaml")] if command == "pretrain" else checkpoint
    done = run_tfkit(tmp_path, [command, *words, "--run", str(run), "--quiet", "--threads", "1"], a_bug)
    assert (done.code, done.out) == (1, "")
    trace = f"(the traceback is in {run / 'crash.log'})"
    assert done.err.endswith(f"tfkit: a bug: ZeroDivisionError: integer division or modulo by zero {trace}\n")
    assert len(done.err.splitlines()) == 1
    assert "Traceback" in (run / "crash.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_bug_without_a_run_folder(base: Path, tmp_path: Path, command: str) -> None:
    words = ["--from", str(base / "run"), "carbon.enabled=false", *(["--prompt", "the"] if command == "generate" else [])]
    done = run_tfkit(tmp_path, [command, *words, "--quiet"], a_bug)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Traceback")
    assert done.err.splitlines()[-1].startswith("tfkit: a bug: ZeroDivisionError")
    assert not os.listdir(tmp_path / "run") if (tmp_path / "run").exists() else True
