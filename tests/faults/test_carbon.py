"""Whatever the meter does, the run neither stops, nor waits, nor changes; and what was measured adds up."""

import errno
import fcntl
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_codecarbon import G_PER_KWH, PATIENCE_SECONDS, POWER_W, ended, put_first, wait_for_the_end, write
from tiny_files import emissions_rows, read_json, receipt, wait_for
from tiny_runs import Before, Done, Process, Replaced, assert_same_bits, both, kept, pretrain, slow_micro_batches, strike

from tfkit.carbon import Meter
from tfkit.carbon.emissions_file import installed_columns
from tfkit.carbon.ledger import Attempt, LedgerReader
from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema.carbon_section import CarbonSection

STEPS = 12
TICK = 0.5
LATE_SECONDS = 0.5  # of slack for what the sidecar does next, on a crowded machine
HANG = f"time.sleep({10 * PATIENCE_SECONDS})"
WH_PER_SECOND = POWER_W / 3600
METERED = [f"carbon={{enabled: true, intensity_g_per_kwh: {G_PER_KWH:g}, every_seconds: {TICK}}}"]
COMMON = ["checkpoint={every: 4, keep: 3}", "model.dropout={embedding: 0.1, attention: 0.1, residual: 0.1}"]


@pytest.fixture(scope="module")
def unmetered(base: Path) -> Path:
    pretrain(base / "off", base / "tiny.yaml", *COMMON).exits(0)
    assert read_json(base / "off/run.json")["totals"]["carbon_status"] == "off"
    return base / "off"


def codecarbon(folder: Path, *, wait: bool = True, **faults: Any) -> Callable[[], None]:
    """Prepare the process: put a fake CodeCarbon first; `wait` until it has started, or failed, before training begins."""

    def until_its_start(meter: Meter, name: str, step: int | None = None) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while wait and name == "train" and meter.reading().status == "starting" and time.monotonic() < deadline:
            time.sleep(0.005)

    return both(put_first(write(folder / "fake", **faults)), Before(Meter, "phase", until_its_start))


def slowly(seconds: float) -> Callable[[], None]:
    return lambda: slow_micro_batches(seconds)


def metered(run: Path, base: Path, before: Callable[[], None], *words: str) -> Done:
    return pretrain(run, base / "tiny.yaml", *COMMON, *METERED, "--json", *words, before=both(wait_for_the_end, before))


def start(folder: Path, run: Path, base: Path, before: Callable[[], object], *words: str) -> Process:
    """As `metered`, but it goes on beside the test; its output is in `folder`."""
    fixed = ["pretrain", str(base / "tiny.yaml"), "--run", str(run), "--threads", "1", "--json"]
    return Process(folder, [*fixed, *COMMON, *METERED, *words], before)


def result_of(done: Done, run: Path, unmetered: Path, *warned: str) -> Any:
    """Assert that a run ended as the one without a meter, and warned of these things in their order alone; return its result."""
    assert_warned(done.exits(0), *warned)
    assert_same_bits(run, unmetered, STEPS)
    return done.document


def assert_warned(done: Done, *warned: str) -> None:
    found = [line for line in done.err.splitlines() if line.startswith("warning:")]
    assert len(found) == len(warned), done.err
    assert all(part in line for part, line in zip(warned, found, strict=True)), done.err


def ledgers(run: Path) -> list[Attempt]:
    return LedgerReader(run / "carbon").attempts()


def ticks(run: Path, attempt: int = 1) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / f"carbon/0-{attempt}.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == "tick"]


def assert_adds_up(run: Path) -> None:
    """emissions.csv is the ledger, row by row of whole rows."""
    found = emissions_rows(run)
    attempts = ledgers(run)
    assert all(None not in row and None not in row.values() for row in found)
    ours = [row for row in found if row["experiment_id"] in {attempt.header["run_id"] for attempt in attempts}]
    assert sum(float(row["energy_consumed"]) * 1000 for row in ours) == pytest.approx(sum(each.sums["energy_wh"] for each in attempts))
    assert sum(float(row["duration"]) for row in ours) == pytest.approx(sum(each.sums["seconds"] for each in attempts))


# --------------------------------------------------------------------------------------------------------- it fails (F24)


RAISE = "raise RuntimeError('no meter here')"


