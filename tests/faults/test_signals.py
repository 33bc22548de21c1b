"""Signals in a training: what was done is saved, and the run that continues is the one that was never stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Before, Strike, assert_same_bits, both, exact, kept, pretrain, strike

import tfkit.evaluation.text_scores
import tfkit.generation.complete

STEPS = 12
WORDS = [
    "training.micro_batch_size=2",
    "training.log_every=5",
    "checkpoint={every: 4, keep: 2}",
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
