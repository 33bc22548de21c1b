"""tfkit verify computes the energy of a run again from its ledgers, and names each field that differs."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_codecarbon
import pytest
from tiny_files import read_rows, receipt
from tiny_runs import both, pretrain, run_here, run_tfkit, strike

METERED = "carbon={enabled: true, intensity_g_per_kwh: 1e5, every_seconds: 0.5}"


@pytest.fixture(scope="module")
def finished(base: Path) -> Path:
    """A run of two attempts, the first of which was stopped."""
    metered = both(fake_codecarbon.put_first(fake_codecarbon.write(base / "fake")), fake_codecarbon.wait_for_the_end)
    pretrain(base / "run", base / "tiny.yaml", METERED, before=both(metered, strike(15, 8))).exits(143)
    run_tfkit(base, ["resume", str(base / "run"), "--threads", "1"], metered).exits(0)
    return base / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def verified(path: Path) -> tuple[int, dict[str, Any], str]:
    done = run_here(["verify", path, "--json"])
    return done.code, done.document, done.err


def test_a_run_that_nobody_changed(run: Path) -> None:
    code, document, err = verified(run)
    assert (code, err, document["good"]) == (0, "", True)
    (audit,) = document["carbon"]
    assert (audit["good"], audit["problems"], audit["notes"]) == (True, [], [])
    assert audit["ledgers"] == {"0-1": "chained", "0-2": "chained"}
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    code, document, _ = verified(newest)
    assert (code, len(document["checkpoints"]), len(document["carbon"])) == (0, 1, 1)
    shutil.copytree(run, run.parent / "other")
    code, document, _ = verified(run.parent)
    found = [(Path(one["run"]).name, one["good"]) for one in document["carbon"]]
    assert (code, found, len(document["checkpoints"])) == (
        0,
        [("other", True), ("run", True)],
        2 * len(list((run / "checkpoints").glob("step-*"))),
    )
    assert "the energy follows from the ledgers (0-1 chained, 0-2 chained; " in run_here(["verify", run]).exits(0).out


def in_file(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def tamper(run: Path) -> None:
        path = run / name
        text = path.read_text()
        assert change(text) != text
        path.write_text(change(text))

    return tamper


def total(name: str, factor: float) -> Callable[[str], str]:
    def change(text: str) -> str:
        document = json.loads(text)
        document["totals"][name] *= factor
        return json.dumps(document)

    return change


def in_card(run: Path) -> None:
    for card in (run / "checkpoints").glob("step-*/README.md"):
        card.write_text(re.sub(r"emissions: [\d.]+", "emissions: 0.001", card.read_text()))


def larger_card(run: Path) -> None:
    """Of the first checkpoint that states its grams: one that was saved before the first reading does not."""
    card = next(one for one in sorted((run / "checkpoints").glob("step-*/README.md")) if "  emissions: " in one.read_text())
    card.write_text(re.sub(r"emissions: [\d.]+", "emissions: 1e3", card.read_text()))


def without_ledgers(run: Path) -> None:
    shutil.rmtree(run / "carbon")


def without_a_row(run: Path) -> None:
    lines = (run / "emissions.csv").read_text().splitlines(keepends=True)
    (run / "emissions.csv").write_text("".join(lines[:-1]))


def without_the_first_ledger(run: Path) -> None:
    (run / "carbon/0-1.jsonl").unlink()


def without_an_end(run: Path) -> None:
    path = run / "carbon/0-2.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def rewritten(run: Path) -> None:
    """Every number of the first attempt, with hashes that fit each other: the second one's first line still shows it."""
    from tfkit.carbon.attempt_files import Ledger

    path = run / "carbon/0-1.jsonl"
    lines = read_rows(path)
    path.unlink()
    ledger = Ledger(run / "carbon", 0, 1)
    for line in lines:
        ledger.append({name: value for name, value in line.items() if name != "previous"} | ({"energy_wh": 0.0} if "phase" in line else {}))


def with_a_headless_ledger(run: Path) -> None:
    (run / "carbon/1-9.jsonl").write_text('{"kind": "tick"}\n')


