import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.carbon.emissions_file import emission_rows
from tfkit.carbon.ledger import Ledger, LedgerReader, read_totals, tick_line
from tfkit.carbon.reading import Totals

HEADER = {
    "kind": "header",
    "schema_version": 1,
    "run_id": "run",
    "attempt": 1,
    "node": 0,
    "project": "p",
    "place": {"text": "here"},
    "pue": 1.0,
}


def tick(phase, seconds, energy_wh, status="ok"):
    return tick_line(
        1e9 + seconds, phase, seconds, Totals(seconds, energy_wh, energy_wh / 2, 0, energy_wh / 2, energy_wh / 10), 1.0, status, None
    )


def write(folder, lines, attempt=1, node=0):
    ledger = Ledger.create(folder / "carbon", node, attempt)
    for line in [HEADER | {"attempt": attempt, "node": node}, *lines]:
        ledger.append(line)
    return ledger


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
    ledger._torn = True  # as after a disk that was full
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
    assert (totals.seconds, totals.energy_wh, totals.status, totals.place) == (50, 13, "ok", "here")
    assert totals.emissions_g == pytest.approx(1.3)
    assert read_totals(tmp_path, "another").status == "off"
    write(tmp_path, [tick("train", 1, 0, "degraded")], attempt=3)
    assert read_totals(tmp_path).status == "degraded"


@pytest.mark.parametrize(
    "line", [b"[]", b"null", b"3", b'{"kind": "tick"}', b'{"kind": "machine", "components": 3, "record": 4}', b"\xff\xfe", b'"']
)
def test_damaged_lines_are_counted_and_left_out(tmp_path, line):
    ledger = write(tmp_path, [tick("train", 1, 1)])
    with ledger.path.open("ab") as file:
        file.write(line + b"\n")
    (attempt,) = LedgerReader(tmp_path / "carbon").attempts()
    assert (attempt.sums["energy_wh"], attempt.lines_dropped) == (1, 1)
