"""Trainings whose ranks share the weights (gloo, on a CPU) write the checkpoints of one process, and go on on any other mesh."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_files import read_json
from tiny_runs import both, exact, hashes, kept, pretrain, records, run_here, strike
from two_ranks import ended, losses, raise_once, raise_within_backward, run_ranks

STEPS = 8
# Without clipping: the norm of a gradient of which each rank has a part is rounded otherwise. Of 32 numbers each has 16, which fill the
# vectors of a processor: the fused AdamW rounds those that do not otherwise.
ONE_EACH = (
    "model.dim=32",
    f"training.steps={STEPS}",
    "training.micro_batch_size=2",
    "model.dropout={residual: 0.1}",
    "optimizer.clip_norm=null",
    "checkpoint={every: 4, keep: 4}",
)
WRITES = ("generation={prompts: [the cat], max_new_tokens: 4}", "training.ema_decay=0.9")
SHARED = "parallel.shard=2"


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    assert pretrain(base / "unbroken", base / "tiny.yaml", *ONE_EACH, *WRITES).code == 0
    return base


def without_norms(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "grad_norm"} for record in exact(run)]


def test_a_run_and_its_parts_on_other_meshes_are_one_process_to_the_bit(base: Path, tmp_path: Path) -> None:
    """Weights, their mean, optimizer state, losses, scores and what it writes; a signal to one rank stops both."""
    run = tmp_path / "run"
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, *WRITES, SHARED, faults={1: strike(signal.SIGTERM, 5)}), 143)
    assert kept(run)[-1] == "step-000005"
    pretrain(run, base / "tiny.yaml", *ONE_EACH, *WRITES, "parallel.shard=1", "--resume", before=strike(signal.SIGINT, 2)).exits(130)
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, *WRITES, SHARED, "--resume"), 0)
    assert hashes(run, STEPS) == hashes(base / "unbroken", STEPS)
    assert without_norms(run) == without_norms(base / "unbroken")
    norms = [[record["grad_norm"] for record in records(folder) if "grad_norm" in record] for folder in (run, base / "unbroken")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("faults", "mode"),
    [
        ([raise_once(MemoryError("no more"), 1), raise_within_backward(MemoryError("no more"), 3)], "reshard: false"),
        ([raise_once(MemoryError("no more"), 2)], "reshard: true"),
        ([raise_within_backward(MemoryError("no more"), 3)], "reshard: true"),
    ],
    ids=["twice-with-whole-gradients", "before-a-forward", "within-a-backward"],
)
def test_a_micro_batch_that_does_not_fit_on_one_rank_is_halved_on_all(
    base: Path, tmp_path: Path, faults: list[Callable[[], None]], mode: str
) -> None:
    """A rank waits for the other in the middle of a pass. What the pass has left, whole gradients too, has no part in the step."""
    words = ("training.batch_size=16", "training.steps=3", "evaluation={every: null}", "optimizer.clip_norm=null")
    for done in ended(
        run_ranks(tmp_path / "run", base / "tiny.yaml", *words, f"parallel={{shard: 2, {mode}}}", faults={1: both(*faults)}), 0
    ):
        assert "out of memory in micro-batches of 8 rows: from now on they have 4" in done.err
        assert ("out of memory in micro-batches of 4 rows: from now on they have 2" in done.err) == (len(faults) > 1)
    if not (base / "large").exists():
        assert pretrain(base / "large", base / "tiny.yaml", *words).code == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(base / "large"), rel=1e-5)


def test_a_micro_batch_of_a_fixed_size_that_does_not_fit_ends_all_ranks_with_what_to_do(base: Path, tmp_path: Path) -> None:
    fault = {1: raise_once(MemoryError("no more"), 3)}
    done = ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, SHARED, faults=fault), 5)
    assert "another rank ran out of memory): leave training.micro_batch_size out" in done[0].err


@pytest.mark.thorough
def test_a_step_that_is_not_finite_is_recorded_with_the_hash_of_the_whole_weights(base: Path, tmp_path: Path) -> None:
    words = (*ONE_EACH, "optimizer.lr=1e30", "evaluation={every: null}", "schedule.warmup_steps=0", "checkpoint.every=1")
    ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *words, SHARED), 6)
    assert pretrain(tmp_path / "one", base / "tiny.yaml", *words).code == 6
    run, one = (read_json(tmp_path / name / "replay" / "step-000002.json") for name in ("run", "one"))
    assert run == one


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("shard", "1 rank is not a multiple of the 2 over which each copy of the weights is sharded: start 2 with --ranks"),
        ("replicas", "2 copies of the model, of 1 ranks each, are 2 ranks and not 1: give auto, or start 2"),
    ],
)
def test_a_mesh_of_other_ranks_is_refused(base: Path, tmp_path: Path, field: str, message: str) -> None:
    words = [base / "tiny.yaml", f"parallel.{field}=2"]
    run_here(["check", *words]).exits(0)  # a recipe alone has no ranks yet
    run_here(["check", *words, "--ranks", "4"]).exits(0 if field == "shard" else 2)
    run_here(["pretrain", *words, "--run", tmp_path / "run"]).exits(2, f"parallel.{field}: {message}")
