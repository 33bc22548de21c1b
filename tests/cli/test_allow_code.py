"""Code that a run's recipe names is run only if this user has allowed its content: with every command, on ranks, and from Python.

The code of these runs leaves a canary, a file beside it, whenever it is run.
"""

import ast
import inspect
import py_compile
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_files import write_rows
from tiny_runs import Done, run_tfkit, strike, write_corpus, write_recipe

import tfkit
from tfkit.alignment.user_code import CodePermission, open_code
from tfkit.cli import COMMANDS, LazyGroup
from tfkit.engine.chains.sweep_plan import plan_sweep
from tfkit.engine.listener import Silent
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.errors import UsageError
from tfkit.recipe.reading.overrides import NO_OVERRIDES
from tfkit.recipe.reading.read import open_recipe
from tfkit.recipe.search_space import SearchSpace

CODE = 'with open(__file__ + ".ran", "a") as canary:\n    canary.write("ran ")\n\n\ndef reward(row, text):\n    return text.count("a")\n'
COMMON = """
data: {train: [{path: prompts.jsonl}], validation: [{path: prompts.jsonl}]}
objective: {kind: grpo, rules: [{kind: python, function: "mine.py:reward", allow_code: true}], prompts: 2, completions: 4,
  max_new_tokens: 4}
optimizer: {lr: 1e-2}
schedule: {kind: constant}
training: {steps: 2, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
checkpoint: {every: 1, keep: 9}
carbon: {enabled: false}
"""
CHAIN = """
stages:
  first:
    {model: {from: base}, data: {train: [{path: corpus}], validation: 0.3}, training: {steps: 2, batch_size: 2}, carbon: {enabled: false}}
  second: {model: {from: first}, COMMON}
"""
CODE_FIRST = """
stages:
  first: {model: {from: base}, COMMON}
  second:
    {model: {from: first}, data: {train: [{path: corpus}], validation: 0.3}, training: {steps: 2, batch_size: 2}, carbon: {enabled: false}}
"""
REFUSED = "objective.rules.0: mine.py is code, and you have not allowed its content"
# What each command does with runs that another user made: those that run their code if they may, and those that run none.
CODE_RUN = {
    "pretrain": "grown.yaml --run grown --resume training.steps=3",
    "finetune": "grpo.yaml --run whole --resume training.steps=3",
    "resume": "whole training.steps=3",
    "sweep": "grpo.yaml optimizer.lr=1e-2,1e-3 --run swept --resume",
    "evaluate": "--from whole",
    "replay": "broken",
}
CODE_LEFT = {
    "plan": "grpo.yaml",
    "runs": ".",
    "report": "whole",
    "predict": "--from whole --data prompts.jsonl",
    "embed": "--from whole --data prompts.jsonl --field prompt",
    "generate": "--from whole --prompt the --run said",
    "average": "whole --last 2 --out mean",
    "inspect": "grpo.yaml",
    "check": "whole/recipe.yaml",
    "export": "whole --gguf whole.gguf",
    "push": "whole org/whole --dry-run",
    "launch": "slurm grpo.yaml",
    "verify": "whole",
    "track": "whole --to tensorboard",
    "recipes": "",
    "env": "",
}