@pytest.mark.parametrize("faults", [{}, pytest.param({"stop": RAISE}, marks=pytest.mark.thorough)], ids=["works", "raises at its stop"])
def test_f24_a_meter_that_works_changes_nothing(base: Path, unmetered: Path, tmp_path: Path, faults: dict[str, str]) -> None:
    """One whose stop raises has given its last reading before."""
    run = tmp_path / "run"
    result = result_of(metered(run, base, codecarbon(tmp_path, **faults)), run, unmetered)
    assert result["carbon_status"] == "ok"
    (attempt,) = ledgers(run)
    assert result["energy_kwh"] * 1000 == pytest.approx(attempt.sums["energy_wh"])
    assert result["energy_kwh"] * 1000 == pytest.approx(attempt.sums["seconds"] * WH_PER_SECOND, rel=0.1)
    assert {row["tracking_mode"] for row in emissions_rows(run)} == {"machine"}
    assert_adds_up(run)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param({"import": RAISE}, "no meter here", marks=pytest.mark.slow),
        ({"import": "sys.exit(3)"}, "SystemExit"),
        pytest.param({"constructor": RAISE}, "no meter here", marks=pytest.mark.slow),
        ({"start": RAISE}, "no meter here"),
        pytest.param({"sample": RAISE, "good": 0}, "no meter here", marks=pytest.mark.slow),
        ({"sample": "return None", "good": 0}, "gave no reading"),
    ],
    ids=["import", "exit", "constructor", "start", "first sample", "nothing"],
)
def test_f24_without_a_reading_the_run_has_failed_to_be_metered_and_nothing_else(
    base: Path, unmetered: Path, tmp_path: Path, fault: dict[str, Any], reason: str
) -> None:
    run = tmp_path / "run"
    result = result_of(metered(run, base, codecarbon(tmp_path, **fault)), run, unmetered, reason)
    assert (result["carbon_status"], result["energy_kwh"], result["emissions_g"]) == ("failed", None, None)
    assert receipt(run)["totals"]["carbon_status"] == "failed"
    assert {row["tracking_mode"] for row in emissions_rows(run)} == {"failed"}
    assert_adds_up(run)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "sample",
    [
        *(RAISE, "kwh = float('nan')", "kwh = 0.0"),
        *(
            pytest.param(sample, marks=pytest.mark.slow)
            for sample in ("return None", "kwh = -1.0", "kwh = None", "kwh = '?'", "sys.exit(3)")
        ),
    ],
    ids=["raises", "nan", "falls", "nothing", "negative", "none", "text", "exits"],
)
def test_f24_bad_samples_are_left_out_and_the_energy_is_a_lower_bound(base: Path, unmetered: Path, tmp_path: Path, sample: str) -> None:
    run = tmp_path / "run"
    result = result_of(metered(run, base, both(codecarbon(tmp_path, sample=sample), slowly(0.06))), run, unmetered, "")
    assert result["carbon_status"] == receipt(run)["totals"]["carbon_status"] == "degraded"
    assert 0 < result["energy_kwh"] * 1000 < sum(each.sums["seconds"] for each in ledgers(run)) * WH_PER_SECOND
    assert {row["tracking_mode"] for row in emissions_rows(run)} == {"degraded"}
    assert_adds_up(run)


# --------------------------------------------------------------------------------------------------------- it hangs (F25)


@pytest.mark.thorough
def test_f25_a_hang_anywhere_costs_three_seconds_at_most(base: Path, unmetered: Path, tmp_path: Path) -> None:
    """All at once: the four runs share the three seconds."""
    statuses = {"import": "failed", "start": "failed", "sample": "degraded", "stop": "ok"}

    def started(place: str) -> Process:
        folder = tmp_path / place
        folder.mkdir()

        def before() -> None:
            codecarbon(folder, wait=place in ("sample", "stop"), **{place: HANG})()
            _measure_waits(folder / "waits.json")

        return start(folder, folder / "run", base, before)

    runs = {place: started(place) for place in statuses}
    for place, process in runs.items():
        status = statuses[place]
        result = result_of(process.wait(), tmp_path / place / "run", unmetered, *[""] * (status != "ok"))
        assert result["carbon_status"] == status
        waits = read_json(tmp_path / place / "waits.json")
        assert waits["granted"] <= 3.0, (place, waits)
        assert waits["seconds"] < PATIENCE_SECONDS / 2, (place, waits)  # on a machine that is free, little more than these 3
        assert ended(waits["pid"]), place


