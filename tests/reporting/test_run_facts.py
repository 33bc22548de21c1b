"""The facts that are read of a run folder: whole, in progress, killed, damaged, huge, hostile."""

import json
import os
import shutil
from pathlib import Path

import pytest
from written_runs import write_ledger, write_run

from tfkit.reporting import metric_lines
from tfkit.reporting.metric_lines import ThinnedSeries
from tfkit.reporting.run_facts import read_facts
from tfkit.run import metrics
from tfkit.run.lock import FolderLock

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"


def test_the_facts_of_a_run_of_0_1_0() -> None:
    run = read_facts(FIXTURES / "stopped")
    assert (run.name, run.status, run.kind, run.problems) == ("stopped", "stopped", "pretrain", ())
    assert run.amounts.emissions_g == run.recorded.totals.emissions_g
    assert run.amounts.emissions_g > 0
    assert run.amounts.emissions_g == pytest.approx(sum(sums["emissions_g"] for sums in run.phases.values()))
    assert [*run.phases] == ["setup", "tokenize", "train", "evaluate", "checkpoint"]
    assert run.provenance == "CPU model, RAM constant"
    assert [int(record["step"]) for record in run.metrics.steps] == [1, 2, 3]
    assert run.recipe["training.batch_size"] == 4
    assert (run.checkpoint.parameters, run.checkpoint.document.run_id) == (2856, run.run_id)
    assert len(run.checkpoint.files["model.safetensors"]["sha256"]) == 64


def test_a_run_in_progress_or_killed_has_the_amounts_of_its_ledgers(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", status="running", totals=False)
    lock = FolderLock(path / "lock")
    lock.acquire()
    assert read_facts(path).status == "running"
    lock.release()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # being written
    run = read_facts(path)
    assert (run.status, run.amounts.emissions_g, run.amounts.seconds, run.problems) == ("killed", 3.0, 30.0, ())
    assert run.place == "FRA, 100 g/kWh (carbon.country)"
    write_ledger(path / "carbon" / "0-2.jsonl", "another run", [("train", 5.0, 50.0)], attempt=2)
    run = read_facts(path)
    assert run.amounts.emissions_g == 3.0
    assert run.problems == ("carbon: 1 of 2 ledgers have no header, or belong to another run",)


def test_a_damaged_receipt_leaves_the_rest(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "run.json").write_text("{", encoding="utf-8")
    run = read_facts(path)
    assert (run.status, run.amounts.emissions_g, len(run.metrics.steps)) == ("damaged", 3.0, 3)
    assert "run.json" in run.problems[0]
    (path / "run.json").write_text(json.dumps({"schema_version": 999}), encoding="utf-8")
    assert "later version" in read_facts(path).problems[0]


def test_a_damaged_checkpoint_and_recipe_leave_the_rest(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FIXTURES / "stopped", tmp_path / "stopped"))
    checkpoint = read_facts(run).checkpoint
    for name in ("config.json", "tfkit.json", "model.safetensors", "../../recipe.yaml"):
        path = checkpoint.path / name
        path.write_bytes(b"{".ljust(path.stat().st_size))  # a file of another size is no part of a checkpoint
    facts = read_facts(run)
    assert facts.checkpoint.parameters is None
    named = [next(name for name in ("recipe.yaml", "config.json", "tfkit.json") if name in problem) for problem in facts.problems]
    assert named == ["recipe.yaml", "config.json", "tfkit.json"]
    assert len(facts.metrics.steps) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"totals": {"seconds": "many", "emissions_g": [1], "energy_kwh": 1e400, "place": 3, "provenance": "all"}},
        {"kind": 7, "command": 7, "planned_steps": "x", "parents": "x", "predicted": [], "result": {"metrics": [1]}},
        {"kind": "stages", "stages": {"../..": {}, "a": {}}},
        {"attempts": [{"status": "running", "seconds": None, "to_step": []}]},
    ],
)
def test_fields_of_unexpected_types_raise_nothing(tmp_path: Path, fields: dict[str, object]) -> None:
    path = write_run(tmp_path / "run", ledger=False)
    document = json.loads((path / "run.json").read_text()) | fields
    (path / "run.json").write_text(json.dumps(document).replace("Infinity", "null"), encoding="utf-8")
    run = read_facts(path)
    assert all(hasattr(run, name) for name in ("place", "provenance", "phases", "parents", "is_lower_bound"))
    assert run.amounts.emissions_g in (None, 3.0)


def test_what_is_no_regular_file_blocks_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", ledger=False)
    (path / "metrics.jsonl").unlink()
    (path / "carbon").mkdir()
    for name in ("metrics.jsonl", "recipe.yaml", "carbon/0-1.jsonl"):
        os.mkfifo(path / name)
    found = read_facts(path).problems
    assert [problem.partition(":")[0] for problem in found] == ["metrics.jsonl", "carbon", "recipe.yaml"]
    (path / "run.json").unlink()
    os.mkfifo(path / "run.json")
    assert read_facts(path).status == "damaged"


def test_a_recipe_with_stages_counts_as_its_stages(tmp_path: Path) -> None:
    path = write_run(tmp_path / "chain", ledger=False, kind="stages", stages={"base": {}, "tune": {}, "later": {}})
    for name in ("base", "tune"):
        write_run(path / name, grams_a_step=5.0)
    run = read_facts(path)
    assert [member.name for member in run.members] == ["base", "tune"]
    assert run.amounts.emissions_g == 30.0
    assert run.phases["base: train"]["emissions_g"] == 15.0


def test_long_series_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path / "run", losses=[1.0] * 5000, evaluations=dict.fromkeys(range(0, 5000, 2), 1.0), ledger=False)
    monkeypatch.setattr(metric_lines, "MOST_RECORDS", 100)
    found = read_facts(path).metrics
    assert 50 < len(found.steps) <= 101
    assert (found.steps[0]["step"], found.steps[-1]["step"]) == (1, 5000)
    assert found.problems[0] == "metrics.jsonl: of 5,000 records every 64th is used"


def test_long_lines_and_samples_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x" * 3_000_000
    path = write_run(tmp_path / "run", ledger=False, more=[{"step": 3, "samples": [{"prompt": "p", "completion": text}, 7]}])
    with (path / "metrics.jsonl").open("a") as file:
        file.write("y" * 5_000_000 + "\n" + json.dumps({"step": 4, "loss": 1.5}) + "\n")
    found = read_facts(path).metrics
    (sample,) = found.samples
    assert (len(sample.completion), sample.completion_characters) == (metric_lines.MOST_CHARACTERS, len(text))
    assert [record["step"] for record in found.steps] == [1, 2, 3, 4]
    assert found.problems == ("metrics.jsonl: skipped 1 line that is not a record of a training",)
    monkeypatch.setattr(metrics, "LONGEST_LINE", 1_000_000)
    found = read_facts(path).metrics
    assert found.samples == ()
    assert found.problems == ("metrics.jsonl: skipped 2 lines that are not records of a training",)


def test_thinning_keeps_the_first_and_the_last() -> None:
    for count in range(40):
        kept = ThinnedSeries[int](5)
        for number in range(count):
            kept.add(number)
        assert kept.items[:1] == [0][:count]
        assert kept.items[-1:] == [count - 1][: bool(count)]
        assert len(kept.items) <= 6
        assert kept.items == sorted(set(kept.items))


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = shutil.copytree(FIXTURES / "stopped", tmp_path / "run")

    def state() -> dict[Path, tuple[int, int]]:
        return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")}

    before = state()
    read_facts(path)
    assert state() == before
