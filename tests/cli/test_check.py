import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import run_here, run_piped

ROOT = Path(__file__).parent.parent.parent
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
