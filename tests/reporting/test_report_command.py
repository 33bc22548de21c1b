"""tfkit report on the terminal and as data: runs in every state, counted once, in sums that agree with their ledgers."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_runs import run_here
from written_runs import write_run

from tfkit.reporting.run_set import open_runs
from tfkit.reporting.terminal_report import terminal_report, text_curve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs in every state: 1 + 2 + 4 + 8 + 16 + 32 g for each of their three steps, and what is none."""
    folder = tmp_path / "runs"
    names = ("finished", "stopped", "failed", "killed", "damaged", "deep/er/finished")
    for index, name in enumerate(names):
        status = {"killed": "running", "damaged": "finished"}.get(name, name.rpartition("/")[2])
        best = {"finished": (3, "loss", 2.5), "deep/er/finished": (3, "loss", 2.25)}.get(name)
        facts = {"status": status, "grams_a_step": 2.0**index, "totals": name != "killed", "run_id": f"id-{index}", "best": best}
        write_run(folder / name, **facts)
    (folder / "damaged" / "run.json").write_text("{", encoding="utf-8")
    served = {"metrics": {"loss": 2.5}, "checkpoint": str(folder / "finished/checkpoints/step-000003")}
    write_run(folder / "scored", grams_a_step=64.0, kind="evaluate", result=served)
    (folder / "notes").mkdir()
    os.symlink(folder / "finished", folder / "link")
    return folder


def report(*words: object) -> str:
    return run_here(["report", *words]).exits(0).out


def documents(*words: object) -> Any:
    return json.loads(report(*words, "--json"))


def test_every_run_is_counted_once(folder: Path) -> None:
    document = documents(folder, folder / "stopped")
    found = {one["run"]: (one["status"], one["emissions_g"]) for one in document["runs"]}
    assert found == {
        "runs/finished": ("finished", 3.0),
        "stopped": ("stopped", 6.0),
        "failed": ("failed", 12.0),
        "killed": ("killed", 24.0),
        "damaged": ("damaged", 48.0),
        "er/finished": ("finished", 96.0),
        "scored": ("finished", 192.0),
    }
    totals = document["totals"]
    assert totals["emissions_g"] == sum(grams for _, grams in found.values()) == 381.0
    assert totals["energy_kwh"] == pytest.approx(3.81)
    assert totals["by_status"]["finished"]["runs"] == 3
    assert totals["best"] == {"run": "er/finished", "emissions_g": 96.0}
    assert totals["selection_factor"] == 381.0 / 96.0
    assert [one["served"] for one in document["runs"] if one["served"]] == ["runs/finished"]
    (linked,) = documents(folder / "link", folder / "finished")["runs"]
    assert (linked["run"], linked["status"], linked["emissions_g"]) == ("finished", "finished", 3.0), "a link that is named"
    text = report(folder)
    assert "all runs: 3.8 kWh, 381 g CO2e (1 damaged 48 g, 1 failed 12 g, 3 finished 291 g, 1 killed 24 g, 1 stopped 6 g)" in text
    assert "best run: er/finished, loss 2.25: 96 g; all runs emitted 3.97 times as much" in text
    assert "damaged: run.json: " in text
    unmeasured = write_run(folder / "unmeasured", evaluations={3: 9.0}, ledger=False, totals=False)
    assert "g; all runs emitted at least 3.97 times as much" in report(folder)
    shutil.rmtree(unmeasured)
    shutil.copytree(folder / "killed", folder / "copy")
    (note,) = [one for one in documents(folder)["problems"] if "killed" in one]
    assert note == "killed: is a copy of copy (they have one run id), and the sums count both; leave one of them out"


def test_csv_has_a_line_for_each_run(folder: Path) -> None:
    (folder / "stopped").rename(folder / "=cmd()")
    rows = list(csv.DictReader(io.StringIO(report(folder, "--format", "csv"))))
    assert [float(row["emissions_g"]) for row in rows] == [6.0, 48.0, 96.0, 12.0, 3.0, 24.0, 192.0]
    assert rows[0]["run"] == "'=cmd()"
    assert (rows[2]["metric"], rows[2]["score"]) == ("loss", "2.25")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.sampled_from([*"=+-@\t\r\n＝＋－＠a", "-7", "-1.5", "-1.5.", "-1\n"]), st.text("=-+@1.a \t", max_size=4)).map("".join))
def test_no_cell_of_the_csv_begins_like_a_formula(tmp_path: Path, name: str) -> None:
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    write_run(tmp_path / "runs" / name)
    write_run(tmp_path / "runs" / "other")
    text = report(tmp_path / "runs", "--format", "csv")
    assert "\r\n" not in text
    cells = {row["run"] for row in csv.DictReader(io.StringIO(text, newline=""))}
    is_harmless = name[0] not in "=+-@\t\r\n＝＋－＠" or re.fullmatch(r"-[0-9]+(\.[0-9]+)?", name)
    assert cells == {"other", name if is_harmless else f"'{name}"}


