import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import read_rows, write_rows
from written_ledgers import HEADER, PLACE, attempts, tick, write

from tfkit.carbon.attempt_files import AttemptFiles, Ledger, estimate_line, tick_line
from tfkit.carbon.emissions_file import emission_rows, write_emissions
from tfkit.carbon.footprint import SUMS, Totals
from tfkit.carbon.ledger import LedgerReader, line_hash
from tfkit.carbon.totals import attempts_of, ledger_totals, read_seconds, read_totals, rework


def test_equal_phases_of_an_attempt_are_one_row(tmp_path):
    write(tmp_path, [tick("setup", 2, 1), tick("train", 5, 4), tick("evaluate", 6, 5), tick("train", 9, 11), tick("train", 10, 12)])
    (attempt,) = attempts(tmp_path)
    found = {name: (phase.sums["seconds"], phase.sums["energy_wh"]) for name, phase in attempt.phases.items()}
    assert found == {"setup": (2, 1), "train": (7, 10), "evaluate": (1, 1)}
    rows = emission_rows([attempt])
    assert [row["energy_consumed"] * 1000 for row in rows] == pytest.approx([1, 10, 1])
    assert len({row["run_id"] for row in rows}) == 3
    assert {row["experiment_id"] for row in rows} == {"run"}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["train", "evaluate", "checkpoint"]), st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=30)
)
def test_rows_are_disjoint_and_add_up(tmp_path_factory, steps):
    folder, seconds, energy = tmp_path_factory.mktemp("run"), 0.0, 0.0
    ledger, reader = write(folder), LedgerReader(folder / "carbon")
    for phase, more_seconds, more_energy in steps:
        seconds, energy = seconds + more_seconds, energy + more_energy
        ledger.append(tick(phase, seconds, energy))
        rows = emission_rows(attempts(folder))
        assert emission_rows(reader.attempts()) == rows, "reading on equals reading anew"
    assert sum(row["energy_consumed"] for row in rows) * 1000 == pytest.approx(energy, rel=1e-9, abs=1e-9)
    assert sum(row["duration"] for row in rows) == pytest.approx(seconds, abs=2e-3)
    assert all(row["energy_consumed"] >= -1e-12 for row in rows)


