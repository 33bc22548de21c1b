"""Signals in a training: what was done is saved, and the run that continues is the one that was never stopped.

And SIGTERM and SIGHUP in every command, from the first moment of a start, and in the middle of what takes long: one line, nothing left.
"""

import contextlib
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Before, Done, Strike, assert_same_bits, both, exact, kept, pretrain, run_tfkit, strike

import tfkit.engine.tools.averaging
import tfkit.engine.tools.verification
import tfkit.evaluation.text_scores
import tfkit.generation.complete
import tfkit.hub.weights
import tfkit.recipe
from tfkit.cli import COMMANDS

STEPS = 12
STOPS = {signal.SIGTERM: 143, signal.SIGHUP: 129}
AVERAGE = ["average", "unbroken", "--last", "3", "--out", "mean"]
WORDS = [
    "training.micro_batch_size=2",
    "training.log_every=5",
    "checkpoint={every: 4, keep: 3}",
    "generation={prompts: [the cat], max_new_tokens: 6}",
    "model.dropout={residual: 0.1}",
]


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    pretrain(base / "unbroken", base / "tiny.yaml", *WORDS).exits(0)
    return base


def resumes_as_if_nothing_had_been(run: Path, base: Path) -> None:
    pretrain(run, base / "tiny.yaml", *WORDS, "--resume").exits(0)
    assert_same_bits(run, base / "unbroken", STEPS)


def test_f03_a_signal_inside_a_step(base: Path, tmp_path: Path) -> None:
    """Between the two micro-batches of a step it drops the step. The other signals are in test_exit_code_matrix.py."""
    done = pretrain(tmp_path / "run", base / "tiny.yaml", *WORDS, "--json", before=strike(signal.SIGTERM, 10))
    result = done.document
    assert (result["error"]["code"], result["status"], result["steps"]) == (143, "stopped", 5)
    assert result["error"]["remedy"] == done.err.splitlines()[-1] == f"tfkit resume {tmp_path / 'run'} --json --threads 1"
    done.exits(143, f"stopped after step 5 of {STEPS}; its checkpoint is saved, and --resume continues from there")
    assert kept(tmp_path / "run")[-1] == "step-000005"
    resumes_as_if_nothing_had_been(tmp_path / "run", base)


def test_f03_a_signal_inside_the_first_step(base: Path, tmp_path: Path) -> None:
    """No checkpoint is there to continue from; --resume starts."""
    pretrain(tmp_path / "run", base / "tiny.yaml", *WORDS, before=strike(signal.SIGTERM, 1)).refuses(
        143, f"stopped within step 1 of {STEPS}: no step was taken yet, and --resume starts with it"
    )
    assert not kept(tmp_path / "run")
    resumes_as_if_nothing_had_been(tmp_path / "run", base)


def strike_in(module: object, function: str, counted: Path) -> Callable[[], None]:
    """A fault: of a function that is called again and again, a signal comes in the third call. Their number is the size of a file."""

    def count(*_: object, **__: object) -> None:
        with counted.open("ab") as file:
            file.write(b".")

    return both(Strike(signal.SIGTERM, 3, module, function), Before(module, function, count))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("module", "function"),
    [(tfkit.evaluation.text_scores, "_score"), (tfkit.generation.complete, "generate")],
    ids=["evaluating", "writing"],
)
def test_f04_a_signal_in_a_long_evaluation(base: Path, tmp_path: Path, module: object, function: str) -> None:
    """Its checkpoint was saved before it; what is left of the evaluation is made up for, and is many calls."""
    words = [*WORDS, "evaluation={every: 4, max_tokens: 300, batch_size: 1}", "generation={prompts: [a, b, c, d, e, f], max_new_tokens: 6}"]
    counted = tmp_path / "calls"
    done = pretrain(tmp_path / "run", base / "tiny.yaml", *words, before=strike_in(module, function, counted))
    assert counted.stat().st_size == 3
    assert (done.code, done.out) == (143, "")
    assert "its checkpoint is saved" in done.err
    pretrain(tmp_path / "straight", base / "tiny.yaml", *words).exits(0)
    pretrain(tmp_path / "run", base / "tiny.yaml", *words, "--resume").exits(0)
    assert exact(tmp_path / "run") == exact(tmp_path / "straight")


@pytest.mark.slow
def test_f04_a_signal_while_compiling(base: Path, tmp_path: Path) -> None:
    """torch.compile takes a minute; the signal ends it at once, and says that nothing was lost."""
    words = [sys.executable, "-m", "tfkit", "pretrain", str(base / "tiny.yaml"), "--run", str(tmp_path / "run"), "training.compile=true"]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "c")}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as program:
        for line in program.stderr:
            if line.startswith("compiling the model"):
                break
        time.sleep(2)
        program.send_signal(signal.SIGTERM)
        said = program.stderr.read()
        assert program.wait() == 143
    assert "no step was taken yet" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()


# -- in every command


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
        (AVERAGE, tfkit.engine.tools.averaging, "verify", 2),
        (AVERAGE, tfkit.hub.weights, "_mean", 5),
        (AVERAGE, tfkit.durable, "sync_file", 3),
        (["verify", "unbroken"], tfkit.engine.tools.verification, "verify", 2),
        (["check", "tiny.yaml"], tfkit.recipe, "open_recipe", 1),
    ],
    ids=["average checks", "average computes", "average writes", "verify", "check"],
)
def test_f03_f08_in_the_middle_of_a_command(base: Path, words: list[str], owner: Any, name: str, count: int, number: int) -> None:

    def left() -> list[Path]:
        """Return all but the files of output."""
        return [path for path in sorted(base.rglob("*")) if path.parent != base or path.is_dir()]

    there, strikes = left(), both(lambda: os.chdir(base), strike(number, count, owner, name))
    assert_stopped(run_tfkit(base, words, strikes), number)
    assert left() == there


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
        f"sys.exit(main(['generate', '--from', {str(base / 'unbroken')!r}, '--prompt', 'a', 'carbon.enabled=false']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert_stopped(Done(done.returncode, done.stdout, done.stderr, 0), number)


def test_f03_a_signal_that_was_swallowed_stops_the_next_stretch(base: Path, tmp_path: Path) -> None:
    """As by a library that tries an import and catches whatever it raises."""

    def swallowing(*_: object) -> None:
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)

    fault = Before(importlib, "import_module", swallowing).__call__
    done = pretrain(tmp_path / "run", base / "tiny.yaml", before=fault).refuses(143)
    assert done.err.startswith("stopped by SIGTERM: ")  # the line after it says how to continue
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("number", [*STOPS, signal.SIGINT])
def test_f05_a_second_signal_as_the_program_ends_changes_nothing(base: Path, number: int) -> None:
    """Neither a traceback of the interpreter that ends, nor the signal as its exit code."""
    words = [sys.executable, "-m", "tfkit", "generate", "--from", str(base / "unbroken"), "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=base, text=True) as program:
        assert "sampling" in program.stderr.readline()
        program.send_signal(number)
        last = f"stopped by {signal.Signals(number).name}: "
        # While it samples, a line before says that it will stop.
        assert any(line.startswith(last) for line in iter(program.stderr.readline, ""))
        program.send_signal(number)
        assert program.stderr.read() == ""
    assert program.returncode == 128 + number
