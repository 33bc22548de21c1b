import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import write_rows
from written_ledgers import HEADER, PLACE, tick, write

from tfkit.carbon.attempt_files import AttemptFiles, estimate_line, tick_line
from tfkit.carbon.emissions_file import emission_rows, write_emissions
from tfkit.carbon.ledger import LedgerReader
from tfkit.carbon.reading import SUMS, Totals
from tfkit.carbon.totals import attempts_of, ledger_totals, read_seconds, read_totals, rework


def test_equal_phases_of_an_attempt_are_one_row(tmp_path):
    write(tmp_path, [tick("setup", 2, 1), tick("train", 5, 4), tick("evaluate", 6, 5), tick("train", 9, 11), tick("train", 10, 12)])
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert {name: (phase.sums["seconds"], phase.sums["energy_wh"]) for name, phase in attempt.phases.items()} == {
        "setup": (2, 1),
        "train": (7, 10),
        "evaluate": (1, 1),
    }
    rows = emission_rows([attempt])
    assert [row["energy_consumed"] * 1000 for row in rows] == pytest.approx([1, 10, 1])
    assert len({row["run_id"] for row in rows}) == 3
    assert {row["experiment_id"] for row in rows} == {"run"}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["train", "evaluate", "checkpoint"]), st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=30)
)
def test_rows_are_disjoint_and_add_up(tmp_path_factory, steps):
    folder, seconds, energy, lines = tmp_path_factory.mktemp("run"), 0.0, 0.0, []
    for phase, more_seconds, more_energy in steps:
        seconds, energy = seconds + more_seconds, energy + more_energy
        lines.append(tick(phase, seconds, energy))
    write(folder, lines)
    rows = emission_rows(LedgerReader(folder / "carbon").attempts())
    assert sum(row["energy_consumed"] for row in rows) * 1000 == pytest.approx(energy, rel=1e-9, abs=1e-9)
    assert sum(row["duration"] for row in rows) == pytest.approx(seconds, abs=2e-3)
    assert all(row["energy_consumed"] >= -1e-12 for row in rows)