def test_places_hosts_and_commands_are_left_out_unless_asked(folder: Path) -> None:
    words = [folder / "failed", "--format", "json"]
    text = report(*words)
    assert not [secret for secret in ("secret-host", "/home/ada", str(folder)) if secret in text]
    document = json.loads(report(*words, "--full"))["runs"][0]
    assert (document["hosts"], document["run"]) == (["secret-host"], str(folder / "failed"))
    assert document["command"][2] == "/home/ada/secret.yaml"


def test_one_run_in_detail_with_its_curve(tmp_path: Path) -> None:
    planned: dict[str, Any] = {"seconds": {"low": 20, "likely": 40, "high": 80}, "energy_kwh": None}
    planned |= {"emissions_g": {"low": 2.0, "likely": 4.0, "high": 8.0}}
    parents = [{"role": "start", "path": "/home/ada/base", "run_id": "b", "sha256": "00"}]
    path = write_run(tmp_path / "run", evaluations={1: 3.5, 3: 2.5}, setup_g=1.0, predicted=planned, parents=parents)
    text = report(path)
    lines = text.splitlines()
    assert lines[0] == "run        run: pretrain, finished"
    assert {*lines} >= {
        "CO2e       4 g (FRA, 100 g/kWh (carbon.country))",
        "energy     40 Wh (CPU model, RAM constant)",
        "phases     setup 0:01 1 g, train 0:29 3 g",
        "inherited  unknown, of base",
        "forecast   0:40 (0:20 to 1:20), measured 0:30; 4 g (2 g to 8 g), measured 4 g",
    }
    assert sum("o" in line.partition("|")[2] for line in lines) == 2
    assert text.isascii()
    assert not [line for line in lines if line.startswith("rework")]  # no attempt was lost
    path = write_run(tmp_path / "stopped", status="stopped", predicted=planned)
    assert "measured 0:30 so far; 4 g (2 g to 8 g), measured 3 g so far" in report(path)
    path = write_run(tmp_path / "partly", predicted=planned, ledger=False, carbon_status="degraded")
    assert "measured 0:30; 4 g (2 g to 8 g), measured at least 3 g" in report(path)


def test_inherited_costs_are_found_among_the_runs(tmp_path: Path) -> None:
    """A diamond: both parents were trained from one base, which counts once."""
    write_run(tmp_path / "base", run_id="base", grams_a_step=100.0)
    parent = {"role": "start", "path": "x", "run_id": "base", "sha256": "0"}
    for name in ("left", "right"):
        write_run(tmp_path / name, run_id=name, grams_a_step=10.0, kind="fine-tuning", parents=[parent])
    parents = [{**parent, "run_id": name} for name in ("left", "right")]
    write_run(tmp_path / "child", run_id="child", parents=parents)
    document = documents(tmp_path)
    found = {one["run"]: (one["inherited_g"], one["inherited_is_lower_bound"]) for one in document["runs"]}
    assert found == {"base": (None, False), "left": (300.0, False), "right": (300.0, False), "child": (360.0, False)}
    shutil.rmtree(tmp_path / "base")
    document = documents(tmp_path / "child", tmp_path / "left")
    assert [(one["inherited_g"], one["inherited_is_lower_bound"]) for one in document["runs"]] == [(30.0, True), (None, True)]


def test_bad_words_end_with_2(folder: Path) -> None:
    (write_run(folder.parent / "bad" / "run", ledger=False) / "run.json").write_text("{", encoding="utf-8")
    for words, part in {
        (folder / "nowhere",): "no such folder",
        (folder / "notes",): "no runs",
        (folder.parent / "bad",): "no run that can be read",
        (folder, "--format", "pdf"): "give one of json, csv, card",
        (folder, "--format", "csv", "--json"): "exclude each other",
    }.items():
        run_here(["report", *words]).exits(2, part)


def test_names_that_would_steer_a_terminal_are_shown_as_codes(tmp_path: Path) -> None:
    write_run(tmp_path / "a\x1b[2Jb\u202ec", evaluations={3: 1.0}, status="fin\x1bished")
    text = report(tmp_path)
    assert not {"\x1b", "\u202e"} & {*text}
    assert "a\\x1b[2Jb\\u202ec" in text


@pytest.mark.parametrize("columns", [20, 40, 120, 200])
def test_lines_fit_narrow_terminals(folder: Path, columns: int) -> None:
    """As blocks where the table is too wide. The curve fits, too; single facts may wrap."""
    runs = open_runs([folder])
    table = terminal_report(runs, columns)
    is_table = table[0].startswith("run ")
    assert is_table == (columns >= 120)
    assert all(len(line) <= columns for line in table[: 1 + len(runs.entries)]) or not is_table
    curve = text_curve({"*": [(1, 5.123), (1000, 3.0), (500, float("nan"))]}, columns)
    assert curve
    assert all(len(line) <= columns for line in curve)
    assert text_curve({"*": [(1, 2.0)]}, columns) == []
