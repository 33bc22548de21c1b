"""Too little memory, and too few file descriptors."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import read_json
from tiny_runs import Before, Replaced, both, exact, kept, pretrain, raising, records, write_recipe

import tfkit.evaluation.text_scores
from tfkit.objectives.objective import Batch
from tfkit.training.step import Stepper

ROOT = Path(__file__).parents[2]
GPU = lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")  # noqa: E731
CPU = lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")  # noqa: E731


def room_for(rows: int, from_step: int = 1, error: Callable[[], Exception] = GPU) -> Replaced:
    """A fault: from a step on, the memory holds micro-batches of at most this many rows; what does not fit fails after its forward."""

    def make(accumulate: Callable[..., Any]) -> Callable[..., Any]:
        def limited(self: Stepper, step: int, index: int, batch: Batch, *arguments: Any) -> Any:
            found = accumulate(self, step, index, batch, *arguments)
            if step >= from_step and len(batch.input_ids) > rows:
                raise error()
            return found

        return limited

    return Replaced(Stepper, "_accumulate", make)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("error", [GPU, CPU], ids=["gpu", "cpu"])
def test_f23_smaller_micro_batches_are_the_same_steps(base: Path, tmp_path: Path, error: Callable[[], Exception]) -> None:
    """Twice halved in the middle of the run; the losses stay, to rounding, and a resumed run keeps the smaller ones."""
    words = ["training.batch_size=8", "training.log_every=1", "checkpoint.every=6"]
    pretrain(tmp_path / "roomy", base / "tiny.yaml", *words).exits(0)
    said = [f"out of memory in micro-batches of {full} rows: from now on they have {half}" for full, half in ((8, 4), (4, 2))]
    pretrain(tmp_path / "tight", base / "tiny.yaml", *words, before=room_for(2, 4, error)).exits(0, *said)
    for roomy, tight in zip(exact(tmp_path / "roomy"), exact(tmp_path / "tight"), strict=True):
        assert tight["step"] == roomy["step"]
        if "loss" in roomy:
            assert tight["loss"] == pytest.approx(roomy["loss"], rel=1e-6)
            assert tight["grad_norm"] == pytest.approx(roomy["grad_norm"], rel=1e-4)
    state = read_json(tmp_path / "tight" / "checkpoints" / "step-000006" / "training_state" / "state.json")
    assert state["micro_batch_size"] == 2


@pytest.mark.parametrize(
    ("words", "rows", "advice"),
    [
        (["training.micro_batch_size=4"], 2, "leave training.micro_batch_size out, or lower it"),
        ([], 0, "out of memory with a single row of 16 tokens"),
    ],
)
def test_f23_where_nothing_can_be_halved_there_is_advice(base: Path, tmp_path: Path, words: list[str], rows: int, advice: str) -> None:
    pretrain(tmp_path / "run", base / "tiny.yaml", "checkpoint.every=2", *words, before=room_for(rows, 4)).refuses(5, advice)
    assert kept(tmp_path / "run") == ["step-000002"]


def test_f23_an_evaluation_that_does_not_fit_costs_no_step(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    full = Before(tfkit.evaluation.text_scores, "score_texts", raising(GPU()))
    pretrain(run, base / "tiny.yaml", "checkpoint.every=4", before=full).exits(5, "evaluation.batch_size")
    assert kept(run) == ["step-000004"]
    pretrain(run, base / "tiny.yaml", "checkpoint.every=4", "evaluation.batch_size=1", "--resume").exits(0)
    assert [record["step"] for record in records(run) if "evaluation" in record] == [4, 8, 12]


BIG = ["model={preset: gpt2, decoder_layers: 6, dim: 512, num_heads: 8, context_length: 64}", "schedule.warmup_steps=0"]
BIG += ["training={steps: 1, batch_size: 1}", "data.validation=null", "evaluation.every=null"]


# In a fresh process: what a fork of the tests frees, or has free already, would be room beyond the limit.
LIMITED = """
import resource, sys
from pathlib import Path
import tfkit.engine.training_run.assembled_run
from tfkit.__main__ import main
room = int(sys.argv.pop(1))
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + room
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


def within(room: int, base: Path, run: Path) -> "subprocess.CompletedProcess[str]":
    """A run whose process may take this many bytes more than it has after its imports."""
    words = [sys.executable, "-c", LIMITED, str(room), "pretrain", base / "tiny.yaml", "--run", run, "--threads", "1", *BIG]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: the limit cannot be set from where the process is")
def test_f48_memory_below_the_need_is_refused_and_above_it_is_enough(base: Path, tmp_path: Path) -> None:
    """19 million weights: 304 MB with gradients and AdamW's state."""
    refused = within(250_000_000, base, tmp_path / "low")
    assert (refused.returncode, refused.stdout) == (5, ""), refused.stderr
    assert "weights need 0.30" in refused.stderr
    assert "choose a smaller model" in refused.stderr
    done = within(1_500_000_000, base, tmp_path / "enough")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space")
def test_f48_too_little_memory_to_load_pytorch_is_no_bug(base: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (300_000_000, 300_000_000))

    words = [sys.executable, "-m", "tfkit", "pretrain", base / "tiny.yaml", "--run", tmp_path / "run", "carbon.enabled=false"]
    done = subprocess.run(words, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert "this library cannot be loaded; allow the process more memory (ulimit -v)" in done.stderr


def test_f48_few_file_descriptors(base: Path, tmp_path: Path) -> None:
    few = both(lambda: os.closerange(3, 4096), lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))  # without those of the tests
    pretrain(tmp_path / "run", base / "tiny.yaml", "checkpoint={every: 1, keep: 3}", before=few).exits(0)


@pytest.mark.parametrize(
    "words", [["model.dim=1048576"], ["model={preset: gpt3-175b}"], ["model.hidden_dim=8388608", "model.decoder_layers=1024"]]
)
def test_f48_a_model_that_no_memory_holds_is_refused_before_the_data_are_read(tmp_path: Path, words: list[str]) -> None:
    recipe = write_recipe(tmp_path, tmp_path / "nowhere")
    pretrain(tmp_path / "run", recipe, *words).refuses(5, "choose a smaller model")
