"""With --json an error is one document on stdout, too; stderr and the exit code stay."""

import json
import signal
from unittest.mock import ANY

import pytest

import tfkit.cli.check
from tfkit import console, errors
from tfkit.__main__ import main
from tfkit.cli import COMMANDS
from tfkit.errors import error_document

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
    def check(json: bool = False) -> None:
        """Raise it."""
        raise error

    monkeypatch.setattr(tfkit.cli.check, "check", check)
    assert main(["check", "--json"]) == code
    out, err = capsys.readouterr()
    found = json.loads(out)["error"]
    assert (found["code"], found["kind"], found["place"], found["remedy"]) == (code, kind, place, remedy)
    assert kind != "bug" or found["message"] == "tfkit: a bug: ZeroDivisionError: by zero"
    if isinstance(error, errors.TfkitError | errors.Stopped | KeyboardInterrupt):
        assert err == f"{str(error) or 'interrupted'}\n"


def test_a_result_that_is_written_is_the_only_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed gate, a damaged file of verify: the command's own document has the error, too."""

    def check(json: bool = False) -> None:
        """Give a result, and fail."""
        error = errors.QualityGateError("quality gate failed: loss > 2 (it is 2.5)")
        console.json({"metrics": {"loss": 2.5}, "gates": []}, error)
        raise error

    monkeypatch.setattr(tfkit.cli.check, "check", check)
    assert main(["check", "--json"]) == 8
    document = json.loads(capsys.readouterr().out)
    assert (document.pop("error")["kind"], document) == ("gate", {"metrics": {"loss": 2.5}, "gates": []})


def test_several_lines_and_a_long_beginning_are_no_place() -> None:
    assert error_document(2, "a.yaml:1:2: wrong\nb.yaml:3:4: wrong")["error"]["place"] == "a.yaml:1:2"
    assert error_document(2, "x" * 400 + ": wrong")["error"]["place"] is None
    assert error_document(2, "the model reads, and writes; it has no head: leave that out")["error"]["place"] is None
