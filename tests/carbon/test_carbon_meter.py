import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_codecarbon import ended
from scripted_meter import start
from scripted_probe import G_PER_KWH, POWER_W
from tiny_files import emissions_rows, read_rows, wait_for
from written_ledgers import attempts, row_sums

from tfkit.carbon.emissions_file import installed_columns
from tfkit.carbon.footprint import Reading
from tfkit.carbon.ledger import Attempt

WH_PER_SECOND = POWER_W / 3600
LATE_SECONDS = 0.5  # by which the sidecar may be late on a busy machine
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def energies(folder):
    return [attempt.sums["energy_wh"] for attempt in attempts(folder)]


def test_energy_is_power_times_time_and_the_ledger_says_how_it_was_measured(tmp_path):
    before = time.monotonic()
    meter = start(tmp_path, pue=1.4)
    began = time.monotonic()
    wait_for(lambda: meter.reading().status == "ok")
    assert meter.reading().provenance == "CPU model, RAM constant"
    time.sleep(1.2)
    fresh = meter.fresh_reading()
    assert fresh.power_w == pytest.approx(POWER_W, rel=0.05)
    least = time.monotonic() - began
    final = meter.stop()
    most = time.monotonic() - before
    assert least < final.seconds < most
    assert least * WH_PER_SECOND < final.energy_wh < (most + LATE_SECONDS) * WH_PER_SECOND, "the start is in it"
    assert final.energy_wh >= fresh.energy_wh > 1.1 * WH_PER_SECOND
    assert final.emissions_g == pytest.approx(final.energy_wh * G_PER_KWH / 1000)
    assert (final.status, final.place, meter.warning()) == ("ok", "100 g/kWh (carbon.intensity_g_per_kwh)", None)
    assert [*energies(tmp_path), row_sums(tmp_path)[1]] == pytest.approx([final.energy_wh] * 2)
    (row,) = emissions_rows(tmp_path)
    assert (row["cpu_model"], row["pue"]) == ("Abacus 9", "1.4")
    header, *lines = read_rows(tmp_path / "carbon/0-1.jsonl")
    assert header.items() >= {"kind": "header", "run_id": "run", "attempt": 1, "node": 0, "pue": 1.4}.items()
    assert (header["place"]["source"], len(header["host"])) == ("carbon.intensity_g_per_kwh", 12)
    assert header["codecarbon_version"]
    assert next(line for line in lines if line["kind"] == "machine")["components"] == {"cpu": "model", "ram": "constant"}
    assert meter.stop() == meter.reading() == meter.fresh_reading() == final, "stopping twice is stopping once"
    meter.phase("late")
    assert emissions_rows(tmp_path) == [row]


def test_a_change_of_phase_that_is_heard_late_takes_nothing_from_the_start(tmp_path):
    """On a busy machine, the first reading with a power may answer a command that was sent seconds earlier."""
    meter = start(tmp_path, "SlowStart", every_seconds=60, until="ok")
    os.kill(meter._process.pid, signal.SIGSTOP)
    meter.phase("train")
    time.sleep(2.0)
    os.kill(meter._process.pid, signal.SIGCONT)
    final = meter.stop()
    assert final.energy_wh == pytest.approx(final.seconds * WH_PER_SECOND, rel=0.1)


def test_each_phase_gets_its_own_energy(tmp_path):
    meter = start(tmp_path, until="ok")
    before, after = [], []
    for name, seconds in (("train", 0.6), ("evaluate", 0.6), ("train", 0.4), (None, 0.0)):
        before.append(time.monotonic())
        final = meter.phase(name) if name else meter.stop()
        after.append(time.monotonic())
        time.sleep(seconds)
    train, evaluate, again = [(before[n + 1] - after[n], after[n + 1] - before[n]) for n in range(3)]
    (attempt,) = attempts(tmp_path)
    assert list(attempt.phases) == ["setup", "train", "evaluate"]
    for name, (least, most) in (("train", (train[0] + again[0], train[1] + again[1])), ("evaluate", evaluate)):
        sums_of_phase = attempt.phases[name].sums
        assert least - 0.002 < sums_of_phase["seconds"] < most + 0.002, "the ledger has milliseconds"
        assert (least - LATE_SECONDS) * WH_PER_SECOND < sums_of_phase["energy_wh"] < (most + LATE_SECONDS) * WH_PER_SECOND
    assert row_sums(tmp_path)[1] == pytest.approx(final.energy_wh)


def test_without_a_run_folder_nothing_is_written(tmp_path, in_tmp_path):
    meter = start(None, until="ok")
    meter.phase("generate")
    assert meter.stop().energy_wh >= 0
    assert list(tmp_path.iterdir()) == []


