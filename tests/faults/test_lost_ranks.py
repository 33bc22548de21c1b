"""Several ranks, and what is done to them: one total of energy, other numbers of ranks, ranks that are lost, hang, or are slow."""

import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fake_codecarbon
import pytest
from fake_codecarbon import G_PER_KWH, POWER_W
from tiny_files import read_json, receipt
from tiny_runs import After, Before, Done, Replaced, both, exact, hashes, kept, pretrain, run_here, slow_micro_batches, spoil_weight, strike
from two_ranks import ONE_EACH, ended, run_ranks, start_ranks, with_unbroken_run

from tfkit.carbon import Meter
from tfkit.carbon.ledger import LedgerReader
from tfkit.engine.training_run import checkpointing, validator
from tfkit.engine.training_run.budget import Budget
from tfkit.parallel import collectives, rank_store
from tfkit.training.loop import Progress
from tfkit.training.step import Stepper

STEPS = 12
METERED = (f"carbon={{enabled: true, intensity_g_per_kwh: {G_PER_KWH:g}, every_seconds: 0.5}}",)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_unbroken_run(tmp_path_factory.mktemp("ranks"))


def assert_unbroken(run: Path, base: Path) -> None:
    assert hashes(run, STEPS) == hashes(base / "unbroken", STEPS)


def assert_goes_on(run: Path, base: Path, *words: str) -> None:
    """Resume a run on two ranks, to the bits of the one that was never stopped."""
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, *words, "--resume"), 0)
    assert_unbroken(run, base)


def assert_rounded(run: Path, one: Path, rel: float) -> None:
    """Assert that two runs have the same rows and tokens in the same steps, and the same numbers but for rounding."""
    for expected, found in zip(exact(one), exact(run), strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert found[name] == (pytest.approx(value, rel=rel) if isinstance(value, float | dict) else value), (run, name)


def rank_0_signals_1(folder: Path, number: int, step: int, owner: type, method: str) -> dict[int, Callable[[], object]]:
    """Faults: as rank 0 begins an evaluation or a save, which it does alone, the rank that waits for it gets a signal."""

    def send(_: object, progress: Progress) -> None:
        if progress.step == step:
            os.kill(read_json(folder / "pid"), number)
            time.sleep(0.2)

    return {0: Before(owner, method, send), 1: lambda: (folder / "pid").write_text(str(os.getpid()), encoding="ascii")}


@pytest.mark.slow
def test_f28_two_nodes_resumed_three_times_have_one_total(base: Path, tmp_path: Path) -> None:
    """The sum of the ledgers of both, each counted once; the time is that of one. A node that never reported is named."""
    run = tmp_path / "run"
    measured = both(fake_codecarbon.put_first(fake_codecarbon.write(tmp_path / "fake", good=10**6)), fake_codecarbon.wait_for_the_end)
    words = ["pretrain", str(base / "tiny.yaml"), "--run", str(run), "--threads", "1", *ONE_EACH, *METERED, "--resume"]

    def attempt(code: int, fault: Callable[[], object] = lambda: None) -> list[Done]:
        return ended(start_ranks(tmp_path, words, {0: measured, 1: both(measured, fault)}, nodes=True), code)

    for _ in range(3):
        attempt(143, strike(signal.SIGTERM, 3))
    attempt(0)
    ledgers = LedgerReader(run / "carbon").attempts()
    expected = [(number, node) for number in (1, 2, 3, 4) for node in (0, 1)]
    assert [(one.header["attempt"], one.header["node"]) for one in ledgers] == expected
    totals = receipt(run)["totals"]
    assert totals["carbon_status"] == "ok", [one.outcome for one in ledgers]
    assert totals["energy_kwh"] == pytest.approx(sum(one.sums["energy_wh"] for one in ledgers) / 1000)
    node_seconds = [sum(one.sums["seconds"] for one in ledgers if one.header["node"] == node) for node in (0, 1)]
    assert totals["seconds"] == pytest.approx(node_seconds[0], rel=1e-3)
    assert totals["energy_kwh"] * 3.6e6 == pytest.approx(POWER_W * sum(node_seconds), rel=0.05)
    assert_unbroken(run, base)
    run_here(["verify", run]).exits(0)

    run = tmp_path / "silent"
    words[3] = str(run)
    done = attempt(0, Replaced(Meter, "_launch", lambda _: lambda *_: None))
    assert "the energy is a lower bound: node 1 did not report in attempt 1" in done[0].err
    assert receipt(run)["totals"]["carbon_status"] == "degraded"
    assert "node 1 did not report in attempt 1" in run_here(["verify", run]).exits(0).out


@pytest.mark.slow
def test_f41_two_ranks_then_one_then_four(base: Path, tmp_path: Path) -> None:
    """The same rows in the same steps; with a micro-batch a rank, or two ranks, to the bit."""
    run, words = tmp_path / "run", ("training.batch_size=8", "training.micro_batch_size=2")
    pretrain(tmp_path / "one", base / "tiny.yaml", *words).exits(0)
    ended(run_ranks(run, base / "tiny.yaml", *words, faults={1: strike(signal.SIGTERM, 7)}), 143)
    pretrain(run, base / "tiny.yaml", *words, "--resume", before=strike(signal.SIGTERM, 14)).exits(143)
    ended(run_ranks(run, base / "tiny.yaml", *words, "--resume", size=4), 0)
    assert_rounded(run, tmp_path / "one", 1e-5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("moment", "lost"), [("evaluation", 1), ("save", 0), pytest.param("save", 1, marks=pytest.mark.slow)])
def test_f43_a_rank_that_is_lost_in_an_evaluation_or_a_save(base: Path, tmp_path: Path, moment: str, lost: int) -> None:
    """Rank 0 does that alone: the other one is killed as it waits. The checkpoint before is whole, and the run continues from it."""
    run, place = tmp_path / "run", {"evaluation": (validator.Validator, "evaluate"), "save": (checkpointing.Checkpointer, "save")}[moment]
    faults = rank_0_signals_1(tmp_path, signal.SIGKILL, 8, *place)
    if lost == 0:
        faults = {0: Before(*place, lambda _, progress: progress.step == 8 and os.kill(os.getpid(), signal.SIGKILL))}
    began = time.monotonic()
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, faults=faults), *[(-signal.SIGKILL, 9), (9, -signal.SIGKILL)][lost])
    assert time.monotonic() - began < collectives._LEAST_SECONDS, "nobody waits for a time-out"
    assert kept(run)[0] == "step-000004"
    assert_goes_on(run, base)