def test_a_torn_last_line_is_dropped_and_read_once_it_is_whole(tmp_path):
    ledger, reader = write(tmp_path, [tick("train", 1, 1)]), LedgerReader(tmp_path / "carbon")
    begin, line = ledger.path.read_bytes(), json.dumps(tick("train", 2, 2)).encode()
    for cut in (1, len(line) // 2, len(line)):
        ledger.path.write_bytes(begin + line[:cut])
        assert attempts(tmp_path)[0].sums["energy_wh"] == reader.attempts()[0].sums["energy_wh"] == 1
    ledger.path.write_bytes(begin + line + b"\n")
    assert reader.attempts()[0].sums["energy_wh"] == 2


def test_a_line_that_was_torn_in_the_middle_spoils_no_other(tmp_path):
    ledger = write(tmp_path, [tick("train", 1, 1)])
    with ledger.path.open("ab") as file:
        file.write(b'{"kind": "tick", "at": 12')
    ledger._torn = True  # as after a write to a full disk
    ledger.append(tick("train", 3, 3))
    assert (only(tmp_path).sums["energy_wh"], only(tmp_path).lines_dropped) == (3, 1)


def test_an_attempt_number_that_was_used_gets_a_ledger_of_its_own(tmp_path):
    for energy_wh in (1, 2):
        write(tmp_path, [tick("train", 1, energy_wh)])
    assert sorted(path.name for path in (tmp_path / "carbon").iterdir()) == ["0-1.2.jsonl", "0-1.jsonl"]
    assert len({row["run_id"] for row in emission_rows(attempts(tmp_path))}) == 2


def test_the_totals_of_a_run_folder(tmp_path):
    assert read_totals(tmp_path).status == "off"
    write(tmp_path, [tick("train", 10, 5)])
    write(tmp_path, [tick("train", 20, 7)], attempt=2)
    write(tmp_path, [tick("train", 20, 1)], attempt=2, node=1)
    totals = read_totals(tmp_path, "run")
    assert (totals.seconds, totals.energy_wh, totals.status, totals.place) == (30, 13, "ok", "here")  # two nodes at the same time
    assert totals.emissions_g == pytest.approx(1.3)
    assert read_totals(tmp_path, "another").status == "off"
    write(tmp_path, [tick("train", 9, 90)], attempt=9, run_id="another")
    assert read_totals(tmp_path, "run").energy_wh == 13, "those of another run do not count here"
    assert files_of(tmp_path, 10).earlier["energy_wh"] == 13
    assert {row["experiment_id"] for row in emission_rows(attempts(tmp_path))} == {"run", "another"}
    write(tmp_path, [tick("train", 1, 0, "degraded")], attempt=3)
    assert read_totals(tmp_path).status == "degraded"


def files_of(folder, attempt, **more):
    facts = {"run_id": "run", "attempt": attempt, "project": "p", "started": 0.0, "place": PLACE, "pue": 1.0, "every_seconds": 5.0}
    return AttemptFiles({"folder": str(folder)} | facts | more, print)


def test_a_node_that_has_begun_the_attempt_already_is_no_earlier_attempt(tmp_path):
    write(tmp_path, [tick("train", 10, 5)])
    write(tmp_path, [tick("setup", 1, 2)], attempt=2, node=1)
    files = files_of(tmp_path, 2, nodes=2)
    assert (files.earlier["energy_wh"], files.earlier["seconds"], files.earlier_degraded) == (5, 10, False)
    assert files.sums_of_other_nodes()["energy_wh"] == 2


def test_ticks_that_wait_for_the_disk_keep_their_intensities(tmp_path):
    files = files_of(tmp_path, 1)
    (tmp_path / "carbon").touch()  # the ledger cannot be written
    for second in (1, 2, 3):
        line = tick("train", second, second) | {"g_per_kwh": 10.0 * second, "g_per_kwh_seconds": 1.0}
        if second == 3:
            (tmp_path / "carbon").unlink()
        files.write(line, None, None, derive=False)
    (attempt,) = attempts(tmp_path)
    assert (attempt.series_integral, attempt.series_seconds, attempt.sums["energy_wh"]) == (60, 3, 3)


@pytest.mark.parametrize(
    "line", [b"[]", b"null", b"3", b'{"kind": "tick"}', b'{"kind": "machine", "components": 3, "record": 4}', b"\xff\xfe", b'"']
)
def test_damaged_lines_are_counted_and_left_out(tmp_path, line):
    ledger = write(tmp_path, [tick("train", 1, 1)])
    with ledger.path.open("ab") as file:
        file.write(line + b"\n")
    assert (only(tmp_path).sums["energy_wh"], only(tmp_path).lines_dropped) == (1, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_line_of_another_kind_is_never_a_bug(tmp_path_factory, data):
    """Valid JSON that the sidecar never writes is left out, and every reader of the file returns finite numbers."""
    folder = tmp_path_factory.mktemp("run")
    machine = {"kind": "machine", "components": {"cpu": "model"}, "record": {"cpu_model": "x"}}
    lines = [HEADER, machine, tick("setup", 2, 1), tick("train", 9, 11), estimated(2, 3)]
    line = data.draw(st.sampled_from(lines))
    changed = data.draw(JSON) if data.draw(st.booleans()) else line | {data.draw(st.sampled_from(sorted(line))): data.draw(JSON)}
    lines[lines.index(line)] = changed
    (folder / "carbon").mkdir()
    write_rows(folder / "carbon" / "0-1.jsonl", [HEADER, *lines])
    reading = read_totals(folder)
    assert all(math.isfinite(getattr(reading, name)) for name in SUMS)
    lost, seconds = rework(attempts_of(folder, "run")), read_seconds(folder, "run")
    assert all(map(math.isfinite, [*lost.values(), *seconds.values()]))
    write_emissions(folder)
    assert (folder / "emissions.csv").exists()


@pytest.mark.parametrize("attempt", [10**12, 10**400], ids=["13 digits", "401 digits"])
def test_a_damaged_number_of_an_attempt_costs_no_memory(tmp_path, attempt):
    """The attempts before it have no ledger, so the energy is a lower bound; they are not listed one by one."""
    (tmp_path / "carbon").mkdir()
    lines = [HEADER | {"attempt": attempt}, tick("train", 9, 11)]
    write_rows(tmp_path / "carbon" / "0-1.jsonl", lines)
    assert read_totals(tmp_path).status == "degraded"


def estimated(seconds, energy_wh):
    return estimate_line(seconds, Totals(1.0, energy_wh / seconds, energy_wh / seconds, 0, 0, energy_wh / seconds / 10))


def at(phase, seconds, measured_seconds, energy_wh, step=None):
    totals = Totals(measured_seconds, energy_wh, energy_wh, 0, 0, energy_wh / 10)
    return tick_line(1e9 + seconds, phase, seconds, totals, 1.0, "ok", step=step)


def lost(folder):
    """Return the energy that a run used for steps that it did again. The runs of these tests use 1 Wh per second."""
    return rework(attempts_of(folder, "run"))["energy_wh"]


def test_the_time_before_codecarbons_start_falls_to_the_phases_that_it_covers(tmp_path):
    """CodeCarbon starts in the third second, in the phase train; the estimate for them is written twice, and counts once."""
    ticks = [at("setup", 1, 0, 0), at("tokenize", 2, 0, 0), at("train", 4, 1, 1), *[estimated(3, 3.0)] * 2, at("train", 9, 6, 6)]
    write(tmp_path, ticks)
    (attempt,) = attempts(tmp_path)
    phases = {name: phase.sums["energy_wh"] for name, phase in attempt.phases.items()}
    assert phases == pytest.approx({"setup": 1, "tokenize": 1, "train": 7})
    assert attempt.sums["energy_wh"] == pytest.approx(attempt.sums["seconds"]) == pytest.approx(9)
    assert (attempt.measured["energy_wh"], attempt.estimate["energy_wh"]) == pytest.approx((6, 3))
    assert sum(row["energy_consumed"] for row in emission_rows([attempt])) * 1000 == pytest.approx(9)
    assert read_totals(tmp_path).energy_wh == pytest.approx(9)


def test_rework_is_what_came_after_the_checkpoint_that_a_later_attempt_went_on_from(tmp_path):
    """Attempts 2 and 4 resume from step 10, and attempt 5 from step 5."""
    write(tmp_path, [at("setup", 2, 2, 2, 0), at("train", 5, 5, 5, 5), at("train", 9, 9, 9, 10), at("train", 12, 12, 12)], attempt=1)
    assert lost(tmp_path) == 0
    write(tmp_path, [at("setup", 1, 1, 1, 10), at("train", 4, 4, 4)], attempt=2)
    assert lost(tmp_path) == 3, "attempt 1, after step 10"
    write(tmp_path, [at("setup", 1, 1, 1)], attempt=3)
    assert lost(tmp_path) == 3, "killed before it took up a checkpoint"
    write(tmp_path, [at("setup", 1, 1, 1, 10), at("train", 9, 9, 9, 20)], attempt=4)
    assert lost(tmp_path) == 3 + 3, "and attempt 2, after its setup"
    write(tmp_path, [at("setup", 1, 1, 1, 5), at("train", 9, 9, 9, 20)], attempt=5)
    assert lost(tmp_path) == 7 + 3 + 8, "all that came after step 5"
    assert rework(attempts_of(tmp_path, "run"))["emissions_g"] == pytest.approx(1.8)
    assert ledger_totals(tmp_path, "another", 1.0) is None


def test_the_end_of_an_attempt_that_had_saved_its_work_is_no_rework(tmp_path):
    """Attempt 1 ends after its last checkpoint, attempt 2 in an evaluation, both with the phase finish."""
    saved = [at("setup", 2, 2, 2, 0), at("train", 9, 9, 9, 10), at("train", 10, 10, 10)]
    write(tmp_path, [*saved[:2], at("finish", 14, 14, 14)], attempt=1)
    write(tmp_path, [at("setup", 1, 1, 1, 10), *saved[1:], at("evaluate", 12, 12, 12), at("finish", 15, 15, 15)], attempt=2)
    assert lost(tmp_path) == 0
    write(tmp_path, [at("setup", 1, 1, 1, 10), at("train", 9, 9, 9, 20)], attempt=3)
    assert lost(tmp_path) == 3, "a second of a step and two of the evaluation"


def test_rework_and_the_end_of_an_attempt_have_their_shares_of_the_estimate(tmp_path):
    """Estimated are the first 5 s. The work ends after 3 s, before the phase finish; or steps begin after some, and 10 s later all ends."""
    runs = {"end": (2, [at("setup", 1, 0, 0, 0), at("train", 3, 0, 0), at("finish", 9, 4, 4)])}
    for late in (0, 3, 5):
        runs[f"{late}"] = 10, [at("setup", late, 0, 0, 0), at("train", 5, 0, 0), at("train", late + 10, late + 5, late + 5)]
    for name, (expected, ticks) in runs.items():
        write(tmp_path / name, [*ticks, estimated(5, 5.0)])
        write(tmp_path / name, [at("setup", 1, 1, 1, 0)], attempt=2)
        assert lost(tmp_path / name) == pytest.approx(expected), name


def test_an_attempt_says_how_its_measuring_went(tmp_path):
    write(tmp_path, [tick("train", 1, 1)])
    write(tmp_path, [tick("train", 1, 1), tick("train", 2, 1, "degraded")], attempt=2)
    write(tmp_path, [tick("train", 1, 0, "degraded")], attempt=3)
    found = attempts(tmp_path)
    assert [attempt.outcome for attempt in found] == ["ok", "degraded", "failed"]
    assert [row["tracking_mode"] for row in emission_rows(found)] == ["machine", "degraded", "failed"]


# ---------------------------- the hash chain: no fault of a disk breaks it, and every change by a person is detected


def chained(folder, previous=None):
    """Write a ledger of four ticks, and return its path."""
    return write(folder, [tick("train", second, second) for second in range(1, 5)], previous=previous).path


def only(folder):
    (attempt,) = attempts(folder)
    return attempt


def test_each_line_has_the_hash_of_the_one_before(tmp_path):
    lines = chained(tmp_path, previous="of the ledger before").read_bytes().split(b"\n")[:-1]
    hashes = [json.loads(line)["previous"] for line in lines]
    assert hashes == ["of the ledger before", *map(line_hash, lines[:-1])]
    assert (only(tmp_path).chain.state, only(tmp_path).chain.last) == ("chained", line_hash(lines[-1]))


def test_an_older_ledger_has_no_chain_and_reads_as_before(tmp_path):
    path = chained(tmp_path)
    lines = read_rows(path)
    write_rows(path, [{name: value for name, value in line.items() if name != "previous"} for line in lines])
    assert (only(tmp_path).chain.state, only(tmp_path).sums["energy_wh"]) == ("unchained", 4)
    with path.open("a") as file:
        file.write(json.dumps(lines[-1]) + "\n")
    assert only(tmp_path).chain.state == "broken at line 6"


def replaced(number, old, new):
    """Return a change of a line's text."""
    return lambda lines: lines.__setitem__(number, lines[number].replace(old, new))


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (replaced(2, b'"energy_wh": 2', b'"energy_wh": 1'), "broken at line 4"),
        (replaced(0, b'"pue": 1.0', b'"pue": 1.5'), "broken at line 2"),
        (lambda lines: lines.pop(1), "broken at line 2"),
        (lambda lines: lines.insert(2, lines[1]), "broken at line 3"),
        (lambda lines: lines.insert(1, lines.pop(2)), "broken at line 2"),
        (lambda lines: lines.__setitem__(1, b"{"), "broken at line 3"),
        (replaced(3, b'"previous"', b'"earlier"'), "broken at line 4"),
    ],
    ids=["number", "header", "removed", "repeated", "swapped", "torn", "without its hash"],
)
def test_a_change_shows(tmp_path, change, state):
    path = chained(tmp_path)
    lines = path.read_bytes().split(b"\n")[:-1]
    change(lines)
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert only(tmp_path).chain.state == state


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["good", "full", "part", "all but the break", "sync"]), st.floats(0, 1)), min_size=1, max_size=20)
)
def test_no_fault_of_a_disk_breaks_it(tmp_path_factory, faults):
    """Each write may fail completely, in part, or only by its report, although it is on the disk. The sidecar then tries again."""
    folder = tmp_path_factory.mktemp("run")
    ledger, write_all, sync = Ledger(folder / "carbon", 0, 1), os.write, os.fsync
    reader, waiting = LedgerReader(folder / "carbon"), [HEADER]

    def faulty(descriptor, data):
        fault, fraction = faults[turn]
        if fault == "full":
            raise OSError(28, "No space left on device")
        cut = {"part": int(fraction * (len(data) - 1)), "all but the break": len(data) - 1}.get(fault, len(data))
        return write_all(descriptor, data[:cut])

    def unsure(descriptor):
        if faults[turn][0] == "sync":
            raise OSError(5, "Input/output error")
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", faulty)
        patch.setattr(os, "fsync", unsure)
        for turn in range(len(faults)):
            try:
                while waiting:
                    ledger.append(waiting[0])
                    del waiting[0]
            except OSError:
                pass
            waiting.append(tick("train", turn + 1, turn + 1))
            assert all(attempt.chain.broken_at is None for attempt in reader.attempts())
    for line in waiting:
        ledger.append(line)
    attempt = only(folder)
    assert (attempt.chain.state, attempt.sums["energy_wh"]) == ("chained", len(faults))
    (read_on,) = reader.attempts()
    assert read_on.chain == attempt.chain
