"""Exceptions of a command become the exit codes of the contract, and a bug of ours 1; with --json an error is one document on stdout, too.

The command is a real one that is made to raise.
"""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
from tiny_runs import pretrain, run_here, run_piped, run_tfkit
from typer.testing import CliRunner

import tfkit.cli.check
from tfkit import console, errors
from tfkit.__main__ import main
from tfkit.cli import COMMANDS, app
from tfkit.cli.program import set_crash_folder
from tfkit.model.transformer import Transformer

ROOT = Path(__file__).parent.parent.parent


def ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, *words: str, before: Callable[[], object] = lambda: None) -> int:
    def check(json: bool = False) -> None:
        """Raise it."""
        before()
        raise error

    monkeypatch.setattr(tfkit.cli.check, "check", check)
    return main(["check", *words])


def test_a_reader_that_left_is_no_error_but_a_broken_pipe_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert ends_with(AssertionError(), monkeypatch, before=lambda: set_crash_folder(tmp_path)) == 1
    log = tmp_path / "crash.log"
    assert capsys.readouterr().err == f"tfkit: a bug: AssertionError (the traceback is in {log})\n"
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert ends_with(AssertionError(), monkeypatch, before=lambda: set_crash_folder(tmp_path / "gone")) == 1
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


# -- with --json

NEEDED = {
    **dict.fromkeys(("resume", "report", "replay", "verify"), "nowhere"),
    **dict.fromkeys(("pretrain", "plan", "inspect", "check", "recipes"), "no-such-recipe"),
    **dict.fromkeys(("finetune", "predict", "embed"), "--from nowhere --data none.csv"),
    **dict.fromkeys(("runs", "env"), "--no-such-option"),
    "evaluate": "--from nowhere",
    "sweep": "no-such-recipe optimizer.lr=1,2",
    "track": "nowhere --to wandb",
    "launch": "slurm no-such-recipe --nodes 2",
    "generate": "--from nowhere --prompt x",
    "average": "nowhere --last 2 --out mean",
    "export": "nowhere --gguf model.gguf",
    "push": "nowhere me/model",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(command: str, in_tmp_path: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, *NEEDED[command].split()]
    code = main([*words, "--json"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    error = json.loads(out)["error"]
    assert list(error) == ["code", "kind", "message", "place", "remedy"]
    assert error["code"] == code
    assert error["kind"] in ("usage", "data", "model")
    assert error["message"].splitlines()[-1] in err
    assert main(words) == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "code", "kind", "place", "remedy"),
    [
        (errors.DataError("rows.csv:17: no text; name it with text: NAME"), 3, "data", "rows.csv:17", "name it with text: NAME"),
        (errors.ModelError("my models/bert: the weights do not fit. Copy both again"), 4, "model", None, "Copy both again"),
        (errors.UsageError("--device abacus: not a device; use cpu, cuda, cuda:0"), 2, "usage", "--device abacus", "use cpu, cuda, cuda:0"),
        (errors.UsageError("r.yaml:2:3: decoder_layer: unknown, did you mean dim"), 2, "usage", "r.yaml:2:3", "did you mean dim"),
        (errors.Stopped("stopped after step 3 of 9; saved\ntfkit resume x --json", 15), 143, "stopped", None, "tfkit resume x --json"),
        (errors.Stopped("s", signal.SIGHUP), 129, "stopped", None, None),
        (errors.Stopped("s", signal.SIGINT), 130, "stopped", None, None),
        (errors.MachineError("the disk is full"), 5, "environment", None, None),
        (errors.UnhealthyError("step 3: the loss is not finite"), 6, "unhealthy", "step 3", None),
        (KeyboardInterrupt(), 130, "stopped", None, None),
        (MemoryError(), 5, "environment", None, ANY),
        (PermissionError(13, "Permission denied", "/there"), 5, "environment", "/there", "check the path, its permissions and its disk"),
        (ZeroDivisionError("by zero"), 1, "bug", None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_kind_has_its_code_its_document_and_its_message_alone(
    error: BaseException, code: int, kind: str, place: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(error, monkeypatch, "--json") == code
    out, err = capsys.readouterr()
    found = json.loads(out)["error"]
    assert (found["code"], found["kind"], found["place"], found["remedy"]) == (code, kind, place, remedy)
    assert kind != "bug" or found["message"] == "tfkit: a bug: ZeroDivisionError: by zero"
    if isinstance(error, errors.TfkitError | errors.Stopped | KeyboardInterrupt):
        assert err == f"{str(error) or 'interrupted'}\n"


def test_a_result_that_is_written_is_the_only_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed gate, a damaged file of verify: the command's own document has the error, too."""
    error, result = errors.QualityGateError("quality gate failed: loss > 2 (it is 2.5)"), {"metrics": {"loss": 2.5}, "gates": []}
    assert ends_with(error, monkeypatch, "--json", before=lambda: console.json(result, error)) == 8
    document = json.loads(capsys.readouterr().out)
    assert (document.pop("error")["kind"], document) == ("gate", result)


def test_several_lines_and_a_long_beginning_are_no_place() -> None:
    assert errors.error_document(2, "a.yaml:1:2: wrong\nb.yaml:3:4: wrong")["error"]["place"] == "a.yaml:1:2"
    assert errors.error_document(2, "x" * 400 + ": wrong")["error"]["place"] is None
    assert errors.error_document(2, "the model reads, and writes; it has no head: leave that out")["error"]["place"] is None


# -- tfkit check

GOOD = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3}\n"


def test_a_good_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a b.yaml"
    path.write_text(GOOD, encoding="utf-8")
    done = run_here(["check", path, "training.steps=4"]).exits(0)
    assert (done.out, done.err) == (f"{path}: no errors\n", "")
    bundled = run_here(["check", "gpt2-stdlib", "--json"]).exits(0).document
    assert bundled.items() >= {"valid": True, "errors": [], "schema_version": 1}.items()


def test_errors_go_to_stderr_and_with_json_to_stdout_too(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD + "carbon: {pu: 1}\n", encoding="utf-8")
    lines = f"{path}:4:10: carbon.pu: unknown, did you mean pue\ncommand line: model.dmi: unknown, did you mean dim\n"
    assert run_here(["check", path, "model.dmi=3"]).refuses(2).err == lines
    done = run_here(["check", path, "model.dmi=3", "--json"]).exits(2)
    assert done.err == lines
    assert done.document == {
        "error": {"code": 2, "kind": "usage", "message": lines.rstrip("\n"), "place": f"{path}:4:10", "remedy": "did you mean pue"},
        "schema_version": 1,
        "recipe": str(path),
        "valid": False,
        "errors": [
            {"file": str(path), "line": 4, "column": 10, "path": "carbon.pu", "message": "unknown, did you mean pue"},
            {"file": "command line", "line": None, "column": None, "path": "model.dmi", "message": "unknown, did you mean dim"},
        ],
    }


def test_a_recipe_from_a_pipe_and_no_recipe_for_the_schema(in_tmp_path: None) -> None:
    assert run_piped(["check", "/dev/stdin"], GOOD.encode()).exits(0).out == "/dev/stdin: no errors\n"
    assert "training" in run_here(["check", "--schema"]).exits(0).document["$defs"]["Recipe"]["properties"]


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 0.15), (["check", "gpt2-stdlib"], 0.5)])
def test_it_starts_quickly(arguments: list[str], seconds: float) -> None:
    """In processor time, which other processes do not take; one of three starts, with room for a slow machine: three times the contract."""

    def took() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "tfkit", *arguments], capture_output=True, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(took() < 3 * seconds for _ in range(3))