@pytest.mark.thorough
def test_f43_a_slow_rank_is_waited_for(base: Path, tmp_path: Path) -> None:
    ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, faults={1: lambda: slow_micro_batches(0.1)}), 0)
    assert_unbroken(tmp_path / "run", base)


@pytest.mark.thorough
def test_f43_a_rank_0_that_evaluates_for_longer_than_any_time_out_is_waited_for(base: Path, tmp_path: Path) -> None:
    """Ten minutes and more, in seconds: the other rank waits as long as rank 0 gives signs of life."""

    def impatient() -> None:
        collectives._LEAST_SECONDS, collectives._TIMES_A_STEP, rank_store.SILENT_SECONDS = 5.0, 0.0, 5.0

    def slow() -> None:
        impatient()
        rank_store.BEAT_SECONDS = 0.2
        Before(validator.Validator, "evaluate", lambda _, progress: time.sleep(6.5 if progress.step == STEPS else 0))()

    ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, faults={0: slow, 1: impatient}), 0)
    assert_unbroken(tmp_path / "run", base)


@pytest.mark.thorough
def test_f43_a_rank_that_is_asked_to_stop_while_rank_0_saves_stops_all_after_the_next_step(base: Path, tmp_path: Path) -> None:
    run, faults = tmp_path / "run", rank_0_signals_1(tmp_path, signal.SIGTERM, 4, checkpointing.Checkpointer, "save")
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, faults=faults), 143)
    assert kept(run) == ["step-000004", "step-000005"]
    assert_goes_on(run, base)