def _measure_waits(path: Path) -> None:
    """Write how long the calls of the meter took together, how long at most they were to wait, and which process its sidecar was."""
    total, granted = [0.0], [0.0]
    wait_for_condition = threading.Condition.wait_for

    def granting(condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            granted[0] += math.inf if timeout is None else timeout
        return wait_for_condition(condition, predicate, timeout)

    threading.Condition.wait_for = granting

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            began = time.monotonic()
            try:
                return method(*positional, **named)
            finally:
                total[0] += time.monotonic() - began

        return call

    stop = timed(Meter.stop)

    def stop_and_write(meter: Meter) -> Any:
        reading = stop(meter)
        path.write_text(json.dumps({"seconds": total[0], "granted": granted[0], "pid": meter._process.pid}))
        return reading

    both(*(Replaced(Meter, name, timed) for name in ("phase", "reading", "warning")))()
    Meter.stop = stop_and_write


def test_f25_what_hangs_does_not_outlive_a_killed_run(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, run, base, both(codecarbon(tmp_path, sample=HANG), slowly(10 * PATIENCE_SECONDS)))
    wait_for(lambda: any(tick["phase"] == "tokenize" for tick in _written(run)))
    (sidecar,) = psutil.Process(process.pid).children()
    process.kill(signal.SIGKILL)
    process.wait().exits(-signal.SIGKILL)
    wait_for(lambda: ended(sidecar.pid))
    assert_adds_up(run)


def _written(run: Path) -> list[dict[str, Any]]:
    try:
        return ticks(run)
    except (OSError, ValueError):  # not yet, or a line that is being written
        return []


# --------------------------------------------------------------------------------------- signals, exits, noise (F26)

NOISE = """
import logging, signal, threading, warnings
def interfere():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        try:
            signal.signal(number, signal.SIG_DFL)
        except ValueError:
            pass
    print("NOISE", flush=True)
    print("NOISE", file=sys.stderr, flush=True)
    os.write(1, b"NOISE")
    os.write(2, b"NOISE")
    os.system("echo NOISE; echo NOISE >&2")
    logging.error("NOISE")
    warnings.warn("NOISE")
    sys.exit(3)
threading.Thread(target=interfere).start()
interfere_here = lambda: [print("NOISE"), logging.error("NOISE")]
interfere_here()
"""


def test_f26_handlers_exits_and_noise_of_codecarbon_stay_in_its_process(base: Path, unmetered: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = metered(run, base, both(codecarbon(tmp_path, **{"import": NOISE}), strike(signal.SIGTERM, 6))).exits(128 + signal.SIGTERM)
    assert kept(run) == ["step-000004", "step-000006"]
    assert "NOISE" not in done.out + done.err
    assert_warned(done)
    result_of(metered(run, base, codecarbon(tmp_path, **{"import": NOISE}), "--resume"), run, unmetered)
    assert_adds_up(run)


@pytest.mark.thorough
def test_f26_an_exit_of_the_whole_process_from_a_thread_is_one_warning(base: Path, unmetered: Path, tmp_path: Path) -> None:
    """The run is stopped afterwards, and resumed with a CodeCarbon that works."""
    run = tmp_path / "run"
    fault = codecarbon(tmp_path, sample="import threading; threading.Thread(target=os._exit, args=(7,)).start(); time.sleep(1)")
    assert_warned(metered(run, base, both(fault, slowly(0.05), strike(signal.SIGTERM, 9))).exits(128 + signal.SIGTERM), "ended early")
    result_of(metered(run, base, codecarbon(tmp_path), "--resume"), run, unmetered)
    assert_adds_up(run)


def test_f26_a_sidecar_that_is_killed_is_one_warning(base: Path, unmetered: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def kill(*_: object) -> None:
        (sidecar,) = psutil.Process().children()
        sidecar.kill()
        sidecar.wait(PATIENCE_SECONDS)

    done = metered(run, base, both(codecarbon(tmp_path), Before(CausalLM, "loss", kill, 5)))
    assert result_of(done, run, unmetered, "ended early")["carbon_status"] in ("degraded", "failed")


# ------------------------------------------------------------------------------------------------- emissions.csv (F27)

FAILING_FILES = """
import errno, stat
write, replace = os.write, os.replace

def failing_write(descriptor, data):
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        fail()
    return write(descriptor, data)

def fail(*arguments):
    raise OSError(errno.{0}, os.strerror(errno.{0}))

os.write, os.replace = failing_write, fail
"""

# What happens to the file, which ends with a row of somebody else's.
CHANGES: dict[str, Callable[[Path], object]] = {
    "another header": lambda path: path.write_bytes(b"run_id,emissions\r\nsomebody,1\r\n"),
    "torn": lambda path: path.write_bytes(path.read_bytes() + b"1,1,their"),
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "locked": lambda path: fcntl.flock(os.open(path, os.O_APPEND), fcntl.LOCK_EX),  # until the process of the tests ends
    "read-only": lambda path: path.chmod(0o444),
}
SLOW = ("empty", "locked", "read-only")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("state", [pytest.param(state, marks=[pytest.mark.slow] * (state in SLOW)) for state in CHANGES])
def test_f27_whatever_is_in_emissions_csv_no_row_is_lost(base: Path, unmetered: Path, tmp_path: Path, state: str) -> None:
    """Stopped by a signal, then the file is changed, then the run continues."""
    run = tmp_path / "run"
    metered(run, base, both(codecarbon(tmp_path), strike(signal.SIGTERM, 5))).exits(128 + signal.SIGTERM)
    path = run / "emissions.csv"
    theirs = ",".join("theirs" if name == "run_id" else "1" for name in installed_columns()) + "\n"
    path.write_text(path.read_text() + theirs)
    CHANGES[state](path)
    changed = path.read_bytes() if path.exists() else b""
    result_of(metered(run, base, codecarbon(tmp_path), "--resume"), run, unmetered)
    assert len(ledgers(run)) == 2
    assert_adds_up(run)
    assert any(row["run_id"] == "theirs" for row in emissions_rows(run)) == (state in ("torn", "locked", "read-only"))
    backups = [backup.read_bytes() for backup in run.glob("emissions.csv*.bak")]
    assert backups == ([changed] if state in ("another header", "empty", "torn") else [])


@pytest.mark.thorough
def test_f27_eight_writers_lose_no_row_and_tear_none(base: Path, unmetered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run, and seven more sidecars, as other nodes would have them, that write all the time."""
    run = tmp_path / "run"
    process = start(tmp_path, run, base, both(codecarbon(tmp_path), slowly(0.25)))
    wait_for(lambda: bool(kept(run)))
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    section, others = CarbonSection(intensity_g_per_kwh=G_PER_KWH, every_seconds=TICK), []
    for node in range(1, 8):
        monkeypatch.setenv("GROUP_RANK", str(node))
        others.append(Meter.start(section, folder=run, run_id="others", attempt=1, project="p"))
    while not ended(process.pid):
        for other in others:
            other.phase(random.choice(["train", "evaluate"]))
        time.sleep(0.2)
    result_of(process.wait(), run, unmetered)
    finals = [other.stop(PATIENCE_SECONDS) for other in others]
    assert [other.warning() for other in others] == [None] * 7
    assert all(final.energy_wh > 0 for final in finals)
    assert len(ledgers(run)) == 8
    assert_adds_up(run)


# ------------------------------------------------------------------------------------------------ a failing disk (F16)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("error", ["ENOSPC", "EACCES"])
def test_f16_f27_a_ledger_that_cannot_be_written_is_one_warning(base: Path, unmetered: Path, tmp_path: Path, error: str) -> None:
    """On a full disk, and in a folder that may not be written."""
    run = tmp_path / "run"
    done = metered(run, base, both(codecarbon(tmp_path, **{"import": FAILING_FILES.format(error)}), slowly(0.1)))
    result = result_of(done, run, unmetered, "could not be written")
    assert os.strerror(getattr(errno, error)) in done.err
    assert result["carbon_status"] == "ok"
    assert result["energy_kwh"] * 1000 > 0.5 * WH_PER_SECOND


@pytest.mark.thorough
def test_f16_a_disk_that_has_room_again_gets_the_whole_ledger(base: Path, unmetered: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    passing = FAILING_FILES.format("ENOSPC") + "\nimport threading\n" + "threading.Timer(0.4, lambda: restore()).start()\n"
    passing += "def restore():\n    os.write, os.replace = write, replace\n"
    result = result_of(metered(run, base, both(codecarbon(tmp_path, **{"import": passing}), slowly(0.1))), run, unmetered, "")
    (attempt,) = ledgers(run)
    assert set(attempt.phases) == {"setup", "tokenize", "train", "checkpoint", "evaluate", "finish"}
    assert [point.step for point in attempt.resume_points] == [0, 4, 4, 8, 8, 12, 12], "each is saved, then evaluated"
    assert result["energy_kwh"] * 1000 == pytest.approx(attempt.sums["energy_wh"])
    assert_adds_up(run)


# ------------------------------------------------------------------------------------------------------ the clock (F46)

CLOCK = """
import time
real_time, changed_at = time.time, time.monotonic() + {after}
time.time = lambda: real_time() + ({seconds} if time.monotonic() > changed_at else 0)
"""


def zone(name: str) -> Callable[[], None]:
    def before() -> None:
        os.environ["TZ"] = name
        time.tzset()

    return before


def _zone_that_changes_in(seconds: float) -> str:
    """An hour's summer time begins then, as a POSIX time zone."""
    then = time.gmtime(time.time() + seconds)
    return f"STD0DST,{then.tm_yday - 1}/{then.tm_hour}:{then.tm_min}:{then.tm_sec},{(then.tm_yday + 30) % 365}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "change",
    [
        lambda: exec(CLOCK.format(after=0.3, seconds=-3600), {}),
        lambda: exec(CLOCK.format(after=0, seconds=-50), {}),  # so that between the trainer and its sidecar it is set forward
        pytest.param(zone("Nowhere/Land"), marks=pytest.mark.slow),
        pytest.param(zone(":/no/such/file"), marks=pytest.mark.slow),
        lambda: zone(_zone_that_changes_in(1.0))(),
    ],
    ids=["back an hour", "forward between the processes", "unknown zone", "no zone data", "summer time"],
)
def test_f46_durations_do_not_follow_the_clock(base: Path, unmetered: Path, tmp_path: Path, change: Callable[[], None]) -> None:
    run, began = tmp_path / "run", time.monotonic()
    sidecar = {"import": CLOCK.format(after=0.6, seconds=-3600)} if change.__name__ == "<lambda>" else {}
    done = metered(run, base, both(codecarbon(tmp_path, **sidecar), slowly(0.1), change))
    lasted = time.monotonic() - began
    result = result_of(done, run, unmetered)
    seconds = [tick["seconds"] for tick in ticks(run)]
    assert seconds == sorted(seconds)
    (attempt,) = receipt(run)["attempts"]
    assert all(1.2 < measured < lasted for measured in (seconds[-1], attempt["seconds"], result["seconds"]))
    assert result["energy_kwh"] * 1000 == pytest.approx(seconds[-1] * WH_PER_SECOND, abs=LATE_SECONDS * WH_PER_SECOND)
    assert all(float(row["duration"]) >= 0 for row in emissions_rows(run))
    assert_adds_up(run)


# ----------------------------------------------------------------------------------------------------- it all adds up


def test_f02_f40_the_ledger_of_a_run_that_is_killed_twice_adds_up(base: Path, unmetered: Path, tmp_path: Path) -> None:
    """Power times time, to a tick an attempt; what was done again is in it, and shows."""
    run, moments, chance = tmp_path / "run", [], random.Random(7)
    noted = Before(Meter, "_launch", lambda *_: (tmp_path / "began").write_text(str(time.monotonic())))
    for attempt in (1, 2):
        process = start(tmp_path, run, base, both(codecarbon(tmp_path), slowly(0.1), noted), "--resume")
        wait_for(lambda saved=4 * attempt: f"step-{saved:06d}" in kept(run))
        time.sleep(chance.uniform(0.05, 0.3))
        (sidecar,) = psutil.Process(process.pid).children()
        killed = time.monotonic()
        process.kill(signal.SIGKILL)
        process.wait().exits(-signal.SIGKILL)
        saved_at = (run / f"checkpoints/step-{4 * attempt:06d}").stat().st_mtime
        lost = time.time() - (time.monotonic() - killed) - saved_at
        wait_for(lambda pid=sidecar.pid: ended(pid))
        moments.append((killed - float((tmp_path / "began").read_text()), lost, time.monotonic() - killed))
    result_of(metered(run, base, codecarbon(tmp_path), "--resume"), run, unmetered)
    attempts = ledgers(run)
    assert len(attempts) == 3
    for attempt, (lived, _, noticed) in zip(attempts[:2], moments, strict=True):
        assert attempt.sums["energy_wh"] == pytest.approx(attempt.sums["seconds"] * WH_PER_SECOND, abs=LATE_SECONDS * WH_PER_SECOND)
        lasted = attempt.sums["seconds"]  # it reads once more when it sees that the run is gone
        assert lived - TICK < lasted < lived + noticed + LATE_SECONDS
    assert_adds_up(run)
    totals = receipt(run)["totals"]
    assert totals["energy_kwh"] * 1000 == pytest.approx(sum(attempt.sums["energy_wh"] for attempt in attempts))
    assert totals["carbon_status"] == "ok"
    card = (run / f"checkpoints/step-{STEPS:06d}/README.md").read_text(encoding="utf-8")
    assert f"emissions: {float(format(totals['emissions_g'], '.4g'))}\n" in card, "of the whole run, and not of its last save"
    lost, noticed = (sum(moment[place] for moment in moments) for place in (1, 2))
    assert lost - 2 * TICK < totals["rework_seconds"] < lost + noticed + LATE_SECONDS
    late = 2 * LATE_SECONDS * WH_PER_SECOND
    assert totals["rework_kwh"] * 1000 == pytest.approx(totals["rework_seconds"] * WH_PER_SECOND, abs=late)
    assert 0 < totals["rework_kwh"] < totals["energy_kwh"]