def canaries(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.ran")]


def has_option(command: str) -> bool:
    return "--allow-code" in {name for one in LazyGroup().get_command(None, command).params for name in one.opts}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that another user made: finished, stopped, broken, a chain and a sweep, all with code."""
    folder, patch = tmp_path_factory.mktemp("code"), pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("other")))
    write_rows(Path("prompts.jsonl"), [{"prompt": f"the cat {'sat ' * (number % 3)}", "answer": number} for number in range(6)])
    Path("mine.py").write_text(CODE, encoding="utf-8")
    Path("grpo.yaml").write_text("model: {from: base}" + COMMON, encoding="utf-8")
    tiny = "model: {preset: gpt2, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 24}\ntokenizer: {path: base}"
    Path("grown.yaml").write_text(tiny + COMMON, encoding="utf-8")
    stage = ", ".join(COMMON.replace(",\n  ", ", ").strip().splitlines())
    Path("chain.yaml").write_text(CHAIN.replace("COMMON", stage), encoding="utf-8")
    Path("code_first.yaml").write_text(CODE_FIRST.replace("COMMON", stage), encoding="utf-8")
    write_recipe(folder, write_corpus(folder / "corpus"))
    run("pretrain", "tiny.yaml", "--run", "base", "training.steps=2", "model.context_length=24").exits(0)
    run("pretrain", "grown.yaml", "--run", "grown").exits(0)
    run("finetune", "grpo.yaml", "--run", "whole").exits(0)
    in_the_second_trial = strike(signal.SIGTERM, 6)
    run("sweep", "grpo.yaml", "optimizer.lr=1e-2,1e-3", "--run", "swept", before=in_the_second_trial).exits(143)
    run("finetune", "grpo.yaml", "optimizer={kind: adamw, lr: 1e30, clip_norm: null}", "--run", "broken").exits(6)
    patch.undo()
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as a download, where the user has allowed nothing."""
    folder = tmp_path / "download"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("*.ran", "out-*", "err-*"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


def run(*words: str, before: Callable[[], object] | None = None) -> Done:
    return run_tfkit(Path(), [*words], before)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_the_code_of_a_run_without_permission(command: str, place: Path) -> None:
    """A new command has to be in the table. One with --allow-code refuses the run without it, any other runs no code at all."""
    words = (CODE_RUN | CODE_LEFT)[command].split()
    done = run(command, *words)
    assert canaries(place) == []
    assert has_option(command) == (command in CODE_RUN) or command == "plan"
    if command in CODE_LEFT:
        done.exits(2 if command == "predict" else 0)  # for which a policy has no labels
        return
    done.exits(2, REFUSED, "--allow-code")
    run(command, *words, "--allow-code").exits(0)
    assert canaries(place) == ["mine.py.ran"]
    assert not (place.parent / "state").exists()  # the option is for one command


@pytest.mark.thorough
def test_every_call_of_the_library_has_what_its_command_has(place: Path) -> None:
    """As the commands; the message names the argument."""
    calls: dict[str, Callable[..., Any]] = {
        "pretrain": lambda **given: tfkit.pretrain("grown.yaml", {"training.steps": 3}, run="grown", resume=True, **given),
        "finetune": lambda **given: tfkit.finetune("grpo.yaml", {"training.steps": 3}, run="whole", resume=True, **given),
        "resume": lambda **given: tfkit.resume("whole", {"training.steps": 4}, **given),
        "sweep": lambda **given: tfkit.sweep("grpo.yaml", {"optimizer.lr": "1e-2,1e-3"}, run="swept", resume=True, **given),
        "evaluate": lambda **given: tfkit.evaluate(start="whole", **given),
    }
    for command in COMMANDS:
        if (function := getattr(tfkit, command, None)) is None:
            continue
        assert has_option(command) == ("allow_code" in inspect.signature(function).parameters), command
        assert has_option(command) == (command in calls) or command == "plan", command
    for command, call in calls.items():
        with pytest.raises(UsageError, match=r"objective.rules.0: mine.py is code.*`allow_code=True`"):
            call()
        assert canaries(place) == [], command
    tfkit.plan("grpo.yaml")
    tfkit.generate("the cat", start="whole")
    assert canaries(place) == []
    for command, call in calls.items():
        call(allow_code=True)
        assert canaries(place) == ["mine.py.ran"], command
        (place / "mine.py.ran").unlink()


def test_what_only_plans_runs_no_code_even_if_it_is_allowed_but_a_probe_does(place: Path) -> None:
    """That of the recipe that the user names."""
    run("plan", "grpo.yaml", "--probe", "1").exits(0)
    assert canaries(place) == ["mine.py.ran"]
    run("finetune", "grpo.yaml", "--run", "own").exits(0)
    (place / "mine.py.ran").unlink()
    plans = ["plan", "grpo.yaml"], ["inspect", "grpo.yaml"], ["finetune", "grpo.yaml", "--run", "new", "--dry-run"]
    for words in plans:
        run(*words).exits(0)
    assert canaries(place) == []
    (place / "mine.py").unlink()
    for words in plans:
        run(*words).exits(2, "objective.rules.0: mine.py does not exist")


def test_code_of_the_users_own_training_runs_from_then_on_until_it_is_changed(place: Path) -> None:
    run("evaluate", "--from", "whole").exits(2)
    run("finetune", "grpo.yaml", "--run", "own").exits(0)
    assert (place / "mine.py.ran").read_text() == "ran "  # once, also for the evaluations
    for line in ("evaluate --from own", "evaluate --from whole", "resume own training.steps=3", "replay broken"):
        run(*line.split()).exits(0)
    (place / "mine.py.ran").unlink()
    (place / "mine.py").write_text(CODE + "#", encoding="utf-8")
    for line in ("evaluate --from own", "replay broken"):
        run(*line.split()).exits(2, REFUSED)
    for option in ([], ["--allow-code"]):
        run("resume", "own", "training.steps=4", *option).exits(3, "the code of objective.rules is not what this run was started with")
    assert canaries(place) == []
    run("finetune", "grpo.yaml", "--run", "another").exits(0)


@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
def test_a_permission_is_for_a_content(tmp_path_factory: pytest.TempPathFactory, allowed: bytes, other: bytes, every: bool) -> None:
    folder = tmp_path_factory.mktemp("content")
    for name, content in (("allowed.py", allowed), ("other.py", other)):
        (folder / name).write_bytes(content)
    permission = CodePermission(every_file=every, noted=False).with_named([str(folder / "allowed.py")], lambda _: None)
    permission.require({"field": str(folder / "allowed.py")})
    if every or allowed == other:
        permission.require({"field": str(folder / "other.py")})
    else:
        with pytest.raises(UsageError, match=r"field: .*other.py is code"):
            open_code("field", str(folder / "other.py"), permission)


def test_compiled_code_beside_the_file_is_ignored(tmp_path: Path) -> None:
    """Python would prefer it, and never compare an unchecked one with its source."""
    file, canary = tmp_path / "mine.py", tmp_path / "ran"
    file.write_text(f"open({str(canary)!r}, 'w').close()\n", encoding="utf-8")
    py_compile.compile(str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    file.write_text("value = 3\n", encoding="utf-8")
    module, _ = open_code("field", str(file), CodePermission(every_file=True))
    assert (module.value, canary.exists()) == (3, False)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fault", ["no home", "a file for the notes"])
def test_an_unusable_state_folder_stops_no_training(fault: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "no home":
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    else:
        notes = tmp_path / "state" / "tfkit" / "allowed_code"
        notes.parent.mkdir(parents=True)
        notes.write_text("damaged", encoding="utf-8")
    done = run("finetune", "grpo.yaml", "--run", "own").exits(0)
    [said] = (line for line in done.err.splitlines() if "not noted" in line or "needs --allow-code" in line)
    assert (said[:9], "not noted" in said, "needs --allow-code" in said) == ("warning: ", True, True)
    run("evaluate", "--from", "own").exits(2)
    run("evaluate", "--from", "own", "--allow-code").exits(0)


@pytest.mark.thorough
def test_the_printed_command_continues_the_run_without_a_permission(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("finetune", "grpo.yaml", "--run", "own", before=strike(signal.SIGTERM, 3)).exits(143)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert done.next_command() == ["resume", "own", "--allow-code"]
    run(*done.next_command()).exits(0)
    done = run("pretrain", "tiny.yaml", "--run", "plain", before=strike(signal.SIGTERM, 3))
    assert done.next_command() == ["resume", "plain"]  # without code


def test_a_chain_notes_the_code_of_its_later_stages_before_the_first(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("finetune", "chain.yaml", "--run", "chained", before=strike(signal.SIGKILL, 2)).exits(-9)
    assert canaries(place) == []
    state = (tmp_path / "state").rename(tmp_path / "kept")
    for line in ("resume chained", "finetune chain.yaml --run chained --resume"):
        run(*line.split()).exits(2, REFUSED)  # its second stage is that of the folder
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    run("resume", "chained").exits(0)
    assert canaries(place) == ["mine.py.ran"]


def test_a_stopped_chain_or_sweep_prints_the_option(place: Path) -> None:
    for line in ("finetune chain.yaml --run chained", "sweep grpo.yaml optimizer.lr=1e-2,1e-3 --run own"):
        done = run(*line.split(), before=strike(signal.SIGTERM, 2))
        assert done.next_command()[-1] == "--allow-code"


def test_a_sweep_of_stages_runs_the_code_of_each_stage(place: Path) -> None:
    """Also of one that is not the last, so that a sweep that is stopped between two trials prints the option, too."""
    options = RunOptions(Path("ends"), RunForecaster(), code=CodePermission(every_file=True))
    plan = plan_sweep(
        open_recipe("code_first.yaml"), SearchSpace.of(NO_OVERRIDES, {"second.optimizer.lr": [1e-4, 1e-2]}), None, options, Silent()
    )
    assert plan.runs_code


@pytest.mark.parametrize("kind", ["torchrun", "slurm", "skypilot", "kubeflow"])
def test_a_launch_file_has_the_option_where_it_is_needed(kind: str, place: Path) -> None:
    for recipe in ("grpo.yaml", "chain.yaml", "tiny.yaml"):
        assert ("--allow-code" in run("launch", kind, recipe).out) == (recipe != "tiny.yaml")


@pytest.mark.slow
def test_ranks_run_what_rank_0_may_run(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They learn it from rank 0, and need no state folder of their own."""
    done = run("finetune", "grpo.yaml", "--run", "own", "--ranks", "2", "--device", "cpu", "training.steps=2").exits(0)
    assert (place / "mine.py.ran").read_text() == "ran ran "
    (place / "mine.py.ran").unlink()
    more = ["training.steps=6", "--ranks", "2", "--device", "cpu"]
    run("resume", "whole", *more).exits(0)  # allowed by the first command
    (place.parent / "state").rename(place.parent / "gone")
    (place / "mine.py.ran").unlink()
    for words in (["resume", "whole", *more[1:], "training.steps=7"], ["evaluate", "--from", "whole", *more[1:]]):
        capfd.readouterr()
        done = run(*words)
        assert (done.code, REFUSED in capfd.readouterr().err) == (2, True)  # the ranks are processes with this one's stderr
        assert canaries(place) == []
        run(*words, "--allow-code").exits(0)
        (place / "mine.py.ran").unlink()
    result = tfkit.resume("whole", {"training.steps": 8}, ranks=2, device="cpu", allow_code=True)
    assert result.steps == 8


def test_only_one_function_runs_code() -> None:
    """Nothing else in the package compiles or imports what is not its own."""
    runs = {"exec", "eval", "compile", "__import__", "exec_module", "spec_from_file_location", "run_path", "run_module", "load_module"}
    package, found = Path(tfkit.__file__).parent, set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in runs:
                found.add((path.relative_to(package).as_posix(), node.func.id))
            if isinstance(node.func, ast.Attribute) and node.func.attr in runs - {"compile", "eval"}:  # re.compile, model.eval
                found.add((path.relative_to(package).as_posix(), node.func.attr))
    assert found == {("alignment/user_code.py", "exec"), ("alignment/user_code.py", "compile")}
