"""Two ranks, each a process on gloo, take the steps that one process takes; what happens to one of them, all hear."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_files import receipt
from tiny_runs import After, Before, exact, hashes, kept, pretrain, raising, records, strike
from two_ranks import ONE_EACH, assert_close_checkpoints, ended, raise_in_loader, raise_once, run_ranks, start_ranks, with_unbroken_run

from tfkit.engine.training_run import checkpointing
from tfkit.parallel import collectives, rank_store
from tfkit.training.peak_speed import matrix_speed

STEPS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_unbroken_run(tmp_path_factory.mktemp("ranks"))


def test_two_ranks_with_a_micro_batch_each_are_one_with_two_to_the_bit(base: Path, tmp_path: Path) -> None:
    """Weights, optimizer state, and every logged number; a + b is b + a, and dropout is drawn by the index in the whole step."""
    _, second = ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH), 0)
    assert hashes(tmp_path / "run", STEPS) == hashes(base / "unbroken", STEPS)
    assert exact(tmp_path / "run") == exact(base / "unbroken")
    assert second.out == "", "rank 0 alone reports the result"
    found = receipt(tmp_path / "run")
    assert found["ranks"] == 2
    peak = found["totals"]["hardware_flops_bound"] / found["totals"]["train_seconds"]
    assert peak == pytest.approx(2 * matrix_speed(torch.device("cpu"), torch.float32, 1), rel=1e-3), "the processors of both ranks"
    again = run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, "--resume")
    assert [done.code for done in again] == [0, 0], "the result is repeated, and nobody waits"
    assert "this run is finished" in again[0].err
    assert receipt(base / "unbroken")["ranks"] == 1


@pytest.mark.thorough
def test_more_micro_batches_are_the_same_step_up_to_the_order_of_sums(base: Path, tmp_path: Path) -> None:
    """With a mean of weights, clipping that bites, and an fp32 master: micro-batches 0 and 2 are added on one, 1 and 3 on the other."""
    words = ("training.micro_batch_size=1", "training.ema_decay=0.9", "optimizer={lr: 1e-3, clip_norm: 0.5}", "training.precision=bf16")
    assert pretrain(tmp_path / "one", base / "tiny.yaml", *words).code == 0
    ended(run_ranks(tmp_path / "two", base / "tiny.yaml", *words), 0)
    one, two = (load_file(tmp_path / name / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-4, msg=name)
    for alone, together in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        if "loss" in alone:
            assert together["tokens"] == alone["tokens"]
            assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
            assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)


@pytest.mark.thorough
def test_a_batch_that_grows_is_dealt_to_the_ranks_in_every_step(base: Path, tmp_path: Path) -> None:
    """By documents that are packed into rows; a run of two ranks goes on as one process while the batch still grows."""
    words = ("training.batch_size=8", "training.micro_batch_size=1", "training.batch_ramp={start: 2, tokens: 600}", "optimizer={lr: 1e-3}")
    words += ("training.precision=fp32", "checkpoint={every: 2, keep: 9}")
    assert pretrain(tmp_path / "one", base / "tiny.yaml", *words).code == 0
    ended(run_ranks(tmp_path / "two", base / "tiny.yaml", *words, faults={1: strike(signal.SIGTERM, 4)}), 143)
    assert pretrain(tmp_path / "two", base / "tiny.yaml", *words, "--resume").code == 0
    one, two = (records(tmp_path / name) for name in ("one", "two"))
    tokens = [record["tokens"] for record in one if "loss" in record]
    assert len({after - before for before, after in itertools.pairwise(tokens)}) > 1, "the batch grows"
    for alone, together in zip(one, two, strict=True):
        if "loss" in alone:
            assert together["tokens"] == alone["tokens"]
            assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert_close_checkpoints(*(tmp_path / name / "checkpoints" / f"step-{STEPS:06d}" for name in ("one", "two")))


def test_a_signal_to_one_rank_stops_all_and_other_numbers_of_ranks_go_on(base: Path, tmp_path: Path) -> None:
    """F41: 2, 1, then 2 ranks: the same bits as one process that was never stopped."""
    run = tmp_path / "run"
    stopped = ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, faults={1: strike(signal.SIGTERM, 5)}), 143)
    assert f"stopped after step 5 of {STEPS}; its checkpoint is saved" in stopped[0].err
    assert "--ranks 2" in stopped[0].err.splitlines()[-1]
    assert kept(run)[-1] == "step-000005"
    pretrain(run, base / "tiny.yaml", *ONE_EACH, "--resume", before=strike(signal.SIGINT, 6)).exits(130, "ranks: 2 in the run, 1 now")
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, "--resume"), 0)
    assert hashes(run, STEPS) == hashes(base / "unbroken", STEPS)
    assert exact(run) == exact(base / "unbroken")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_ends_the_others_with_9_and_the_old_checkpoint_goes_on(base: Path, tmp_path: Path, lost: int) -> None:
    run = tmp_path / "run"
    done = run_ranks(run, base / "tiny.yaml", *ONE_EACH, faults={lost: strike(signal.SIGKILL, 6)})
    assert (done[lost].code, done[1 - lost].code) == (-signal.SIGKILL, 9), done[1 - lost].err
    assert "its process ended, hangs, or cannot be reached" in done[1 - lost].err
    assert "Traceback" not in done[1 - lost].err
    assert kept(run) == ["step-000004"]
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, "--resume"), 0)
    assert hashes(run, STEPS) == hashes(base / "unbroken", STEPS)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("hung", [0, 1])
def test_a_rank_that_hangs_is_named_after_a_time_out(base: Path, tmp_path: Path, hung: int) -> None:
    def impatient() -> None:
        collectives._LEAST_SECONDS, collectives._TIMES_A_STEP, rank_store._ROLL_CALL_SECONDS = 3.0, 0.0, 1.0

    def hanging() -> None:
        impatient()
        strike(signal.SIGSTOP, 6)()

    words = ["pretrain", str(base / "tiny.yaml"), "--run", str(tmp_path / "run"), "--threads", "1", *ONE_EACH]
    processes = start_ranks(tmp_path, words, {hung: hanging, 1 - hung: impatient})
    done = processes[1 - hung].wait()
    processes[hung].kill(signal.SIGKILL)
    assert (done.code, processes[hung].wait().code) == (9, -signal.SIGKILL), done.err
    assert f"no answer of rank {hung};" in done.err
    assert kept(tmp_path / "run") == ["step-000004"]


@pytest.mark.slow
def test_a_rank_0_that_hangs_in_its_own_work_is_noticed(base: Path, tmp_path: Path) -> None:
    """It stops while it saves, and serves the store; where it only takes long, the other waits."""

    def slow_then_stopped() -> None:
        rank_store.BEAT_SECONDS = 0.5
        Before(checkpointing, "save_checkpoint", lambda *_, **__: time.sleep(7))()
        strike(signal.SIGSTOP, 2, checkpointing, "save_checkpoint")()

    def impatient() -> None:
        rank_store.SILENT_SECONDS = 5.0

    words = ["pretrain", str(base / "tiny.yaml"), "--run", str(tmp_path / "run"), "--threads", "1", *ONE_EACH]
    first, second = start_ranks(tmp_path, words, {0: slow_then_stopped, 1: impatient})
    done = second.wait()
    first.kill(signal.SIGKILL)
    assert (done.code, first.wait().code) == (9, -signal.SIGKILL), done.err
    assert "rank 0 gave no sign of life for 5 s" in done.err
    assert kept(tmp_path / "run") == ["step-000004"], "the slow one"


def test_all_hear_why_rank_0_cannot_save(base: Path, tmp_path: Path) -> None:
    full = Before(checkpointing, "save_checkpoint", raising(OSError(28, os.strerror(28), "step-000004")))
    _, second = ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, faults={0: full}), 5, 9)
    assert os.strerror(28) in second.err


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fault", [raise_once(MemoryError("no more"), 2), raise_in_loader(MemoryError("no more"), 2)], ids=["pass", "rows"])
def test_a_micro_batch_that_does_not_fit_on_one_rank_is_halved_on_all(base: Path, tmp_path: Path, fault: Callable[[], None]) -> None:
    """Also where the rows of a step alone end the memory."""
    words = ("training.batch_size=8", "training.steps=3", "evaluation={every: null}")
    first, second = ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *words, faults={1: fault}), 0)
    for done in (first, second):
        assert "out of memory in micro-batches of 4 rows: from now on they have 2" in done.err
    assert pretrain(tmp_path / "one", base / "tiny.yaml", *words).code == 0
    losses = [[record["loss"] for record in records(tmp_path / name) if "loss" in record] for name in ("run", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_no_better_score_ends_all_ranks(base: Path, tmp_path: Path) -> None:
    words = ("training.patience=1", "optimizer.lr=10.0", "optimizer.clip_norm=null", "evaluation.every=2", "checkpoint.every=2")
    ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *words), 0)
    assert receipt(tmp_path / "run")["result"]["stopped_early"]


@pytest.mark.thorough
def test_the_rate_that_rank_0_tries_and_chooses_is_that_of_all_ranks(base: Path, tmp_path: Path) -> None:
    """The recipe has another rate, and rank 0 alone tries them."""
    steps = 26  # so many that trials take less than half of the run
    words = (*ONE_EACH, f"training.steps={steps}", "evaluation={every: null}")
    tried = ("optimizer.lr=3e-6", "training.trial_rates=[3e-2, 1e-7]")
    ended(run_ranks(tmp_path / "tried", base / "tiny.yaml", *words, *tried), 0)
    assert receipt(tmp_path / "tried")["rate_trial"]["lr"] == 3e-2
    assert pretrain(tmp_path / "given", base / "tiny.yaml", *words, "optimizer.lr=3e-2").code == 0
    assert hashes(tmp_path / "tried", steps) == hashes(tmp_path / "given", steps)


@pytest.mark.thorough
def test_a_rank_that_is_stopped_after_the_last_step_takes_nothing_from_the_result(base: Path, tmp_path: Path) -> None:
    def stop_at_the_end(message: dict[str, Any], _: collectives.ProcessGroup) -> dict[str, Any]:
        if message.get("finished"):
            os._exit(143)
        return message

    fault = After(collectives.ProcessGroup, "receive", stop_at_the_end)
    ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, faults={1: fault}), 0, 143)
    assert hashes(tmp_path / "run", STEPS) == hashes(base / "unbroken", STEPS)