def test_files_that_are_missing_are_errors_among_the_others(tmp_path: Path, in_tmp_path: None) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").touch()
    recipe = """model: {from: start}
data:
  train:
  - {path: rows}
  - {path: rows/*.csv, class_names: names.txt}
  - {path: row/*.csv}
  - {hub: org/name}
  - {path: data/banking77/train.csv}
  validation: [{path: rows/a.csv, beside: {label: rows/b.csv}}]
  pretraining: [{path: more.txt}]
objective: {kind: distillation, teacher: "hub:org/teacher"}
training: {step: 3}
"""
    Path("r.yaml").write_text(recipe, encoding="utf-8")
    lines = run_here(["check", "r.yaml"]).exits(2).err.splitlines()
    any_file = "no such file or folder, and no file matches it as a glob"
    assert [line.replace(f" (from {tmp_path})", "") for line in lines if ": no such " in line] == [
        "r.yaml:1:15: model.from: 'start': no such folder; correct the path",
        "r.yaml:5:37: data.train.1.class_names: 'names.txt': no such file; correct the path",
        f"r.yaml:6:12: data.train.2.path: 'row/*.csv': {any_file}; correct the path",
        f"r.yaml:8:12: data.train.4.path: 'data/banking77/train.csv': {any_file}; `tfkit recipes banking77 --fetch` fetches it",
        "r.yaml:9:51: data.validation.0.beside.label: 'rows/b.csv': no such file, and no file matches it as a glob; correct the path",
        f"r.yaml:10:24: data.pretraining.0.path: 'more.txt': {any_file}; correct the path",
    ]
    assert any("training.step: unknown, did you mean steps" in line for line in lines)
    rule = "objective={kind: grpo, rules: [{kind: python, function: 'mine.py:reward', allow_code: true}]}"
    named = f"command line: objective.rules.0.function: 'mine.py': no such file (from {tmp_path}); correct the path"
    assert named in run_here(["check", "r.yaml", rule]).exits(2).err.splitlines()
