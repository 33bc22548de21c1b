"""With --json an error is one document on stdout, too; stderr and the exit code stay."""

import json
import signal
from typing import Any

import pytest

import tfkit.cli.check
from tfkit import console, errors
from tfkit.__main__ import main
from tfkit.cli import COMMANDS
from tfkit.errors import error_document

NEEDED = {
    "pretrain": ["no-such-recipe"],
    "finetune": ["--from", "nowhere", "--data", "none.csv"],
    "resume": ["nowhere"],
    "evaluate": ["--from", "nowhere"],
    "predict": ["--from", "nowhere", "--data", "none.csv"],
    "embed": ["--from", "nowhere", "--data", "none.csv"],
    "sweep": ["no-such-recipe", "optimizer.lr=1,2"],
    "plan": ["no-such-recipe"],
    "report": ["nowhere"],
    "track": ["nowhere", "--to", "wandb"],
    "launch": ["slurm", "no-such-recipe", "--nodes", "2"],
    "runs": ["--no-such-option"],
    "generate": ["--from", "nowhere", "--prompt", "x"],
    "average": ["nowhere", "--last", "2", "--out", "mean"],
    "export": ["nowhere", "--gguf", "model.gguf"],
    "push": ["nowhere", "me/model"],
    "replay": ["nowhere"],
    "inspect": ["no-such-recipe"],
    "check": ["no-such-recipe"],
    "verify": ["nowhere"],
    "recipes": ["no-such-recipe"],
    "env": ["--no-such-option"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(command: str, in_tmp_path: None, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([command, *NEEDED[command], "--json"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    error = json.loads(out)["error"]
    assert list(error) == ["code", "kind", "message", "place", "remedy"]
    assert error["code"] == code
    assert error["kind"] in ("usage", "data", "model")
    assert error["message"].splitlines()[-1] in err
    assert main([command, *NEEDED[command]]) == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            errors.DataError("rows.csv:17: no text in column body; name another with text: NAME, or repair the row"),
            {"code": 3, "kind": "data", "place": "rows.csv:17", "remedy": "name another with text: NAME, or repair the row"},
        ),
        (
            errors.ModelError("my models/bert: the weights do not fit. Copy both again"),
            {"code": 4, "kind": "model", "place": None, "remedy": "Copy both again"},
        ),
        (
            errors.UsageError("--device abacus: not a device; use cpu, cuda, cuda:0, mps or auto"),
            {"code": 2, "kind": "usage", "place": "--device abacus", "remedy": "use cpu, cuda, cuda:0, mps or auto"},
        ),
        (
            errors.UsageError("r.yaml:2:3: model.decoder_layer: unknown, did you mean decoder_layers"),
            {"code": 2, "kind": "usage", "place": "r.yaml:2:3", "remedy": "did you mean decoder_layers"},
        ),
        (
            errors.Stopped("stopped after step 3 of 9; its checkpoint is saved\ntfkit resume runs/x --json", 15),
            {"code": 143, "kind": "stopped", "place": None, "remedy": "tfkit resume runs/x --json"},
        ),
        (errors.Stopped("s", signal.SIGHUP), {"code": 129, "kind": "stopped"}),
        (errors.Stopped("s", signal.SIGINT), {"code": 130, "kind": "stopped"}),
        (errors.MachineError("the disk is full"), {"code": 5, "kind": "environment", "place": None, "remedy": None}),
        (errors.UnhealthyError("step 3: the loss is not finite"), {"code": 6, "kind": "unhealthy", "place": "step 3", "remedy": None}),
        (KeyboardInterrupt(), {"code": 130, "kind": "stopped", "place": None, "remedy": None}),
        (MemoryError(), {"code": 5, "kind": "environment", "place": None}),
        (PermissionError(13, "Permission denied", "/there"), {"code": 5, "kind": "environment", "place": "/there"}),
        (ZeroDivisionError("by zero"), {"code": 1, "kind": "bug", "place": None, "message": "tfkit: a bug: ZeroDivisionError: by zero"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_kind_has_its_code_its_document_and_its_message_alone(
    error: BaseException, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(json: bool = False) -> None:
        """Raise it."""
        raise error

    monkeypatch.setattr(tfkit.cli.check, "check", check)
    assert main(["check", "--json"]) == expected["code"]
    out, err = capsys.readouterr()
    found = json.loads(out)["error"]
    assert found | expected == found
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