def test_a_torn_last_line_is_dropped_and_read_once_it_is_whole(tmp_path):
    ledger = write(tmp_path, [tick("train", 1, 1)])
    line = json.dumps(tick("train", 2, 2)).encode()
    reader = LedgerReader(tmp_path / "carbon")
    for cut in (1, len(line) // 2, len(line)):
        ledger.path.write_bytes(
            ledger.path.read_bytes().split(b"\n{")[0] + b"\n" + json.dumps(tick("train", 1, 1)).encode() + b"\n" + line[:cut]
        )
        assert LedgerReader(tmp_path / "carbon").attempts()[0].sums["energy_wh"] == 1
        assert reader.attempts()[0].sums["energy_wh"] == 1
    with ledger.path.open("ab") as file:
        file.write(b"\n")
    assert reader.attempts()[0].sums["energy_wh"] == 2


def test_a_line_that_was_torn_in_the_middle_spoils_no_other(tmp_path):
    ledger = write(tmp_path, [tick("train", 1, 1)])
    with ledger.path.open("ab") as file:
        file.write(b'{"kind": "tick", "at": 12')
    ledger._torn = True  # as after a write to a full disk
    ledger.append(tick("train", 3, 3))
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert (attempt.sums["energy_wh"], attempt.lines_dropped) == (3, 1)


def test_reading_on_equals_reading_anew(tmp_path):
    ledger, reader = write(tmp_path, []), LedgerReader(tmp_path / "carbon")
    for index in range(1, 20):
        ledger.append(tick("train" if index % 3 else "evaluate", index, index * 1.5))
        assert emission_rows(reader.attempts()) == emission_rows(LedgerReader(tmp_path / "carbon").attempts())


def test_an_attempt_number_that_was_used_gets_a_ledger_of_its_own(tmp_path):
    write(tmp_path, [tick("train", 1, 1)])
    write(tmp_path, [tick("train", 1, 2)])
    assert sorted(path.name for path in (tmp_path / "carbon").iterdir()) == ["0-1.2.jsonl", "0-1.jsonl"]
    rows = emission_rows(LedgerReader(tmp_path / "carbon").attempts())
    assert len({row["run_id"] for row in rows}) == 2


def test_the_totals_of_a_run_folder(tmp_path):
    assert read_totals(tmp_path).status == "off"
    write(tmp_path, [tick("train", 10, 5)])
    write(tmp_path, [tick("train", 20, 7)], attempt=2)
    write(tmp_path, [tick("train", 20, 1)], attempt=2, node=1)
    totals = read_totals(tmp_path, "run")
    assert (totals.seconds, totals.energy_wh, totals.status, totals.place) == (30, 13, "ok", "here")  # two nodes at the same time
    assert totals.emissions_g == pytest.approx(1.3)
    assert read_totals(tmp_path, "another").status == "off"
    write(tmp_path, [tick("train", 1, 0, "degraded")], attempt=3)
    assert read_totals(tmp_path).status == "degraded"


def test_a_node_that_has_begun_the_attempt_already_is_no_earlier_attempt(tmp_path):
    write(tmp_path, [tick("train", 10, 5)])
    write(tmp_path, [tick("setup", 1, 2)], attempt=2, node=1)
    facts = {"run_id": "run", "attempt": 2, "nodes": 2, "project": "p", "started": 0.0, "place": PLACE, "pue": 1.0, "every_seconds": 5.0}
    files = AttemptFiles({"folder": str(tmp_path), **facts}, print)
    assert (files.earlier["energy_wh"], files.earlier["seconds"], files.earlier_degraded) == (5, 10, False)
    assert files.sums_of_other_nodes()["energy_wh"] == 2


def test_ticks_that_wait_for_the_disk_keep_their_intensities(tmp_path):
    facts = {"run_id": "run", "attempt": 1, "project": "p", "started": 0.0, "place": PLACE, "pue": 1.0, "every_seconds": 5.0}
    files = AttemptFiles({"folder": str(tmp_path), **facts}, print)
    (tmp_path / "carbon").touch()  # the ledger cannot be written
    for second in (1, 2, 3):
        line = tick("train", second, second) | {"g_per_kwh": 10.0 * second, "g_per_kwh_seconds": 1.0}
        if second == 3:
            (tmp_path / "carbon").unlink()
        files.write(line, None, None, derive=False)
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert (attempt.series_integral, attempt.series_seconds, attempt.sums["energy_wh"]) == (60, 3, 3)


@pytest.mark.parametrize(
    "line", [b"[]", b"null", b"3", b'{"kind": "tick"}', b'{"kind": "machine", "components": 3, "record": 4}', b"\xff\xfe", b'"']
)
def test_damaged_lines_are_counted_and_left_out(tmp_path, line):
    ledger = write(tmp_path, [tick("train", 1, 1)])
    with ledger.path.open("ab") as file:
        file.write(line + b"\n")
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert (attempt.sums["energy_wh"], attempt.lines_dropped) == (1, 1)


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


def test_the_time_before_codecarbons_start_falls_to_the_phases_that_it_covers(tmp_path):
    """The run uses 1 Wh per second. CodeCarbon starts in the third second, in the phase train."""
    ticks = [at("setup", 1, 0, 0), at("tokenize", 2, 0, 0), at("train", 4, 1, 1), estimated(3, 3.0), at("train", 9, 6, 6)]
    write(tmp_path, ticks)
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert {name: phase.sums["energy_wh"] for name, phase in attempt.phases.items()} == pytest.approx(
        {"setup": 1, "tokenize": 1, "train": 7}
    )
    assert attempt.sums["energy_wh"] == pytest.approx(attempt.sums["seconds"]) == pytest.approx(9)
    assert (attempt.measured["energy_wh"], attempt.estimate["energy_wh"]) == pytest.approx((6, 3))
    assert sum(row["energy_consumed"] for row in emission_rows([attempt])) * 1000 == pytest.approx(9)
    assert read_totals(tmp_path).energy_wh == pytest.approx(9)


def test_an_estimate_that_was_written_twice_counts_once(tmp_path):
    write(tmp_path, [at("train", 4, 1, 1), estimated(3, 3.0), estimated(3, 3.0)])
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert attempt.sums["energy_wh"] == pytest.approx(attempt.phases["train"].sums["energy_wh"]) == pytest.approx(4)


def test_rework_is_what_came_after_the_checkpoint_that_a_later_attempt_went_on_from(tmp_path):
    """The run uses 1 Wh per second. Attempts 2 and 4 resume from step 10, and attempt 5 from step 5."""
    write(tmp_path, [at("setup", 2, 2, 2, 0), at("train", 5, 5, 5, 5), at("train", 9, 9, 9, 10), at("train", 12, 12, 12)], attempt=1)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 0
    write(tmp_path, [at("setup", 1, 1, 1, 10), at("train", 4, 4, 4)], attempt=2)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 3, "attempt 1, after step 10"
    write(tmp_path, [at("setup", 1, 1, 1)], attempt=3)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 3, "killed before it took up a checkpoint"
    write(tmp_path, [at("setup", 1, 1, 1, 10), at("train", 9, 9, 9, 20)], attempt=4)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 3 + 3, "and attempt 2, after its setup"
    write(tmp_path, [at("setup", 1, 1, 1, 5), at("train", 9, 9, 9, 20)], attempt=5)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 7 + 3 + 8, "all that came after step 5"
    assert rework(attempts_of(tmp_path, "run"))["emissions_g"] == pytest.approx(1.8)
    assert ledger_totals(tmp_path, "another", 1.0) is None


def test_the_end_of_an_attempt_that_had_saved_its_work_is_no_rework(tmp_path):
    """The run uses 1 Wh per second. Attempt 1 ends after its last checkpoint, attempt 2 in an evaluation, both with the phase finish."""
    saved = [at("setup", 2, 2, 2, 0), at("train", 9, 9, 9, 10), at("train", 10, 10, 10)]
    write(tmp_path, [*saved[:2], at("finish", 14, 14, 14)], attempt=1)
    write(tmp_path, [at("setup", 1, 1, 1, 10), *saved[1:], at("evaluate", 12, 12, 12), at("finish", 15, 15, 15)], attempt=2)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 0
    write(tmp_path, [at("setup", 1, 1, 1, 10), at("train", 9, 9, 9, 20)], attempt=3)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == 3, "a second of a step and two of the evaluation"


def test_the_end_of_an_attempt_has_its_share_of_the_estimate(tmp_path):
    """The run uses 1 Wh per second, estimated for the first 5 s. The work ends after 3 s; then follows the phase finish."""
    ticks = [at("setup", 1, 0, 0, 0), at("train", 3, 0, 0), at("finish", 9, 4, 4), estimated(5, 5.0)]
    write(tmp_path, ticks)
    write(tmp_path, [at("setup", 1, 1, 1, 0)], attempt=2)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == pytest.approx(2)


@pytest.mark.parametrize("late", [0, 3, 5])
def test_rework_has_its_share_of_the_estimate(tmp_path, late):
    """The run uses 1 Wh per second, estimated for the first 5 s. Steps begin after `late` seconds, and 10 s later the run is killed."""
    first = at("setup", late, 0, 0, 0)
    write(tmp_path, [first, at("train", 5, 0, 0), at("train", late + 10, late + 5, late + 5), estimated(5, 5.0)])
    write(tmp_path, [at("setup", 1, 1, 1, 0)], attempt=2)
    assert rework(attempts_of(tmp_path, "run"))["energy_wh"] == pytest.approx(10)


def test_an_attempt_says_how_its_measuring_went(tmp_path):
    write(tmp_path, [tick("train", 1, 1)])
    write(tmp_path, [tick("train", 1, 1), tick("train", 2, 1, "degraded")], attempt=2)
    write(tmp_path, [tick("train", 1, 0, "degraded")], attempt=3)
    attempts = LedgerReader(tmp_path / "carbon").attempts()
    assert [attempt.outcome for attempt in attempts] == ["ok", "degraded", "failed"]
    assert [row["tracking_mode"] for row in emission_rows(attempts)] == ["machine", "degraded", "failed"]