def test_switched_off_is_no_process_and_a_header(tmp_path):
    meter = start(tmp_path, enabled=False)
    meter.phase("train")
    assert meter._process is None
    assert meter.fresh_reading() == meter.stop() == meter.reading() == Reading()
    assert (tmp_path / "emissions.csv").read_text() == ",".join(installed_columns()) + "\n"
    assert not (tmp_path / "carbon").exists()


TRAINER = """
import os, sys, time
from pathlib import Path
from tfkit.carbon import Meter
from tfkit.recipe.schema.carbon_section import CarbonSection
section = CarbonSection(intensity_g_per_kwh=100.0, every_seconds=0.5)
if __name__ == "__main__":
    folder, fork = Path(sys.argv[1]), sys.argv[2] == "fork"
    meter = Meter.start(section, folder=folder, run_id="run", attempt=1, project="p", probe="scripted_probe:Steady")
    if fork and os.fork() == 0:
        meter.phase("worker")
        meter.stop()
        time.sleep(300)
        os._exit(0)
    meter.phase("train")
    while meter.reading().status != "ok":
        time.sleep(0.01)
    print(meter._process.pid, meter.reading().energy_wh, flush=True)
    time.sleep(600)
"""
trainers = []


def trainer(folder, fork="no"):
    script = folder.parent / "trainer.py"
    script.write_text(TRAINER)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, str(script), str(folder), fork]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}, start_new_session=True)
    trainers.append(process)
    pid, energy_wh = process.stdout.readline().split()
    return process, int(pid), float(energy_wh)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    yield tmp_path / "run"
    while trainers:  # one of them sleeps for minutes if the test fails
        process = trainers.pop()
        process.kill()
        process.wait()
        process.stdout.close()


def sums_at_ticks(run):
    """Return the energy of the only ledger before each of its ticks, and at its end."""
    (ledger,) = (run / "carbon").glob("*.jsonl")
    attempt, found = Attempt(ledger.stem), []
    for line in ledger.read_bytes().splitlines(keepends=True):
        if b'"tick"' in line:
            found.append(attempt.sums["energy_wh"])
        attempt.add(line)
    return [*found, attempt.sums["energy_wh"]]


def test_meter_and_trainer_killed_at_once_lose_one_tick(run):
    process, sidecar, energy_wh = trainer(run)
    wait_for((run / "emissions.csv").exists)
    wait_for(lambda: row_sums(run)[1] > energy_wh + 0.8 * WH_PER_SECOND)  # emissions.csv has the phase
    (seen,) = energies(run)
    wait_for(lambda: sum(energies(run)) > seen)  # a tick is in the ledger, and perhaps not yet in emissions.csv
    os.kill(sidecar, signal.SIGKILL)
    process.kill()
    process.communicate()
    wait_for(lambda: ended(sidecar))
    (in_ledger,), (_, in_file) = energies(run), row_sums(run)
    *_, before, last = sums_at_ticks(run)
    assert last == in_ledger > seen
    assert before < last
    assert in_file in (pytest.approx(before), pytest.approx(last)), "the file has all but at most the last tick, however late that came"


def test_a_forked_worker_neither_uses_nor_keeps_the_meter(run):
    process, sidecar, _ = trainer(run, "fork")
    wait_for(lambda: any('"train"' in path.read_text() for path in (run / "carbon").iterdir()))
    process.kill()
    process.wait()
    wait_for(lambda: ended(sidecar))
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert [[*attempt.phases] for attempt in attempts(run)] == [["setup", "train"]]


def test_the_sidecar_ignores_what_ends_a_trainer_whose_signal_handlers_stay(tmp_path):
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    before = {number: signal.getsignal(number) for number in numbers}, signal.pthread_sigmask(signal.SIG_BLOCK, [])
    meter = start(tmp_path)
    for number in ENDS:
        os.kill(meter._process.pid, number)  # immediately, while Python is still starting
    wait_for(lambda: meter.reading().status == "ok")
    for number in ENDS:
        os.kill(meter._process.pid, number)
    assert os.getsid(meter._process.pid) != os.getsid(0)
    assert meter.fresh_reading().status == meter.stop().status == "ok"
    assert meter.warning() is None
    assert ({number: signal.getsignal(number) for number in numbers}, signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before


def test_neither_starting_nor_reading_waits_for_the_sidecar(tmp_path):
    """A sidecar that is stopped does not answer; if a thousand readings waited for an answer, they would take hours."""
    meter = start(tmp_path)
    os.kill(meter._process.pid, signal.SIGSTOP)
    assert meter.reading().status == "starting"
    for _ in range(1000):
        assert meter.reading().status == "starting"
        meter.phase("train")
    os.kill(meter._process.pid, signal.SIGCONT)
    meter.stop()
