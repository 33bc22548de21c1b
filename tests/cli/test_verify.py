"""tfkit verify says of each checkpoint whether it is good, which files are not, and what else lies there; it changes nothing."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_codecarbon
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_files import emissions_rows, flip, read_json, read_rows, receipt
from tiny_runs import Program, both, pretrain, run_here, run_tfkit, strike

from tfkit.carbon.attempt_files import Ledger
from tfkit.run.best_json import record_best
from tfkit.run.checkpoints import newest_good, save_checkpoint


def write(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "README.md").write_text("a card")
    save_file({"w": np.arange(300.0)}, folder / "model.safetensors")
    (folder / "training_state").mkdir()
    (folder / "training_state" / "state.json").write_text('{"step": 1}')


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (2, 4):
        save_checkpoint(tmp_path / "checkpoints", step, write)
    return tmp_path


def verified(path: Path) -> tuple[int, dict[str, Any], str]:
    """The exit code, the document and what went to stderr; the folder is as it was."""
    before = sorted(path.rglob("*"))
    done = run_here(["verify", path, "--json"])
    assert sorted(path.rglob("*")) == before
    assert done.document.get("error", {"code": 0})["code"] == done.code
    return done.code, done.document, done.err


def test_good_ones(run: Path) -> None:
    (run / "checkpoints" / "step-000002" / "README.md").write_text("another card")
    code, document, err = verified(run)
    assert (code, err) == (0, "")
    assert (document["schema_version"], document["path"], document["good"], document["notes"]) == (1, str(run), True, [])
    for found, name in zip(document["checkpoints"], ("step-000002", "step-000004"), strict=True):
        folder = run / "checkpoints" / name
        size = sum((folder / file).stat().st_size for file in ("config.json", "model.safetensors", "training_state/state.json"))
        assert found == {"path": str(folder), "verdict": "good", "files": 3, "bytes": size, "problems": [], "extra": []}


def test_a_damaged_file_is_named(run: Path) -> None:
    """tests/run/test_manifest.py has every damage of every file."""
    file = run / "checkpoints" / "step-000004" / "model.safetensors"
    flip(file)
    code, document, err = verified(run)
    assert (code, err.startswith(f"1 of 2 checkpoints did not pass: {file}: ")) == (4, True)
    assert [found["verdict"] for found in document["checkpoints"]] == ["good", "damaged"]
    assert document["checkpoints"][1]["problems"][0].startswith(f"{file}: ")
    assert verified(run / "checkpoints" / "step-000002")[0] == 0
    good, damaged, which = run_here(["verify", run]).exits(4).out.splitlines()  # in words
    assert good.endswith("step-000002: good (3 files, 2,505 bytes)")
    assert damaged.startswith(f"{file.parent}: damaged (")
    assert which == f"  {file}: damaged: its SHA-256 is not the manifest's"


@pytest.mark.parametrize("damage", ["missing", "another version"])
def test_without_a_valid_manifest_it_is_incomplete(run: Path, damage: str) -> None:
    manifest = run / "checkpoints" / "step-000004" / "manifest.json"
    if damage == "missing":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(read_json(manifest) | {"schema_version": 2}))
    code, document, err = verified(manifest.parent)
    assert (code, str(manifest) in err, document["checkpoints"][0]["verdict"]) == (4, True, "incomplete")


def test_a_folder_of_others_has_nothing_to_check_against(run: Path) -> None:
    """Its headers are looked at all the same."""
    write(run / "checkpoints")
    (run / "checkpoints" / "generation_config.json").write_text("{")
    os.truncate(run / "checkpoints" / "model.safetensors", 300)
    code, document, err = verified(run / "checkpoints")
    assert (code, "there is nothing to check its files against" in err) == (4, True)
    _, config, weights = document["checkpoints"][0]["problems"]
    assert "generation_config.json:1:2: not JSON" in config
    assert str(run / "checkpoints" / "model.safetensors") in weights


def test_other_files_are_reported(run: Path) -> None:
    root = run / "checkpoints"
    save_checkpoint(root, 6, write)
    flip(root / "step-000006" / "model.safetensors")
    assert newest_good(root, lambda message: None) == root / "step-000004"
    (root / ".step-000008.tmp-1-ab").mkdir()
    (root / "best.json").write_text('{"step": 6, "metric": "loss", "value": 1.0}')
    (root / "step-000002" / "training_state" / "notes.txt").touch()
    code, document, _ = verified(run)
    assert code == 0, "none of it makes a checkpoint worse"
    assert [found["extra"] for found in document["checkpoints"]] == [["training_state/notes.txt"], []]
    aside, leftover, best = document["notes"]
    assert "step-000006.damaged: was damaged" in aside
    assert ".step-000008.tmp-1-ab: left by a save that was killed" in leftover
    assert "best.json: names step 6, which is not complete here" in best
    assert record_best(root, 4, "loss", 2.0)
    assert len(verified(run)[1]["notes"]) == 2


def test_damage_is_reported_by_the_code_where_nobody_reads(run: Path) -> None:
    flip(run / "checkpoints" / "step-000002" / "config.json")
    with Program(["verify", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        program.stdout.close()
        assert "1 of 2 checkpoints did not pass" in program.stderr.read()
        assert program.wait() == 4


@pytest.mark.parametrize("path", ["nowhere", "file", "hub:org/name", "run"])
def test_no_checkpoint(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    done = run_here(["verify", path if ":" in path else str(tmp_path / path)]).exits(4)
    assert (done.out, done.err.count("\n")) == ("", 1)


# -- the energy of a run is computed again from its ledgers, and each field that differs is named

METERED = "carbon={enabled: true, intensity_g_per_kwh: 1e5, every_seconds: 0.5}"


@pytest.fixture(scope="module")
def finished(base: Path) -> Path:
    """A run of two attempts, the first of which was stopped."""
    metered = both(fake_codecarbon.put_first(fake_codecarbon.write(base / "fake")), fake_codecarbon.wait_for_the_end)
    pretrain(base / "run", base / "tiny.yaml", METERED, before=both(metered, strike(15, 8))).exits(143)
    run_tfkit(base, ["resume", str(base / "run"), "--threads", "1"], metered).exits(0)
    return base / "run"


@pytest.fixture
def metered(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_that_nobody_changed(metered: Path) -> None:
    code, document, err = verified(metered)
    assert (code, err, document["good"]) == (0, "", True)
    (audit,) = document["carbon"]
    assert (audit["good"], audit["problems"], audit["notes"]) == (True, [], [])
    assert audit["ledgers"] == {"0-1": "chained", "0-2": "chained"}
    newest = sorted((metered / "checkpoints").glob("step-*"))[-1]
    code, document, _ = verified(newest)
    assert (code, len(document["checkpoints"]), len(document["carbon"])) == (0, 1, 1)
    shutil.copytree(metered, metered.parent / "other")
    code, document, _ = verified(metered.parent)
    assert (code, len(document["checkpoints"])) == (0, 2 * len(list((metered / "checkpoints").glob("step-*"))))
    assert [(Path(one["run"]).name, one["good"]) for one in document["carbon"]] == [("other", True), ("run", True)]
    assert "the energy follows from the ledgers (0-1 chained, 0-2 chained; " in run_here(["verify", metered]).exits(0).out


def in_file(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def tamper(metered: Path) -> None:
        path = metered / name
        text = path.read_text()
        assert change(text) != text
        path.write_text(change(text))

    return tamper


def total(name: str, factor: float) -> Callable[[Path], None]:
    def change(text: str) -> str:
        document = json.loads(text)
        document["totals"][name] *= factor
        return json.dumps(document)

    return in_file("run.json", change)


def without_the_last_line(name: str) -> Callable[[Path], None]:
    return in_file(name, lambda text: "".join(text.splitlines(keepends=True)[:-1]))


def in_card(metered: Path) -> None:
    for card in (metered / "checkpoints").glob("step-*/README.md"):
        card.write_text(re.sub(r"emissions: [\d.]+", "emissions: 0.001", card.read_text()))


def larger_card(metered: Path) -> None:
    """Of the first checkpoint that states its grams: one that was saved before the first reading does not."""
    card = next(one for one in sorted((metered / "checkpoints").glob("step-*/README.md")) if "  emissions: " in one.read_text())
    card.write_text(re.sub(r"emissions: [\d.]+", "emissions: 1e3", card.read_text()))


def rewritten(metered: Path) -> None:
    """Every number of the first attempt, with hashes that fit each other: the second one's first line still shows it."""
    path = metered / "carbon/0-1.jsonl"
    lines = read_rows(path)
    path.unlink()
    ledger = Ledger(metered / "carbon", 0, 1)
    for line in lines:
        ledger.append({name: value for name, value in line.items() if name != "previous"} | ({"energy_wh": 0.0} if "phase" in line else {}))


