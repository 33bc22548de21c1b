"""benchmarks/preference_folds.py: prompts stay whole, means count rows, and the script itself on a tiny model."""

import sys
from pathlib import Path

import measured_runs
import preference_folds
import pytest
from preference_folds import split, table
from tiny_files import write_rows
from tiny_runs import pretrain, write_corpus, write_recipe

from tfkit.data.columns.rows import Row

RECIPE = """
# Pairs, for a test.
model: {from: base}
data: {train: [{path: pairs.jsonl}], validation: 0.2}
objective: {kind: reward}
training: {steps: 2, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""


def test_all_rows_of_a_prompt_are_in_one_fold() -> None:
    rows = [Row(f"{n}", f"rows:{n}", key=f"{n}", input_key=f"prompt {n % 20}") for n in range(60)]
    parts = split([*rows, Row("alone", "rows:61", key="alone")], 3)
    assert sorted(row.place for part in parts for row in part) == sorted([*(row.place for row in rows), "rows:61"])
    prompts = [{row.input_key for row in part} for part in parts]
    assert sum(map(len, prompts)) == 21
    assert all(prompts)


def test_the_table_has_means_by_rows_and_their_deviation_over_seeds() -> None:
    def fold(rows: int, accuracy: float) -> tuple[int, dict[str, dict[str, float]]]:
        return rows, {"model": {"accuracy": accuracy, "margin": 1.0}, "length": {"accuracy": 0.5}}

    lines = table([[fold(1, 0.6), fold(3, 0.8)], [fold(1, 0.8), fold(3, 0.8)]]).splitlines()
    assert lines[0] == "| | accuracy | margin |"
    assert lines[2:] == ["| model | 0.775 ± 0.035 | 1.000 ± 0.000 |", "| length | 0.500 |  |"]


def test_the_script_judges_each_pair_once_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(tmp_path / "base", write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), "training.steps=2").code == 0
    rows = [{"prompt": f"the {number} cats", "chosen": " sat", "rejected": " ran away"} for number in range(24)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "pairs.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured_runs, "new_process", measured_runs.forked_process)
    monkeypatch.setattr(sys, "argv", ["preference_folds.py", "pairs.yaml", "--folds", "2", "--seeds", "1", "training.seed=1"])
    preference_folds.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["model", "length", "bag_of_words"]
    held_out = [(tmp_path / "runs" / "folds" / f"held-out-{number}.jsonl").read_text().splitlines() for number in (0, 1)]
    assert len({*held_out[0], *held_out[1]}) == 24
    preference_folds.main()  # every run is finished
    assert capsys.readouterr().out.splitlines() == lines