@pytest.mark.thorough
def test_f43_a_budget_that_rank_0_has_reached_ends_all_after_the_step(base: Path, tmp_path: Path) -> None:
    """The clock of rank 0 goes forward in step 6. A larger budget continues the run to the same bits."""
    run = tmp_path / "run"

    def set_forward(budget: Budget, left: int) -> None:
        budget._usage._clock = lambda: time.monotonic() + 1e6

    late = Before(Budget, "stepped", set_forward, 6)
    ended(run_ranks(run, base / "tiny.yaml", *ONE_EACH, "carbon.budget_seconds=1e5", faults={0: late}), 7, 130)
    assert kept(run)[-1] == "step-000006"
    assert_goes_on(run, base, "carbon.budget_seconds=1e7")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("skipped", [0, 1])
def test_f43_a_step_that_is_unhealthy_on_one_rank_is_so_on_all(base: Path, tmp_path: Path, skipped: int) -> None:
    run, words = tmp_path / "run", (*ONE_EACH, f"training.max_skipped_steps={skipped}")
    spoilt = After(Stepper, "_accumulate", lambda losses, *_: {name: loss * math.nan for name, loss in losses.items()}, 6)
    done = ended(run_ranks(run, base / "tiny.yaml", *words, faults={1: spoilt}), 0 if skipped else 6)
    assert all("step 6: the loss is nan" in one.err for one in done)
    assert kept(run)[-1] == ("step-000012" if skipped else "step-000004")
    if not skipped:
        assert_goes_on(run, base)


@pytest.mark.thorough
def test_f43_weights_that_are_no_numbers_are_not_saved_and_all_ranks_say_so(base: Path, tmp_path: Path) -> None:
    """They come of the last update, on every rank alike; rank 0 finds them when it saves."""
    fault = spoil_weight(8)
    done = ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *ONE_EACH, faults={0: fault, 1: fault}), 6)
    assert all("step 8: a weight is no longer finite, so this step is not saved" in one.err for one in done)
    assert kept(tmp_path / "run") == ["step-000004"]


@pytest.mark.slow
def test_f41_f43_random_ranks_are_killed_and_the_run_goes_on_with_random_numbers(
    base: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Rows and tokens are those of the run that was never killed; the bits, too, with one or two ranks."""
    for seed in range(max(1, pytestconfig.getoption("--kills") // 4)):
        dice, run = random.Random(seed), tmp_path / f"run-{seed}"
        for _ in range(4):
            size, struck = dice.choice([1, 2]), dice.randrange(2)
            fault = strike(signal.SIGKILL, dice.randint(1, 2 * STEPS))
            words = [*ONE_EACH, "--resume"]
            if size == 1:
                assert pretrain(run, base / "tiny.yaml", *words, before=fault).code in (0, -signal.SIGKILL)
            else:
                done = run_ranks(run, base / "tiny.yaml", *words, faults={struck: fault})
                assert [one.code for one in done] in ([0, 0], [-signal.SIGKILL, 9], [9, -signal.SIGKILL]), done[0].err + done[1].err
        assert_goes_on(run, base)
        assert exact(run) == exact(base / "unbroken")


@pytest.mark.slow
def test_f41_f43_one_to_four_ranks_are_killed_and_the_run_goes_on_on_random_meshes(
    base: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Rows and tokens are those of one process that was never killed; numbers are rounded otherwise, as sums have another order."""
    words = ("training.batch_size=12", "training.micro_batch_size=1", "checkpoint={every: 2, keep: 2}", "evaluation={every: null}")
    pretrain(tmp_path / "one", base / "tiny.yaml", *words).exits(0)
    for seed in range(max(1, pytestconfig.getoption("--kills") // 16)):
        dice, run = random.Random(seed), tmp_path / f"run-{seed}"
        for attempt in range(5):
            size = dice.randint(1, 4)
            struck = {dice.randrange(size): strike(signal.SIGKILL, dice.randint(1, 40 // size))} if attempt < 4 else {}
            shard = dice.choice([one for one in range(1, size + 1) if size % one == 0])
            done = run_ranks(run, base / "tiny.yaml", *words, f"parallel.shard={shard}", "--resume", faults=struck, size=size)
            lost = [-signal.SIGKILL if rank in struck else 9 for rank in range(size)]
            assert [one.code for one in done] in ([0] * size, lost), (seed, size, shard, [one.err for one in done])
        assert {one.code for one in done} == {0}, seed
        assert_rounded(run, tmp_path / "one", 1e-4)