def with_a_folder_for_a_table(metered: Path) -> None:
    (metered / "emissions.csv").unlink()
    (metered / "emissions.csv").mkdir()


DIFFERS = r"run\.json: totals\.{} is \S+, but \S+ according to the ledgers"


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (in_file("carbon/0-1.jsonl", lambda text: text.replace('"phase"', '"place"', 1)), r"0-1\.jsonl:\d+: does not have the hash"),
        *(
            (total(name, factor), DIFFERS.format(name))
            for name, factor in (("energy_kwh", 0.5), ("emissions_g_high", 1.001), ("seconds", 0.9))
        ),
        (in_file("emissions.csv", lambda text: text.replace(",N,", ",Y,", 1)), "emissions.csv: on_cloud of"),
        (without_the_last_line("emissions.csv"), r"emissions\.csv: lacks the row"),
        (in_card, r"step-000012/README\.md: co2_eq_emissions\.emissions is 0\.001 g, but \S+ g according to the ledgers"),
        (larger_card, r"README\.md: co2_eq_emissions\.emissions is 1000\.0 g, but \S+ g (for the whole run )?according to the ledgers"),
        (lambda metered: shutil.rmtree(metered / "carbon"), r"carbon: has no ledger of this run, and \S+run\.json has totals\.energy_kwh"),
        (lambda metered: (metered / "carbon/0-1.jsonl").unlink(), r"0-2\.jsonl:1: refers to a line that no other ledger has"),
        # the last line may be a phase of its own
        (without_the_last_line("carbon/0-2.jsonl"), r"emissions\.csv: (\w+ of the row|has a row \S+ that is in no ledger)"),
        (
            lambda metered: (metered / "carbon/1-9.jsonl").write_text('{"kind": "tick"}\n'),
            r"1-9\.jsonl:1: has no header, so its energy is not counted",
        ),
        (with_a_folder_for_a_table, r"emissions\.csv: cannot be read \(.*; the next start of the run derives it from the ledgers"),
        (rewritten, r"0-2\.jsonl:1: refers to a line that no other ledger has"),
    ],
)
def test_a_change_is_named(metered: Path, tamper: Callable[[Path], None], problem: str) -> None:
    tamper(metered)
    code, document, err = verified(metered)
    (audit,) = document["carbon"]
    assert (code, document["good"], audit["good"]) == (4, False, False)
    assert any(re.search(problem, line) for line in audit["problems"]), audit["problems"]
    assert re.search(problem, err) or "(and more)" in err
    assert all(found["verdict"] == "good" for found in document["checkpoints"])