def with_a_folder_for_a_table(run: Path) -> None:
    (run / "emissions.csv").unlink()
    (run / "emissions.csv").mkdir()


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (in_file("carbon/0-1.jsonl", lambda text: text.replace('"phase"', '"place"', 1)), r"0-1\.jsonl:\d+: does not have the hash"),
        (in_file("run.json", total("energy_kwh", 0.5)), r"run\.json: totals\.energy_kwh is \S+, but \S+ according to the ledgers"),
        (
            in_file("run.json", total("emissions_g_high", 1.001)),
            r"run\.json: totals\.emissions_g_high is \S+, but \S+ according to the ledgers",
        ),
        (in_file("run.json", total("seconds", 0.9)), r"run\.json: totals\.seconds is \S+, but \S+ according to the ledgers"),
        (in_file("emissions.csv", lambda text: text.replace(",N,", ",Y,", 1)), "emissions.csv: on_cloud of"),
        (without_a_row, r"emissions\.csv: lacks the row"),
        (in_card, r"step-000012/README\.md: co2_eq_emissions\.emissions is 0\.001 g, but \S+ g according to the ledgers"),
        (larger_card, r"README\.md: co2_eq_emissions\.emissions is 1000\.0 g, but \S+ g (for the whole run )?according to the ledgers"),
        (without_ledgers, r"carbon: has no ledger of this run, and \S+run\.json has totals\.energy_kwh"),
        (without_the_first_ledger, r"0-2\.jsonl:1: refers to a line that no other ledger has"),
        (without_an_end, r"emissions\.csv: (\w+ of the row|has a row \S+ that is in no ledger)"),  # the last line may be a phase of its own
        (with_a_headless_ledger, r"1-9\.jsonl:1: has no header, so its energy is not counted"),
        (with_a_folder_for_a_table, r"emissions\.csv: cannot be read \(.*; the next start of the run derives it from the ledgers"),
        (rewritten, r"0-2\.jsonl:1: refers to a line that no other ledger has"),
    ],
)
def test_a_change_is_named(run: Path, tamper: Callable[[Path], None], problem: str) -> None:
    tamper(run)
    code, document, err = verified(run)
    (audit,) = document["carbon"]
    assert (code, document["good"], audit["good"]) == (4, False, False)
    assert any(re.search(problem, line) for line in audit["problems"]), audit["problems"]
    assert re.search(problem, err) or "(and more)" in err
    assert all(found["verdict"] == "good" for found in document["checkpoints"])


def test_a_run_that_was_killed_may_lag_behind_its_ledgers(run: Path) -> None:
    document = receipt(run) | {"status": "running"}
    document["totals"]["energy_kwh"] *= 0.5
    (run / "run.json").write_text(json.dumps(document))
    code, found, _ = verified(run)
    assert (code, found["carbon"][0]["notes"]) == (
        0,
        [f"{run}: is in progress or was killed; its totals may lack the latest readings of the ledgers"],
    )
    document["totals"]["energy_kwh"] *= 3
    (run / "run.json").write_text(json.dumps(document))
    code, found, _ = verified(run)
    assert code == 4
    assert "totals.energy_kwh" in found["carbon"][0]["problems"][0]


def test_a_run_json_that_cannot_be_read_is_not_compared(run: Path) -> None:
    (run / "run.json").write_text("{")
    code, document, _ = verified(run)
    (audit,) = document["carbon"]
    assert (code, audit["problems"]) == (0, [])
    assert [note.partition(" (")[0] for note in audit["notes"]] == [f"{run / 'run.json'}: not compared"]


SCRIPT = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_script_of_the_page_gives_the_same_totals(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/carbon.md").read_text(encoding="utf-8")
    script = SCRIPT.search(page)
    assert len(script[1].splitlines()) <= 20
    monkeypatch.chdir(run)
    exec(script[1], {})
    totals = receipt(run)["totals"]
    with (run / "emissions.csv").open(newline="") as file:
        rows = [float(row["energy_consumed"]) for row in csv.DictReader(file)]
    energy, emissions, seconds = map(float, capsys.readouterr().out.split())
    assert energy == pytest.approx(totals["energy_kwh"], rel=1e-12)
    assert energy == pytest.approx(sum(rows), rel=1e-12)
    assert emissions == pytest.approx(totals["emissions_g"], rel=1e-12)
    assert seconds == pytest.approx(totals["seconds"], abs=2e-3)
