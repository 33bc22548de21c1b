"""metrics.jsonl has only whole lines, is cut back exactly, and a disk that cannot be written costs one warning and no line."""

import json
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_files import read_rows
from tiny_runs import Process, Strike, pretrain, write_corpus, write_recipe

from tfkit.run import strict_json
from tfkit.run.metrics import MetricsLog, parse_record, read_metrics


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", pytest.fail)
    for step in range(3):
        log.append({"step": step, "loss": 0.1 + 0.2, "text": "a\nb\u2028é"})
        assert read_rows(log.path)[-1] == {"step": step, "loss": 0.1 + 0.2, "text": "a\nb\u2028é"}


def test_a_number_that_is_not_finite_is_named_and_read_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", pytest.fail)
    records: list[dict[str, Any]] = [
        {"step": 1, "loss": float("inf"), "lr": 0.5},
        {"step": 1, "evaluation": {"loss": 2.0, "a.loss": float("-inf")}},
    ]
    for record in [*records, {"step": 2, "loss": float("nan"), "evaluation": {"means": [1.0, float("inf")]}, "lr": None}]:
        log.append(record)
    assert [*read_metrics(log.path)] == records, "an evaluation has no lists"
    nonfinite = {"loss": "nan", "evaluation.means.1": "inf"}
    assert read_rows(log.path) == [
        {"step": 1, "loss": None, "lr": 0.5, "nonfinite": {"loss": "inf"}},
        {"step": 1, "evaluation": {"loss": 2.0, "a.loss": None}, "nonfinite": {"evaluation.a.loss": "-inf"}},
        {"step": 2, "loss": None, "evaluation": {"means": [1.0, None]}, "lr": None, "nonfinite": nonfinite},
    ]
    assert parse_record(b'{"step": 3, "nonfinite": {"step": "nan", "lr": "nan", "evaluation.loss": "nan"}}\n') == {"step": 3}


@pytest.mark.parametrize("torn", [b"", b'{"step": 9', b"\xff\xfe\x00", b'{"step": 2}'])
def test_cutting_back_keeps_the_bytes_up_to_the_step(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, pytest.fail)
    log.cut_back(5)
    assert not path.exists()
    for step in (1, 2, 2, 3, 10):
        log.append({"step": step})
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(torn)
    log.cut_back(2)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
    log.append({"step": 3})
    assert [line["step"] for line in read_rows(path)] == [1, 2, 2, 3]
    log.cut_back(0)
    assert path.read_bytes() == b""


def test_a_full_disk_costs_one_warning_and_no_line(tmp_path: Path) -> None:
    said: list[str] = []
    log = MetricsLog(tmp_path / "metrics.jsonl", said.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for step in range(20):
            log.append({"step": step})
        log.sync()
        data = log.path.read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (0 < len(data) <= 100, data.endswith(b"}\n")) == (True, True), data
    log.append({"step": 20})
    assert (len(said), "File too large" in said[0]) == (1, True), said
    assert [line["step"] for line in read_rows(log.path)] == list(range(21))


@pytest.mark.parametrize("place", ["a folder", "nowhere", "a link"])
def test_a_place_that_cannot_be_written_never_raises(tmp_path: Path, place: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if place == "a folder":
        path.mkdir()
    if place == "nowhere":
        path = tmp_path / "missing" / "metrics.jsonl"
    if place == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    log = MetricsLog(path, said.append)
    log.append({"step": 1})
    log.append({"step": 2})
    log.close()
    assert len(said) == 1
    assert str(path) in said[0]
    assert not (tmp_path / "elsewhere").exists()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), json_values, max_size=4))
def test_strict_json_goes_there_and_back(document: dict[str, object]) -> None:
    text = strict_json.dumps(document)
    assert "\n" not in text
    assert strict_json.loads(text) == document
    assert strict_json.loads(text.encode()) == document


FOREIGN = (
    '[1, 2] | 7 | "step" | null | {} | {"loss": 1.0} | {"step": "3", "loss": 1.0} | {"step": true} | {"step": 2.0} | {"step": 1 | '
    '{"step": 2, "loss": "low"} | {"step": 2, "loss": [1]} | {"step": 2, "evaluation": [1]} | {"step": 2, "evaluation": 0.3} | '
    '{"step": 2, "evaluation": {"loss": "x"}} | {"step": 2, "samples": {}} | {"step": 2, "nonfinite": [1]} | {"step": 2, "loss": true} | '
    '{"step": 2, "loss": null, "nonfinite": {"loss": [1]}} | {"step": 2, "nonfinite": {"loss": "9"}} | {"step": 2, "step": 2}'
)


@pytest.mark.parametrize("line", [*FOREIGN.split(" | "), "[" * 100_000], ids=lambda line: line[:40])
def test_a_line_that_is_no_record_is_reported_and_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 1, "loss": 2.5}\n', '{"step": 2, "evaluation": {"loss": 1.5}}\n'
    path.write_text(f"{good[0]}{line}\n{good[1]}")
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    said: list[str] = []
    MetricsLog(path, said.append).cut_back(5)
    assert path.read_text() == "".join(good)
    assert said == [f"{path}:2: not a record of a training; 1 such line left out"]


@pytest.mark.thorough
def test_resuming_needs_no_more_memory_for_more_records(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    run = tmp_path / "run"
    pretrain(run, recipe, "checkpoint.every=4", "training.log_every=1", before=Strike(signal.SIGTERM, 6)).exits(143)
    shutil.copytree(run, tmp_path / "long")
    begin, *_, last = (run / "metrics.jsonl").read_text().splitlines()
    late = json.dumps(json.loads(last) | {"step": 11}) + "\n"
    (tmp_path / "long" / "metrics.jsonl").write_text((begin + "\n") * 40_000 + late * 20_000)
    short, long = (Process(tmp_path, ["resume", str(folder), "--threads", "1"]).wait() for folder in (run, tmp_path / "long"))
    assert short.code == long.code == 0, long.err
    assert long.peak_bytes < short.peak_bytes + 30_000_000, "60,000 records would be 100 MB"
    with (tmp_path / "long" / "metrics.jsonl").open() as file:
        assert sum(json.loads(line)["step"] <= 5 for line in file) == 40_000


@pytest.mark.parametrize("length", [0, 1, 4, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("whole", [b"", b'{"step": 1}\n'])
def test_a_torn_line_of_any_length_is_dropped(tmp_path: Path, whole: bytes, length: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(whole + (b'{"st' + b"x" * length)[:length])
    MetricsLog(path, pytest.fail).append({"step": 2})
    assert path.read_bytes() == whole + b'{"step": 2}\n'