def test_a_run_that_was_killed_may_lag_behind_its_ledgers(metered: Path) -> None:
    document = receipt(metered) | {"status": "running"}
    document["totals"]["energy_kwh"] *= 0.5
    (metered / "run.json").write_text(json.dumps(document))
    code, found, _ = verified(metered)
    note = f"{metered}: is in progress or was killed; its totals may lack the latest readings of the ledgers"
    assert (code, found["carbon"][0]["notes"]) == (0, [note])
    document["totals"]["energy_kwh"] *= 3
    (metered / "run.json").write_text(json.dumps(document))
    code, found, _ = verified(metered)
    assert (code, "totals.energy_kwh" in found["carbon"][0]["problems"][0]) == (4, True)


def test_a_run_json_that_cannot_be_read_is_not_compared(metered: Path) -> None:
    (metered / "run.json").write_text("{")
    code, document, _ = verified(metered)
    (audit,) = document["carbon"]
    assert (code, audit["problems"]) == (0, [])
    assert [note.partition(" (")[0] for note in audit["notes"]] == [f"{metered / 'run.json'}: not compared"]


def test_the_pages_script_gives_the_same_totals(metered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/carbon.md").read_text(encoding="utf-8")
    script = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert len(script.splitlines()) <= 20
    monkeypatch.chdir(metered)
    exec(script, {})
    totals, rows = receipt(metered)["totals"], [float(row["energy_consumed"]) for row in emissions_rows(metered)]
    energy, emissions, seconds = map(float, capsys.readouterr().out.split())
    assert pytest.approx(totals["energy_kwh"], rel=1e-12) == energy == pytest.approx(sum(rows), rel=1e-12)
    assert emissions == pytest.approx(totals["emissions_g"], rel=1e-12)
    assert seconds == pytest.approx(totals["seconds"], abs=2e-3)
