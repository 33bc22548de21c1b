"""The hash chain of a ledger: no fault of a disk breaks it, and every change by a person is detected."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import read_rows, write_rows
from written_ledgers import HEADER, tick, write

from tfkit.carbon.attempt_files import Ledger
from tfkit.carbon.ledger import LedgerReader, line_hash


def chained(folder, previous=None):
    """Write a ledger of four ticks, and return its path."""
    return write(folder, [tick("train", second, second) for second in range(1, 5)], previous=previous).path


def only(folder):
    (attempt,) = LedgerReader(folder / "carbon").attempts()
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


def swap(lines):
    lines[1], lines[2] = lines[2], lines[1]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda lines: lines.__setitem__(2, lines[2].replace(b'"energy_wh": 2', b'"energy_wh": 1')), "broken at line 4"),
        (lambda lines: lines.__setitem__(0, lines[0].replace(b'"pue": 1.0', b'"pue": 1.5')), "broken at line 2"),
        (lambda lines: lines.pop(1), "broken at line 2"),
        (lambda lines: lines.insert(2, lines[1]), "broken at line 3"),
        (swap, "broken at line 2"),
        (lambda lines: lines.__setitem__(1, b"{"), "broken at line 3"),
        (lambda lines: lines.__setitem__(3, lines[3].replace(b'"previous"', b'"earlier"')), "broken at line 4"),
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
