"""benchmarks/distillation.py: what it concludes and measures; and the script itself, on tiny models."""

import itertools
from pathlib import Path

import distillation
import pytest
from distillation import ALONE, TAUGHT, TEACHER, Model
from measured_runs import Cost
from tiny_tasks import script, write_task

COST = Cost(10, 0.001, 0.5)
MODELS = {
    TEACHER: Model([0.8, 0.9], 1000, None),
    TAUGHT: Model([0.8, 0.84], 500, COST, 1.8),
    ALONE: Model([0.7, 0.72], 500, COST, 1.8),
}


def test_the_table_has_what_each_keeps_of_the_lead_over_the_majority() -> None:
    _, _, teacher, taught, alone, *_ = distillation.table(MODELS, 0.5).splitlines()
    assert teacher == "| teacher | 1,000 | 0.850 ± 0.071 | 100% | 1 | - | - | - |"
    assert taught == "| student with its teacher | 500 | 0.820 ± 0.028 | 91% | 1.80 | 10 | 0.001 | 0.5 |"
    assert "| 60% |" in alone


def test_the_conclusion_says_what_does_not_hold() -> None:
    assert distillation.conclusion(MODELS, 0.5).count(": yes") == 3
    text = distillation.conclusion(MODELS | {TAUGHT: Model([0.7], 500, COST, 0.9)}, 0.5)
    assert text.count(": NO") == 3
    assert "keeps 57% of the teacher's lead over the majority with 50% of its parameters: NO" in text
    assert "is -0.010 beside the same student without a teacher" in text
    assert "reads 0.90 times as fast: NO" in text
    assert "nothing to keep" in distillation.conclusion(MODELS, 0.9)


def test_the_ratio_of_two_is_that_of_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate(itertools.cycle([0.5, 5.0, 2.0]))  # between rounds, of the first, of the second
    monkeypatch.setattr(distillation.time, "perf_counter", lambda: next(clock))
    assert distillation.median_ratio(lambda: None, lambda: None, 5) == 2.5


STUDENT = """# A tiny student.
model: {preset: distilbert-base, encoder_layers: 1, dim: 8, num_heads: 2, hidden_dim: 16, context_length: 16}
tokenizer: {path: runs/bert}
data: {train: [{path: TEXT}]}
objective: {kind: distillation, teacher: runs/bert, of: {kind: masked_lm}, temperature: 2}
training: {steps: 2, batch_size: 4, precision: fp32}
"""


@pytest.mark.slow  # some ten processes of tfkit
def test_the_script_trains_compares_and_reuses_what_is_finished(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "student.yaml").write_text(STUDENT.replace("TEXT", str(tmp_path / "text.txt")), encoding="utf-8")
    assert script(tmp_path, "-m", "tfkit", "pretrain", "bert.yaml", "--run", "runs/bert", "--threads", "1").returncode == 0
    words = [distillation.__file__, "--teacher", "runs/bert", "--student", "student.yaml", "--task", "task.yaml", "--seeds", "1"]
    words += ["--threads", "1", "--rounds", "3", "--out", "page.md", "--set", "carbon.enabled=false"]
    done = script(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| teacher", "| student"))]
    parameters = [int(row[1].replace(",", "")) for row in rows]
    assert len(rows) == 3
    assert parameters[1] == parameters[2] < 0.6 * parameters[0]
    recipes = [path.read_text(encoding="utf-8") for path in tmp_path.glob("runs/distillation/student*/recipe.yaml")]
    assert sorted(recipe.count("kind: distillation") for recipe in recipes) == [0, 1]
    again = script(tmp_path, *words)
    assert (again.returncode, "finetune" in again.stderr) == (0, False)  # only the students' results are asked for again
